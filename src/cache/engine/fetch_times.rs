//! [`FetchTimes`]: histogram of durations: of a route's fetches, head and body, or of the look-ups of a level.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Two buckets per power of two, from a microsecond to more than an hour.
const BUCKETS: usize = 64;
/// Minimum number of samples for a percentile.
const MIN_SAMPLES: u32 = 8;
/// Number of samples beyond which all counts are halved, so that old samples decay.
const MAX_SAMPLES: u32 = 4096;

/// A histogram of durations.
#[derive(Debug)]
pub(crate) struct FetchTimes([AtomicU32; BUCKETS]);

impl Default for FetchTimes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl FetchTimes {
    /// Records a duration.
    pub(crate) fn record(&self, took: Duration) {
        let counter = &self.0[bucket(took)];
        if counter.fetch_add(1, Ordering::Relaxed) >= MAX_SAMPLES {
            for counter in &self.0 {
                counter.store(counter.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            }
        }
    }

    /// Returns the 95th percentile, rounded up to a bucket; `None` for fewer than 8 samples.
    pub(crate) fn p95(&self) -> Option<Duration> {
        self.percentile(95)
    }

    /// Returns a percentile, rounded up to a bucket; `None` for fewer than 8 samples.
    pub(crate) fn percentile(&self, percent: u64) -> Option<Duration> {
        let counts: [u32; BUCKETS] = std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed));
        let total = counts.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
        if total < MIN_SAMPLES {
            return None;
        }
        let mut left = u64::from(total) * percent;
        for (at, count) in counts.iter().enumerate() {
            let share = u64::from(*count) * 100;
            if left <= share {
                return Some(end(at));
            }
            left -= share;
        }
        Some(end(BUCKETS - 1))
    }
}

/// Returns the bucket of a duration: its highest bit, and the one below.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(2);
    let high = micros.ilog2();
    ((2 * (high - 1)) as usize + ((micros >> (high - 1)) & 1) as usize).min(BUCKETS - 1)
}

/// Returns the upper bound of a bucket.
const fn end(bucket: usize) -> Duration {
    let high = 1_u64 << (bucket / 2 + 1);
    Duration::from_micros(if bucket.is_multiple_of(2) { high + high / 2 } else { 2 * high })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn few_samples_have_no_percentile() {
        let times = FetchTimes::default();
        for _ in 0..MIN_SAMPLES - 1 {
            times.record(Duration::from_millis(10));
        }
        assert_eq!(times.p95(), None);
        times.record(Duration::from_millis(10));
        assert!(times.p95().is_some());
    }

    #[test]
    fn old_samples_decay() {
        let times = FetchTimes::default();
        (0..MAX_SAMPLES).for_each(|_| times.record(Duration::from_secs(10)));
        (0..20 * MAX_SAMPLES).for_each(|_| times.record(Duration::from_millis(1)));
        assert!(times.p95().expect("many") < Duration::from_millis(2));
    }

    proptest! {
        #[test]
        fn percentile_error_is_at_most_half(
            mut all in proptest::collection::vec(2_u64..1_000_000_000, 8..200),
        ) {
            let times = FetchTimes::default();
            all.iter().for_each(|micros| times.record(Duration::from_micros(*micros)));
            all.sort_unstable();
            let exact = Duration::from_micros(all[(all.len() * 95).div_ceil(100) - 1]);
            let found = times.p95().expect("enough");
            prop_assert!(found >= exact && found <= exact * 3 / 2 + Duration::from_micros(2), "{found:?} {exact:?}");
        }
    }
}
