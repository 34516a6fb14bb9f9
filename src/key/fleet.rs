//! [`FleetSecret`]: what a fleet's nodes hash keys under, so that they mean the same key.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::identity::{Key, KeyHash};

/// A secret that all nodes of a fleet share. Clones share it, also when it becomes known only later.
///
/// Names made from it are the same on every node, platform and version: SipHash-2-4 over a key's own encoding. Without
/// the secret no key can be guessed from its name, and no two keys with one name can be sought.
#[derive(Clone, Default)]
pub struct FleetSecret(Arc<RwLock<Option<[u64; 2]>>>);

impl FleetSecret {
    /// A secret that is not known yet: nothing can be named.
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }

    /// A secret made from these bytes.
    #[must_use]
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        let secret = Self::default();
        secret.set(bytes.as_ref());
        secret
    }

    /// Makes the secret known, or changes it.
    pub fn set(&self, bytes: &[u8]) {
        let halves = [siphash([1, 0], bytes), siphash([2, 0], bytes)];
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(halves);
    }

    /// Whether anything can be named.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.read().is_some()
    }

    /// The name of these bytes; `None` while the secret is unknown.
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
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetSecret").field("known", &self.is_known()).finish_non_exhaustive()
    }
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012), with a 64-bit result. The standard library's hasher promises no stable
/// result, and nodes of two versions have to agree.
fn siphash(key: [u64; 2], bytes: &[u8]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let mut words = bytes.chunks_exact(8);
    let mut last = (bytes.len() as u64) << 56;
    for word in words.by_ref() {
        absorb(&mut v, word.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)));
    }
    last |= words.remainder().iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    absorb(&mut v, last);
    v[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

const fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

const fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_siphash_as_published() {
        // The paper's key 00 01 … 0f, and its test vectors.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let bytes: Vec<u8> = (0..15).collect();
        assert_eq!(siphash(key, &bytes), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash(key, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash(key, &bytes[..8]), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn nodes_agree_exactly_where_they_share_the_secret() {
        let key = Key::text("user", "alice");
        let (a, b, other) = (FleetSecret::new("s3cret-1"), FleetSecret::new("s3cret-1"), FleetSecret::new("s3cret-2"));
        assert_eq!(a.hash(7, &key), b.hash(7, &key));
        assert_ne!(a.hash(7, &key), other.hash(7, &key));
        assert_ne!(a.hash(7, &key), a.hash(8, &key));
        // Nodes of the next version have to say the same.
        assert_eq!(a.hash(7, &key).map(KeyHash::to_bits), Some(0x0));
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
