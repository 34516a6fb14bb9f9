//! Approximate request counts by key, for rules that store only after repeated requests.
//!
//! A lock-free table of 4 096 slots, each with half a hash and a count. Keys that share a slot overwrite one another:
//! frequently requested keys prevail.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::http::key::CacheKey;

const SLOTS: usize = 4096;

/// Table of counts.
pub(crate) struct MinUses(Box<[AtomicU64]>);

impl Default for MinUses {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl MinUses {
    /// Counts a miss, and returns the number of misses so far.
    pub(crate) fn count(&self, key: &CacheKey) -> u32 {
        let slot = &self.0[key.hash64() as usize % SLOTS];
        let fingerprint = key.hash64() & !0xffff_ffff;
        let word = slot.load(Ordering::Relaxed);
        let known = if word & !0xffff_ffff == fingerprint { word as u32 } else { 0 };
        let count = known.saturating_add(1);
        slot.store(fingerprint | u64::from(count), Ordering::Relaxed);
        count
    }
}
