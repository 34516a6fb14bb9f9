//! [`ExportedBuckets`]: sums the fine buckets of a histogram to those that metrics export.
//!
//! A fine bucket belongs to the exported one that contains its lowest value: a value up to 1⁄32 above a bound may be counted
//! below it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::histogram;
use crate::base::metrics::bounds::Bounds;

/// Exported buckets, and the fine buckets that each consists of.
#[derive(Debug)]
pub(crate) struct ExportedBuckets {
    bounds: Arc<Bounds>,
    /// End of each exported bucket's range of fine ones.
    ends: Box<[usize]>,
}

impl ExportedBuckets {
    pub(crate) fn new(bounds: Arc<Bounds>) -> Self {
        let ends = bounds.iter().map(|bound| histogram::index(bound.nanos) + 1);
        Self { ends: ends.chain([histogram::BUCKETS]).collect(), bounds }
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Returns the exported bucket of a fine one.
    pub(crate) fn place(&self, fine: usize) -> usize {
        self.ends.partition_point(|end| *end <= fine)
    }

    /// Adds fine counts to exported ones.
    pub(crate) fn add(&self, fine: &[AtomicU32], buckets: &mut [u64]) {
        let mut start = 0;
        for (bucket, end) in buckets.iter_mut().zip(&self.ends) {
            let range = fine.get(start..*end).unwrap_or_default();
            *bucket += range.iter().map(|count| u64::from(count.load(Ordering::Relaxed))).sum::<u64>();
            start = *end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_agree_with_the_places_of_single_buckets() {
        let buckets = ExportedBuckets::new(Arc::new(Bounds::http()));
        let fine: Vec<AtomicU32> = (0..histogram::BUCKETS as u32).map(AtomicU32::new).collect();
        let (mut summed, mut placed) = (vec![0; buckets.bounds().buckets()], vec![0; buckets.bounds().buckets()]);
        buckets.add(&fine, &mut summed);
        (0..histogram::BUCKETS).for_each(|at| placed[buckets.place(at)] += at as u64);
        assert_eq!(summed, placed);
    }

    #[test]
    fn a_value_at_a_bound_is_below_it() {
        let buckets = ExportedBuckets::new(Arc::new(Bounds::db()));
        for (at, bound) in buckets.bounds().iter().enumerate() {
            assert_eq!(buckets.place(histogram::index(bound.nanos)), at);
            assert_eq!(buckets.place(histogram::index(bound.nanos + bound.nanos / 16)), at + 1);
        }
    }
}
