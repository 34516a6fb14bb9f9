//! Hit-for-miss: which keys were found not worth waiting for.
//!
//! A key whose answer was not cacheable is remembered for a while (10 s), so that requests for it are not made to wait
//! for one another. The memory is a table of 4 096 words without a lock: each holds half a hash and a time; two keys
//! that share a place overwrite one another, which costs a wait, never a wrong answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::cache::http::key::CacheKey;

const PLACES: usize = 4096;
/// Times are kept in steps of 10 ms.
const STEP: u64 = 10_000_000;

/// The table.
pub(crate) struct HitForMiss(Box<[AtomicU64]>);

impl Default for HitForMiss {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl HitForMiss {
    /// Remembers the key for `span`.
    pub(crate) fn mark(&self, key: &CacheKey, now: Timestamp, span: Duration) {
        let until = (now + span).as_nanos() / STEP;
        self.place(key).store(half(key) | (until & 0xffff_ffff), Ordering::Relaxed);
    }

    /// Whether the key is remembered.
    pub(crate) fn is_marked(&self, key: &CacheKey, now: Timestamp) -> bool {
        let word = self.place(key).load(Ordering::Relaxed);
        word & !0xffff_ffff == half(key) && (now.as_nanos() / STEP) & 0xffff_ffff < word & 0xffff_ffff
    }

    /// Forgets it: its answer is cacheable after all.
    pub(crate) fn clear(&self, key: &CacheKey) {
        let place = self.place(key);
        if place.load(Ordering::Relaxed) & !0xffff_ffff == half(key) {
            place.store(0, Ordering::Relaxed);
        }
    }

    fn place(&self, key: &CacheKey) -> &AtomicU64 {
        &self.0[key.hash64() as usize % PLACES]
    }
}

const fn half(key: &CacheKey) -> u64 {
    key.hash64() & !0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_remembered_for_its_time() {
        let hit_for_miss = HitForMiss::default();
        let (key, now) = (CacheKey::from_bytes(b"a", 1), Timestamp::from_nanos(1_000_000_000));
        assert!(!hit_for_miss.is_marked(&key, now));
        hit_for_miss.mark(&key, now, Duration::from_secs(10));
        assert!(hit_for_miss.is_marked(&key, now + Duration::from_secs(9)));
        assert!(!hit_for_miss.is_marked(&CacheKey::from_bytes(b"b", 1), now));
        assert!(!hit_for_miss.is_marked(&key, now + Duration::from_secs(10)));
        hit_for_miss.mark(&key, now, Duration::from_secs(10));
        hit_for_miss.clear(&key);
        assert!(!hit_for_miss.is_marked(&key, now));
    }
}
