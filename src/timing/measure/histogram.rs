//! [`Histogram`]: latencies in log-linear buckets.
//!
//! Each power of two is divided into 32 equal buckets. Below 64 ns a bucket is one nanosecond wide; above, at most
//! 1⁄32 as wide as its values, so that its middle is within 1⁄64 (1.6 %) of each. The last bucket ends at 2⁴¹ ns (36
//! minutes): longer values are counted in it, while the maximum and the sum stay exact.
//!
//! | | |
//! |---|---|
//! | memory | 1 184 counters, 9.5 KB |
//! | percentiles | nearest rank, within 1⁄64 of the exact value |
//! | merge | exact: the merged histogram equals one that recorded everything |
//!
//! Recorded without a lock by [`Latencies`](crate::timing::measure::latencies::Latencies).

/// Base-2 logarithm of the buckets per power of two.
const FINENESS: u32 = 5;
const PER_OCTAVE: usize = 1 << FINENESS;
/// Values of at least 2⁴¹ share the last bucket.
const TOP: u32 = 41;
pub(super) const BUCKETS: usize = (TOP - FINENESS) as usize * PER_OCTAVE + PER_OCTAVE;

/// Counts of nanoseconds, by size. Allocates on first use.
#[derive(Clone, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Histogram {
    /// Adds `times` values, without updating the sum and the maximum.
    pub(crate) fn add(&mut self, nanos: u64, times: u64) {
        if self.counts.is_empty() {
            self.counts.resize(BUCKETS, 0);
        }
        self.counts[index(nanos)] += times;
        self.count += times;
    }

    /// Adds to the sum, and raises the maximum.
    pub(super) const fn include(&mut self, sum: u64, max: u64) {
        self.sum += sum;
        if max > self.max {
            self.max = max;
        }
    }

    /// Adds all counts of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
        } else {
            self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        }
        self.count += other.count;
        self.include(other.sum, other.max);
    }

    /// Returns the middle and the count of each bucket with values.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let counts = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counts.map(|(bucket, count)| (middle(bucket), *count))
    }

    /// Returns the number of values up to `nanos`. Values up to 1⁄32 above it are included if they share its bucket.
    pub(crate) fn up_to(&self, nanos: u64) -> u64 {
        self.counts.iter().take(index(nanos) + 1).sum()
    }

    /// Returns the number of values.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Returns the exact maximum; 0 if empty.
    pub(super) const fn max(&self) -> u64 {
        self.max
    }

    /// Returns the exact sum.
    pub(crate) const fn sum(&self) -> u64 {
        self.sum
    }

    /// Returns the exact mean; 0 if empty.
    pub(super) fn mean(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }

    /// Returns a percentile by nearest rank, within 1⁄64; 0 if empty. `permille` is the rank in thousandths: 990 for
    /// the 99th percentile.
    pub(crate) fn percentile(&self, permille: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(permille)).div_ceil(1000).max(1);
        let mut seen = 0_u128;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += u128::from(count);
            if seen >= rank {
                return middle(index).min(self.max);
            }
        }
        self.max
    }
}

/// Returns the bucket of a value.
pub(super) const fn index(nanos: u64) -> usize {
    let top = (1 << TOP) - 1;
    let nanos = if nanos > top { top } else { nanos };
    let octave = 63 - (nanos | 1).leading_zeros();
    let shift = octave.saturating_sub(FINENESS);
    shift as usize * PER_OCTAVE + (nanos >> shift) as usize
}

/// Returns the middle of a bucket.
pub(super) const fn middle(index: usize) -> u64 {
    let shift = (index / PER_OCTAVE).saturating_sub(1);
    let low = ((index - shift * PER_OCTAVE) as u64) << shift;
    low + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASKED: [u64; 6] = [1, 500, 900, 950, 990, 1000];

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for value in values {
            histogram.add(*value, 1);
            histogram.include(*value, *value);
        }
        histogram
    }

    /// Generates values over all orders of magnitude.
    fn spread() -> impl Strategy<Value = u64> {
        (0..TOP, any::<u64>()).prop_map(|(bits, noise)| (1 << bits) | (noise & ((1 << bits) - 1)))
    }

    fn off(measured: u64, exact: u64) -> f64 {
        measured.abs_diff(exact) as f64 / exact.max(1) as f64
    }

    #[test]
    fn every_bucket_holds_its_own_middle_and_the_last_is_the_last() {
        for bucket in 0..BUCKETS {
            assert_eq!(index(middle(bucket)), bucket);
        }
        assert_eq!(index(0), 0);
        assert_eq!(index(63), 63);
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_empty_histogram_reads_as_zero() {
        let reading = Histogram::default();
        assert_eq!((reading.count(), reading.mean(), reading.max(), reading.percentile(990)), (0, 0, 0, 0));
    }

    #[test]
    fn a_value_beyond_the_last_bucket_keeps_an_exact_maximum() {
        let reading = of(&[u64::MAX / 2]);
        assert_eq!(reading.max(), u64::MAX / 2);
        assert_eq!(reading.count(), 1);
    }

    proptest! {
        #[test]
        fn percentiles_stay_within_a_64th_of_the_exact_sorted_list(mut values in prop::collection::vec(spread(), 1..500)) {
            let reading = of(&values);
            values.sort_unstable();
            for permille in ASKED {
                let rank = (values.len() as u64 * permille).div_ceil(1000).max(1) as usize;
                let (measured, exact) = (reading.percentile(permille), values[rank - 1]);
                prop_assert!(off(measured, exact) <= 1.0 / 64.0, "{permille}: {measured} for {exact}");
            }
            prop_assert_eq!(reading.max(), *values.last().expect("one value"));
            prop_assert_eq!(reading.sum(), values.iter().sum::<u64>());
        }

        #[test]
        fn hdrhistogram_agrees(values in prop::collection::vec(spread(), 1..500)) {
            let mut oracle = hdrhistogram::Histogram::<u64>::new(3).expect("a histogram");
            values.iter().for_each(|value| oracle.record(*value).expect("in range"));
            let reading = of(&values);
            for permille in ASKED {
                let (ours, theirs) = (reading.percentile(permille), oracle.value_at_quantile(permille as f64 / 1000.0));
                prop_assert!(off(ours, theirs) <= 1.0 / 64.0 + 0.001, "{permille}: {ours} against {theirs}");
            }
        }

        #[test]
        fn merging_equals_recording_everything(a in prop::collection::vec(spread(), 0..100), b in prop::collection::vec(spread(), 0..100)) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            let all = of(&[a, b].concat());
            prop_assert_eq!(merged.counts, all.counts);
            prop_assert_eq!((merged.sum, merged.max), (all.sum, all.max));
        }
    }
}
