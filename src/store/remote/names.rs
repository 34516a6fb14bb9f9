//! Names of values: keyed hashes, so that a server holds no URLs, cookies or users in clear text.
//!
//! The hash is SipHash-2-4 with 128 bits under the fleet's secret, the same on every node and in every version. Unless
//! a secret is configured, the first node draws one and stores it in the server for the others; a node that reconnects to
//! a server without it stores its own again.

use std::fmt::Write;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::base::error::Error;
#[cfg(any(feature = "postgres", feature = "redis"))]
use crate::base::lock::Mutex;
use crate::base::random::random;
#[cfg(any(feature = "postgres", feature = "redis"))]
use crate::identity::FleetSecret;

/// Derives key names under one secret.
#[derive(Clone)]
pub(crate) struct KeyNames {
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
    pub(crate) fn of(&self, bytes: &[u8]) -> String {
        let mut hasher = self.hasher;
        hasher.write(bytes);
        let hash = hasher.finish128();
        format!("{:016x}{:016x}", hash.h1, hash.h2)
    }

    /// Returns the ID of the log that holds this secret; never 0.
    pub(crate) fn log_id(&self) -> u64 {
        let mut hasher = self.hasher;
        hasher.write(b"invalidation log");
        hasher.finish128().h1.max(1)
    }

    #[cfg(any(feature = "postgres", feature = "redis"))]
    fn secret(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    /// Returns the secret to propose to the fleet: the known one, else a new one.
    pub(crate) fn proposal(known: Option<&Self>) -> String {
        known.map_or_else(draw_secret, |known| known.secret.clone())
    }

    /// Creates the names under the secret that the fleet agreed on.
    ///
    /// # Errors
    /// If the secret is corrupt: names derived from it would match no other node's.
    pub(crate) fn agreed(secret: &str, known: Option<&Self>) -> Result<Self, Error> {
        if !has_valid_checksum(secret) {
            let message = "the fleet secret in the store is corrupt; delete it to draw another";
            return Err(Error::store(message, "checksum mismatch"));
        }
        Ok(match known {
            Some(known) if known.secret == secret => known.clone(),
            _ => Self { secret: secret.to_owned(), ..Self::under(secret.as_bytes()) },
        })
    }
}

/// Agreement of limits or credits on the secret of their fleet, kept over reconnections.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) struct SecretAgreement {
    secret: FleetSecret,
    known: Mutex<Option<KeyNames>>,
    /// Whether the secret is configured.
    is_given: bool,
}

#[cfg(any(feature = "postgres", feature = "redis"))]
impl SecretAgreement {
    pub(crate) fn new(given: Option<&[u8]>) -> Self {
        let secret = given.map_or_else(FleetSecret::unknown, FleetSecret::new);
        Self { secret, known: Mutex::default(), is_given: given.is_some() }
    }

    /// Returns the secret, which is set once the fleet has agreed.
    pub(crate) fn secret(&self) -> FleetSecret {
        self.secret.clone()
    }

    /// Returns the secret to propose; `None` if it is configured.
    pub(crate) fn proposal(&self) -> Option<String> {
        (!self.is_given).then(|| KeyNames::proposal(self.known.lock().as_ref()))
    }

    /// Sets the secret that the fleet agreed on.
    ///
    /// # Errors
    /// As [`KeyNames::agreed`].
    pub(crate) fn set(&self, agreed: &str) -> Result<(), Error> {
        let mut known = self.known.lock();
        let names = KeyNames::agreed(agreed, known.as_ref())?;
        self.secret.set(names.secret());
        *known = Some(names);
        Ok(())
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
    fn drawn_secrets_have_a_checksum() {
        assert!(has_valid_checksum(&draw_secret()));
        assert!(
            !has_valid_checksum(&draw_secret().replace(|digit: char| digit > '7', "7"))
                && !has_valid_checksum("hunter2")
        );
    }
}
