//! Key names: keyed hashes, so that Redis holds no URLs, cookies or users in clear text.
//!
//! The hash is SipHash-2-4 with 128 bits under the fleet's secret, the same on every node and in every version. Unless
//! a secret is configured, the first node draws one and stores it in Redis for the others; a node that reconnects to a
//! Redis without it stores its own again.

use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};

use redis::cmd;
use siphasher::sip128::{Hasher128, SipHasher24};

use super::connect::Conn;
use crate::base::error::Error;
use crate::resilience::guard::Fault;

/// Expiry of untouched keys, in seconds: thirty days.
pub(super) const KEY_EXPIRY_SECONDS: u64 = 30 * 86_400;

/// Expiry of the secret, in seconds: ten years. A node connected for longer than that would use other names than a new
/// one.
const SECRET_EXPIRY_SECONDS: u64 = 3_650 * 86_400;

/// Derives key names under one secret.
#[derive(Clone)]
pub(super) struct KeyNames {
    secret: String,
    /// Hasher keyed with the secret, without input.
    hasher: SipHasher24,
}

impl KeyNames {
    pub(super) fn under(secret: &[u8]) -> Self {
        let mut first = SipHasher24::new_with_keys(0x746f_6c6c, 0x6761_7465);
        first.write(secret);
        let keys = first.finish128();
        Self { secret: hex(secret), hasher: SipHasher24::new_with_keys(keys.h1, keys.h2) }
    }

    /// Returns the name for `bytes`, as 32 hexadecimal digits.
    pub(super) fn of(&self, bytes: &[u8]) -> String {
        let mut hasher = self.hasher;
        hasher.write(bytes);
        let hash = hasher.finish128();
        format!("{:016x}{:016x}", hash.h1, hash.h2)
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    /// Agrees on the fleet's secret: the one in Redis, else `known` or a new one, which is stored there.
    pub(super) async fn agree(connection: &mut Conn, name: &str, known: Option<&Self>) -> Result<Self, Fault> {
        let own = known.map_or_else(draw_secret, |known| known.secret.clone());
        let mut propose = cmd("SET");
        propose.arg(name).arg(&own).arg("NX").arg("EX").arg(SECRET_EXPIRY_SECONDS);
        connection.query::<Option<String>>(&propose).await?;
        let agreed: Option<String> = connection.query(cmd("GET").arg(name)).await?;
        connection.query::<i64>(cmd("EXPIRE").arg(name).arg(SECRET_EXPIRY_SECONDS)).await?;
        let agreed = agreed.unwrap_or(own);
        if !has_valid_checksum(&agreed) {
            // Names derived from it would match no other node's.
            return Err(Fault::Lost(Error::store(
                "redis: the fleet secret is corrupt; delete it to draw another",
                "checksum mismatch",
            )));
        }
        Ok(match known {
            Some(known) if known.secret == agreed => known.clone(),
            _ => Self { secret: agreed.clone(), ..Self::under(agreed.as_bytes()) },
        })
    }
}

/// Draws 128 random bits from the operating system, and adds a checksum.
fn draw_secret() -> String {
    let secret = format!("{:016x}{:016x}", random(), random());
    format!("{secret}{:08x}", crc32fast::hash(secret.as_bytes()))
}

/// Whether the checksum of a drawn secret is correct.
fn has_valid_checksum(secret: &str) -> bool {
    secret
        .split_at_checked(32)
        .is_some_and(|(secret, checksum)| *checksum == format!("{:08x}", crc32fast::hash(secret.as_bytes())))
}

/// Returns a random number.
pub(super) fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u8(0);
    hasher.finish()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_opaque() {
        let names = KeyNames::under(b"the same on every node");
        assert_eq!(names.of(b"session=abc"), KeyNames::under(b"the same on every node").of(b"session=abc"));
        assert_ne!(names.of(b"session=abc"), names.of(b"session=abd"));
        assert_ne!(names.of(b"session=abc"), KeyNames::under(b"another secret").of(b"session=abc"));
        assert_eq!(names.of(b"session=abc"), "a1ae836507d4ea700c76ed9486f30068");
    }

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random(), random());
        assert!(has_valid_checksum(&draw_secret()));
        assert!(
            !has_valid_checksum(&draw_secret().replace(|digit: char| digit > '7', "7"))
                && !has_valid_checksum("hunter2")
        );
    }
}
