//! [`Marks`]: a lock-free table of hashes that are marked until a time.
//!
//! 4 096 slots, each with half a hash and a time. Hashes that share a slot overwrite one another: a mark may be lost, and is
//! found for another hash only if half of it is equal too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::clock::Timestamp;

const SLOTS: usize = 4096;
/// Resolution of times: 10 ms.
const STEP: u64 = 10_000_000;

/// Table of marks.
pub(super) struct Marks(Box<[AtomicU64]>);

impl Default for Marks {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Marks {
    /// Marks the hash for `span`.
    pub(super) fn mark(&self, hash: u64, now: Timestamp, span: Duration) {
        let until = (now + span).as_nanos() / STEP;
        self.slot(hash).store(fingerprint(hash) | (until & 0xffff_ffff), Ordering::Relaxed);
    }

    /// Whether the hash is marked.
    pub(super) fn is_marked(&self, hash: u64, now: Timestamp) -> bool {
        let word = self.slot(hash).load(Ordering::Relaxed);
        word & !0xffff_ffff == fingerprint(hash) && (now.as_nanos() / STEP) & 0xffff_ffff < word & 0xffff_ffff
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
        marks.mark(hash, now, Duration::from_secs(10));
        assert!(marks.is_marked(hash, now + Duration::from_secs(9)));
        assert!(!marks.is_marked(other, now));
        assert!(!marks.is_marked(hash, now + Duration::from_secs(10)));
        marks.mark(hash, now, Duration::from_secs(10));
        marks.clear(hash);
        assert!(!marks.is_marked(hash, now));
    }
}
