//! [`StoredKeys`]: tells keys that were never stored from those that may have been.
//!
//! One bit for each of 262 144 hashes, set when a key is stored and never cleared. Look-ups of a key whose bit is not set are
//! unnecessary where no other process stores; those of the others are not avoided.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::http::key::CacheKey;

const WORDS: usize = 4096;

/// Set of hashes.
pub(crate) struct StoredKeys(Box<[AtomicU64]>);

impl Default for StoredKeys {
    fn default() -> Self {
        Self((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl StoredKeys {
    /// Adds a key, before it is stored.
    pub(crate) fn insert(&self, key: &CacheKey) {
        let (word, bit) = self.bit(key);
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Release);
        }
    }

    /// Whether the key may have been stored.
    pub(crate) fn may_contain(&self, key: &CacheKey) -> bool {
        let (word, bit) = self.bit(key);
        word.load(Ordering::Acquire) & bit != 0
    }

    fn bit(&self, key: &CacheKey) -> (&AtomicU64, u64) {
        let hash = key.hash64();
        (&self.0[(hash >> 6) as usize % WORDS], 1 << (hash % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inserted_keys_are_contained_and_few_others() {
        let keys = StoredKeys::default();
        let key = |n: u32| CacheKey::from_bytes(&n.to_be_bytes(), 4);
        (0..1000).for_each(|n| keys.insert(&key(n)));
        assert!((0..1000).all(|n| keys.may_contain(&key(n))));
        assert!((1000..11_000).filter(|n| keys.may_contain(&key(*n))).count() < 200);
    }
}
