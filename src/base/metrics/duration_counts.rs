//! [`DurationCounts`]: the histogram of one exported series, with its buckets and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use super::bounds::Bounds;

/// Counts of durations by bucket, and their sum: eight bytes a bucket.
#[derive(Debug)]
pub(crate) struct DurationCounts {
    buckets: Box<[AtomicU64]>,
    /// Nanoseconds.
    sum: AtomicU64,
}

/// Values of a [`DurationCounts`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BucketCounts {
    /// Number of durations in each bucket, not cumulative.
    pub(crate) buckets: Vec<u64>,
    /// Nanoseconds.
    pub(crate) sum: u64,
}

impl DurationCounts {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        Self { buckets: (0..bounds.buckets()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// Records a duration; `bounds` are those it was created with.
    pub(crate) fn record(&self, bounds: &Bounds, nanos: u64) {
        if let Some(bucket) = self.buckets.get(bounds.place(nanos)) {
            bucket.fetch_add(1, Ordering::Relaxed);
            self.sum.fetch_add(nanos, Ordering::Relaxed);
        }
    }

    pub(crate) fn counts(&self) -> BucketCounts {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        BucketCounts { buckets, sum: self.sum.load(Ordering::Relaxed) }
    }
}

impl BucketCounts {
    /// Returns the number of durations.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds the counts of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_their_buckets() {
        let bounds = Bounds::http();
        let durations = DurationCounts::new(&bounds);
        for nanos in [1, 500_000, 500_001, 60_000_000_000] {
            durations.record(&bounds, nanos);
        }
        let mut counts = durations.counts();
        assert_eq!((counts.buckets[0], counts.buckets[1], counts.buckets.last()), (2, 1, Some(&1)));
        assert_eq!((counts.count(), counts.sum), (4, 60_001_000_002));
        counts.merge(&counts.clone());
        assert_eq!((counts.count(), counts.buckets[0]), (8, 4));
    }
}
