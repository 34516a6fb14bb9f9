//! Hit-for-miss: marks keys whose requests must not be coalesced.
//!
//! A key whose response was not cacheable is marked for a while (10 s), so that requests for it do not wait for one
//! another. The marks are a lock-free table of 4 096 slots, each with half a hash and a time; keys that share a slot
//! overwrite one another, which costs a wait, never a wrong response.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::cache::http::key::CacheKey;

const SLOTS: usize = 4096;
/// Resolution of times: 10 ms.
const STEP: u64 = 10_000_000;

/// Table of marks.
pub(crate) struct HitForMiss(Box<[AtomicU64]>);

impl Default for HitForMiss {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl HitForMiss {
    /// Marks the key for `span`.
    pub(crate) fn mark(&self, key: &CacheKey, now: Timestamp, span: Duration) {
        let until = (now + span).as_nanos() / STEP;
        self.slot(key).store(fingerprint(key) | (until & 0xffff_ffff), Ordering::Relaxed);
    }

    /// Whether the key is marked.
    pub(crate) fn is_marked(&self, key: &CacheKey, now: Timestamp) -> bool {
        let word = self.slot(key).load(Ordering::Relaxed);
        word & !0xffff_ffff == fingerprint(key) && (now.as_nanos() / STEP) & 0xffff_ffff < word & 0xffff_ffff
    }

    /// Removes the mark, since a response was cacheable.
    pub(crate) fn clear(&self, key: &CacheKey) {
        let slot = self.slot(key);
        if slot.load(Ordering::Relaxed) & !0xffff_ffff == fingerprint(key) {
            slot.store(0, Ordering::Relaxed);
        }
    }

    fn slot(&self, key: &CacheKey) -> &AtomicU64 {
        &self.0[key.hash64() as usize % SLOTS]
    }
}

const fn fingerprint(key: &CacheKey) -> u64 {
    key.hash64() & !0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_expire() {
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
