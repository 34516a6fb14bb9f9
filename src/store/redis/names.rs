//! What keys are called in Redis: a keyed hash, so that neither URLs, nor cookies, nor users can be read there.
//!
//! The hash is SipHash-2-4 of 128 bits under the fleet's secret, the same on every node and in every version. Unless a
//! secret is configured, the first node draws one and leaves it in Redis for the others; a node that comes back to a
//! Redis which has lost it brings its own along.

use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};

use redis::cmd;
use siphasher::sip128::{Hasher128, SipHasher24};

use super::connect::Conn;
use crate::base::error::Error;
use crate::resilience::guard::Fault;

/// Keys that nobody touches are gone after so many seconds: thirty days.
pub(super) const LASTING: u64 = 30 * 86_400;

/// The secret, after ten years: a node that stays connected for longer than it lasts would call keys otherwise than one
/// that comes.
const SECRET_LASTS: u64 = 3_650 * 86_400;

/// Names keys under one secret.
#[derive(Clone)]
pub(super) struct KeyNames {
    secret: String,
    /// Keyed with the secret, nothing written.
    hasher: SipHasher24,
}

impl KeyNames {
    pub(super) fn under(secret: &[u8]) -> Self {
        let mut first = SipHasher24::new_with_keys(0x746f_6c6c, 0x6761_7465);
        first.write(secret);
        let keys = first.finish128();
        Self { secret: hex(secret), hasher: SipHasher24::new_with_keys(keys.h1, keys.h2) }
    }

    /// The name of what `bytes` stand for, as 32 hexadecimal digits.
    pub(super) fn of(&self, bytes: &[u8]) -> String {
        let mut hasher = self.hasher;
        hasher.write(bytes);
        let hash = hasher.finish128();
        format!("{:016x}{:016x}", hash.h1, hash.h2)
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    /// The secret that the fleet uses: the one in Redis, or ours (`known`, or a fresh one) where there is none.
    pub(super) async fn agree(connection: &mut Conn, name: &str, known: Option<&Self>) -> Result<Self, Fault> {
        let ours = known.map_or_else(fresh, |known| known.secret.clone());
        let mut propose = cmd("SET");
        propose.arg(name).arg(&ours).arg("NX").arg("EX").arg(SECRET_LASTS);
        connection.query::<Option<String>>(&propose).await?;
        let agreed: Option<String> = connection.query(cmd("GET").arg(name)).await?;
        connection.query::<i64>(cmd("EXPIRE").arg(name).arg(SECRET_LASTS)).await?;
        let agreed = agreed.unwrap_or(ours);
        if !is_whole(&agreed) {
            // Names made from it would be nobody else's.
            return Err(Fault::Lost(Error::store("redis: the fleet's secret is damaged", "checksum")));
        }
        Ok(match known {
            Some(known) if known.secret == agreed => known.clone(),
            _ => Self { secret: agreed.clone(), ..Self::under(agreed.as_bytes()) },
        })
    }
}

/// 128 bits that nobody can guess, from the operating system, and a checksum.
fn fresh() -> String {
    let secret = format!("{:016x}{:016x}", random(), random());
    format!("{secret}{:08x}", crc32fast::hash(secret.as_bytes()))
}

/// Whether a drawn secret came here as it was drawn.
fn is_whole(secret: &str) -> bool {
    secret
        .split_at_checked(32)
        .is_some_and(|(secret, checksum)| *checksum == format!("{:08x}", crc32fast::hash(secret.as_bytes())))
}

/// A number that no other process draws.
pub(super) fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u8(0);
    hasher.finish()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_every_version_and_say_nothing() {
        let names = KeyNames::under(b"the same on every node");
        assert_eq!(names.of(b"session=abc"), KeyNames::under(b"the same on every node").of(b"session=abc"));
        assert_ne!(names.of(b"session=abc"), names.of(b"session=abd"));
        assert_ne!(names.of(b"session=abc"), KeyNames::under(b"another secret").of(b"session=abc"));
        assert_eq!(names.of(b"session=abc"), "a1ae836507d4ea700c76ed9486f30068");
    }

    #[test]
    fn no_two_processes_draw_the_same_number() {
        assert_ne!(random(), random());
        assert!(is_whole(&fresh()));
        assert!(!is_whole(&fresh().replace(|digit: char| digit > '7', "7")) && !is_whole("hunter2"));
    }
}
