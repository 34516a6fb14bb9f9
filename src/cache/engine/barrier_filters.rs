//! [`BarrierFilters`]: Bloom filters of older invalidations, in bounded memory.
//!
//! Older barriers are kept as Bloom filters (Bloom 1970): a name that was invalidated is always found, another one by
//! chance. Each filter covers a span of generations, and an entry is compared only with those that end after its fetch
//! began. A filter of 128 KiB holds 49 152 barriers, with one false positive in 18 000; 64 of them hold three million,
//! with one in 280. Beyond that the two oldest become one, which voids more of the oldest entries, and of no others.

use std::collections::VecDeque;

/// Bits of a filter, a power of two.
const BITS: u64 = 1 << 20;
/// Barriers of a filter.
const CAPACITY: usize = 49_152;
/// Bits set for a barrier.
const PROBES: u64 = 10;
const MAX_FILTERS: usize = 64;

/// Barriers by the hash of what they invalidate, the oldest first.
#[derive(Debug, Default)]
pub(super) struct BarrierFilters {
    filters: VecDeque<Filter>,
}

#[derive(Debug)]
struct Filter {
    bits: Box<[u64]>,
    count: usize,
    /// Generation of its latest barrier.
    newest: u64,
}

impl BarrierFilters {
    /// Adds a barrier. The more they come in order, the narrower the spans of the filters.
    pub(super) fn insert(&mut self, hash: u64, generation: u64) {
        if self.filters.back().is_none_or(|filter| filter.count >= CAPACITY) {
            self.merge_oldest();
            let bits = vec![0; (BITS / 64) as usize].into();
            self.filters.push_back(Filter { bits, count: 0, newest: 0 });
        }
        if let Some(filter) = self.filters.back_mut() {
            probes(hash).for_each(|bit| filter.bits[(bit / 64) as usize] |= 1 << (bit % 64));
            filter.count += 1;
            filter.newest = filter.newest.max(generation);
        }
    }

    /// Whether a barrier on this hash may be newer than that generation.
    pub(super) fn may_contain(&self, hash: u64, generation: u64) -> bool {
        let mut newer = self.filters.iter().filter(|filter| filter.newest > generation);
        newer.any(|filter| probes(hash).all(|bit| filter.bits[(bit / 64) as usize] & 1 << (bit % 64) != 0))
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    fn merge_oldest(&mut self) {
        if self.filters.len() < MAX_FILTERS {
            return;
        }
        if let (Some(oldest), Some(next)) = (self.filters.pop_front(), self.filters.front_mut()) {
            next.bits.iter_mut().zip(oldest.bits).for_each(|(word, older)| *word |= older);
        }
    }
}

/// Bits of a hash: double hashing (Kirsch and Mitzenmacher 2006).
fn probes(hash: u64) -> impl Iterator<Item = u64> {
    let (start, step) = (hash & u64::from(u32::MAX), hash >> 32 | 1);
    (0..PROBES).map(move |n| start.wrapping_add(step.wrapping_mul(n)) % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash of a number, by the finalizer of MurmurHash3.
    const fn hash(n: u64) -> u64 {
        let n = (n ^ n >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let n = (n ^ n >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        n ^ n >> 33
    }

    fn filled(barriers: u64) -> BarrierFilters {
        let mut filters = BarrierFilters::default();
        (1..=barriers).for_each(|n| filters.insert(hash(n), n));
        filters
    }

    #[test]
    fn a_barrier_is_always_found_and_others_seldom() {
        let filters = filled(1_000_000);
        assert!((1..=1_000_000).all(|n| filters.may_contain(hash(n), n - 1)));
        let others = |generation| (0..100_000).filter(|n| filters.may_contain(hash(n + (1 << 40)), generation)).count();
        assert!(others(0) < 250, "{}", others(0));
        assert_eq!(others(1_000_000), 0, "nothing is newer");
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_coarsen_first() {
        let barriers = (MAX_FILTERS + 8) as u64 * CAPACITY as u64;
        let filters = filled(barriers);
        assert_eq!(filters.filters.len(), MAX_FILTERS);
        let found = |from: u64, generation: u64| {
            (0..10_000).filter(|n| filters.may_contain(hash(n + from), generation)).count()
        };
        assert_eq!(found(1, 0), 10_000, "the oldest are still found");
        assert!(found(1 << 40, 10 * CAPACITY as u64) < 100, "entries newer than those merged");
    }
}
