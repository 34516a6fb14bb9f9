//! [`Marks`]: a lock-free table of hashes that are marked until a time.
//!
//! 4 096 slots, each with half a hash, a time, and a level of up to 7. Hashes that share a slot overwrite one another: a mark may be lost, and is
//! found for another hash only if half of it is equal too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::clock::Timestamp;

const SLOTS: usize = 4096;
/// Resolution of times, in nanoseconds. Their lowest bits are the level.
const STEP: u64 = 10_000_000;
const LEVEL: u64 = 7;

/// Table of marks.
pub(super) struct Marks(Box<[AtomicU64]>);

impl Default for Marks {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Marks {
    /// Marks the hash for `span`, less up to 80 ms, with a level.
    pub(super) fn mark(&self, hash: u64, now: Timestamp, span: Duration, level: u8) {
        let until = ((now + span).as_nanos() / STEP) & 0xffff_ffff & !LEVEL;
        self.slot(hash).store(fingerprint(hash) | until | u64::from(level), Ordering::Relaxed);
    }

    /// Returns the level of the last mark, whether or not it has ended.
    pub(super) fn level(&self, hash: u64) -> Option<u8> {
        let word = self.slot(hash).load(Ordering::Relaxed);
        (word & !0xffff_ffff == fingerprint(hash)).then_some((word & LEVEL) as u8)
    }

    /// Whether the hash is marked.
    pub(super) fn is_marked(&self, hash: u64, now: Timestamp) -> bool {
        let word = self.slot(hash).load(Ordering::Relaxed);
        word & !0xffff_ffff == fingerprint(hash) && (now.as_nanos() / STEP) & 0xffff_ffff < word & 0xffff_ffff & !LEVEL
    }

    /// Removes the mark.
    pub(super) fn clear(&self, hash: u64) {
        let slot = self.slot(hash);
        if slot.load(Ordering::Relaxed) & !0xffff_ffff == fingerprint(hash) {
            slot.store(0, Ordering::Relaxed);
        }
    }

    fn slot(&self, hash: u64) -> &AtomicU64 {
        &self.0[hash as usize % SLOTS]
    }
}

const fn fingerprint(hash: u64) -> u64 {
    hash & !0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_expire() {
        let (marks, now) = (Marks::default(), Timestamp::from_nanos(1_000_000_000));
        let (hash, other) = (7 << 40, 8 << 40);
        assert!(!marks.is_marked(hash, now));
        marks.mark(hash, now, Duration::from_secs(10), 5);
        assert_eq!((marks.level(hash), marks.level(other)), (Some(5), None));
        assert!(marks.is_marked(hash, now + Duration::from_secs(9)));
        assert!(!marks.is_marked(other, now));
        assert!(!marks.is_marked(hash, now + Duration::from_secs(10)));
        marks.mark(hash, now, Duration::from_secs(10), 0);
        marks.clear(hash);
        assert!(!marks.is_marked(hash, now));
    }
}
