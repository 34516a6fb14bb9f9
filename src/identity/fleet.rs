//! [`FleetSecret`]: the secret under which the nodes of a fleet hash keys, so that names agree.

use std::fmt;
use std::sync::Arc;

use siphasher::sip::SipHasher24;

use super::key::{Key, KeyHash};
use crate::base::lock::RwLock;

/// Secret that all nodes of a fleet share. Clones share it, also if it is set later.
///
/// Names made from it are the same on every node, platform and version: SipHash-2-4 over a key's own encoding. Without
/// the secret no key can be guessed from its name, and no two keys with one name can be searched for.
///
/// ```
/// use tollgate::identity::FleetSecret;
///
/// let (a, b) = (FleetSecret::new("the same on every node"), FleetSecret::new("the same on every node"));
/// assert_eq!(a.name(b"session=abc"), b.name(b"session=abc"));
/// assert_eq!(FleetSecret::unknown().name(b"session=abc"), None);
/// ```
#[derive(Clone, Default)]
pub struct FleetSecret(Arc<RwLock<Option<[u64; 2]>>>);

impl FleetSecret {
    /// Creates a secret that is not known yet: [`name`](Self::name) returns `None`.
    ///
    /// ```
    /// use tollgate::identity::FleetSecret;
    ///
    /// let secret = FleetSecret::unknown();
    /// assert!(!secret.is_known());
    /// secret.set(b"read from the store");
    /// assert!(secret.name(b"key").is_some());
    /// ```
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }

    /// Creates a secret from these bytes.
    ///
    /// ```
    /// use tollgate::identity::FleetSecret;
    ///
    /// let secret = FleetSecret::new("the same on every node");
    /// # let _ = secret;
    /// ```
    #[must_use]
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        let secret = Self::default();
        secret.set(bytes.as_ref());
        secret
    }

    /// Sets the secret, for all clones.
    pub fn set(&self, bytes: &[u8]) {
        let halves = [siphash([1, 0], bytes), siphash([2, 0], bytes)];
        *self.0.write() = Some(halves);
    }

    /// Whether the secret is set.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.read().is_some()
    }

    /// Returns the name of these bytes; `None` while the secret is unknown.
    #[must_use]
    pub fn name(&self, bytes: &[u8]) -> Option<u64> {
        self.read().map(|secret| siphash(secret, bytes))
    }

    /// The hash of `key` as counted by the limit `id`.
    pub(crate) fn hash(&self, id: u64, key: &Key<'_>) -> Option<KeyHash> {
        let secret = self.read()?;
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&id.to_be_bytes());
        key.encode(&mut bytes);
        Some(KeyHash(siphash(secret, &bytes)))
    }

    fn read(&self) -> Option<[u64; 2]> {
        *self.0.read()
    }
}

impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetSecret").field("known", &self.is_known()).finish_non_exhaustive()
    }
}

/// The standard library's hasher promises no stable result, and nodes of two versions have to agree.
fn siphash(key: [u64; 2], bytes: &[u8]) -> u64 {
    SipHasher24::new_with_keys(key[0], key[1]).hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_agree_exactly_where_they_share_the_secret() {
        let key = Key::text("user", "alice");
        let (a, b, other) = (FleetSecret::new("s3cret-1"), FleetSecret::new("s3cret-1"), FleetSecret::new("s3cret-2"));
        assert_eq!(a.hash(7, &key), b.hash(7, &key));
        assert_ne!(a.hash(7, &key), other.hash(7, &key));
        assert_ne!(a.hash(7, &key), a.hash(8, &key));
        // Nodes of the next version have to say the same.
        assert_eq!(a.hash(7, &key).map(KeyHash::to_bits), Some(9_491_469_987_406_930_287));
    }

    #[test]
    fn nothing_is_named_before_the_secret_is_known() {
        let secret = FleetSecret::unknown();
        let node = secret.clone();
        assert_eq!(node.hash(7, &Key::text("user", "alice")), None);
        secret.set(b"s3cret-1");
        assert!(node.is_known() && node.hash(7, &Key::text("user", "alice")).is_some());
    }
}
