//! How often a key was asked for, roughly: for rules that store only what is asked for more than once.
//!
//! A table of 4 096 words without a lock, each half a hash and a count. Two keys that share a place overwrite one
//! another: what is asked for often wins its place back, what is not was not worth storing.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::http::key::CacheKey;

const PLACES: usize = 4096;

/// The table.
pub(crate) struct MinUses(Box<[AtomicU64]>);

impl Default for MinUses {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl MinUses {
    /// Counts one more miss, and returns how many there were.
    pub(crate) fn count(&self, key: &CacheKey) -> u32 {
        let place = &self.0[key.hash64() as usize % PLACES];
        let half = key.hash64() & !0xffff_ffff;
        let word = place.load(Ordering::Relaxed);
        let known = if word & !0xffff_ffff == half { word as u32 } else { 0 };
        let count = known.saturating_add(1);
        place.store(half | u64::from(count), Ordering::Relaxed);
        count
    }
}
