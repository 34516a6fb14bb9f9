//! [`Latencies`]: the latency distribution of one route or query, overall and in recent windows.
//!
//! A value is recorded once, in the histogram of the current ten-second slot: two additions to shared and per-thread
//! counters, without a lock. The first value of the next slot moves the finished slot into the overall histogram and
//! the [`Sliding`] windows; until then readers add it. About 32 KB.
//!
//! Metrics distinguish method and status. Nearly all requests of a route are alike, so the durations of one combination are
//! those that [`record`](Latencies::record) counts, at no further cost; those of [others](Latencies::record_other) are
//! counted apart within the slot, and have [counts of their own](crate::base::metrics::duration_counts).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;

use super::exported_buckets::ExportedBuckets;
use super::histogram::{self, Histogram};
use super::sliding::{self, Sliding};
use crate::base::clock::{Timestamp, nanos};
use crate::base::lock::Mutex;
use crate::base::metrics::duration_counts::BucketCounts;
use crate::base::sharded_counter::ShardedCounter;

pub(crate) struct Latencies {
    /// Number of the current slot, from 1; 0 before the first value.
    turn: AtomicU64,
    counts: Counts,
    /// Counts of the current slot that [`record_other`](Self::record_other) made.
    others: OnceLock<Counts>,
    max: AtomicU64,
    /// Indexed by [`FIRST`] and [`OTHERS`].
    sum: ShardedCounter<2>,
    settled: Mutex<Settled>,
    exported: Option<Arc<ExportedBuckets>>,
}

type Counts = Box<[AtomicU32]>;

const FIRST: usize = 0;
const OTHERS: usize = 1;

/// Latencies of finished slots.
struct Settled {
    ever: Histogram,
    late: Sliding,
    /// Those that [`Latencies::record`] counted, by exported bucket.
    first: Vec<u64>,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self::of(None)
    }

    /// Creates a distribution whose [first](Self::first) counts are exported.
    pub(crate) fn exported(buckets: Arc<ExportedBuckets>) -> Self {
        Self::of(Some(buckets))
    }

    fn of(exported: Option<Arc<ExportedBuckets>>) -> Self {
        let first = exported.iter().flat_map(|exported| vec![0; exported.bounds().buckets()]).collect();
        Self {
            turn: AtomicU64::new(0),
            counts: counts(),
            others: OnceLock::new(),
            max: AtomicU64::new(0),
            sum: ShardedCounter::default(),
            settled: Mutex::new(Settled { ever: Histogram::default(), late: Sliding::new(), first }),
            exported,
        }
    }

    /// Records one value.
    #[inline]
    pub(crate) fn record(&self, now: Timestamp, nanos: u64) {
        self.turn_to(now);
        self.counts[histogram::index(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum.add(FIRST, nanos);
        self.raise(nanos);
    }

    /// Records one value that [`first`](Self::first) excludes.
    #[inline(never)]
    pub(crate) fn record_other(&self, now: Timestamp, nanos: u64) {
        self.turn_to(now);
        self.others.get_or_init(counts)[histogram::index(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum.add(OTHERS, nanos);
        self.raise(nanos);
    }

    #[inline]
    fn turn_to(&self, now: Timestamp) {
        let turn = sliding::turn(now);
        if self.turn.load(Ordering::Relaxed) != turn {
            self.settle(turn);
        }
    }

    #[inline]
    fn raise(&self, nanos: u64) {
        if nanos > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(nanos, Ordering::Relaxed);
        }
    }

    /// Returns the counts of the values that [`record`](Self::record) was given, by exported bucket.
    pub(crate) fn first(&self) -> BucketCounts {
        let Some(exported) = &self.exported else { return BucketCounts::default() };
        let settled = self.settled();
        let mut buckets = settled.first.clone();
        exported.add(&self.counts, &mut buckets);
        BucketCounts { buckets, sum: self.sum.sum(FIRST) }
    }

    /// Returns the number of values.
    pub(crate) fn count(&self) -> u64 {
        let settled = self.settled();
        let slot = self.slot_counts().flat_map(|counts| counts.iter());
        settled.ever.count() + slot.map(|count| u64::from(count.load(Ordering::Relaxed))).sum::<u64>()
    }

    /// Returns the overall distribution. Sum and maximum are exact.
    pub(crate) fn overall(&self) -> Histogram {
        let settled = self.settled();
        let mut reading = settled.ever.clone();
        self.add_to(&mut reading);
        reading.include(self.sum.sum(FIRST).wrapping_add(self.sum.sum(OTHERS)), 0);
        reading
    }

    /// Returns the counts within `window` before `now`, at most an hour.
    pub(crate) fn recent(&self, now: Timestamp, window: Duration) -> Histogram {
        let settled = self.settled();
        let mut reading = settled.late.reading(now, window);
        if sliding::reaches(self.turn.load(Ordering::Relaxed), now.as_nanos().saturating_sub(nanos(window))) {
            let sum = self.add_to(&mut reading);
            reading.include(sum, 0);
        }
        reading
    }

    /// Adds the overall distribution of `other`; recent windows do not change.
    pub(crate) fn absorb(&self, other: &Self) {
        let reading = other.overall();
        let mut settled = self.settled();
        for (value, times) in reading.buckets() {
            settled.ever.add(value, times);
        }
        settled.ever.include(0, reading.max());
        self.sum.add(FIRST, reading.sum());
    }

    /// Adds the current slot to `reading`; returns about its sum.
    fn add_to(&self, reading: &mut Histogram) -> u64 {
        let mut sum = 0_u64;
        let slot = self.slot_counts().flat_map(|counts| counts.iter().enumerate());
        for (bucket, count) in slot {
            let (value, times) = (histogram::middle(bucket), u64::from(count.load(Ordering::Relaxed)));
            if times > 0 {
                reading.add(value, times);
                sum = sum.saturating_add(value.saturating_mul(times));
            }
        }
        reading.include(0, self.max.load(Ordering::Relaxed));
        sum
    }

    /// Merges a finished slot. If another thread is merging or reading, the value is counted with the earlier slot.
    #[cold]
    fn settle(&self, turn: u64) {
        let Some(mut settled) = self.settled.try_lock() else { return };
        let held = self.turn.load(Ordering::Relaxed);
        if held >= turn {
            return;
        }
        let max = self.max.swap(0, Ordering::Relaxed);
        for (which, counts) in self.slot_counts().enumerate() {
            for (bucket, count) in counts.iter().enumerate() {
                if count.load(Ordering::Relaxed) > 0 {
                    let (value, times) = (histogram::middle(bucket), count.swap(0, Ordering::Relaxed));
                    settled.ever.add(value, u64::from(times));
                    settled.late.add(held, value, times);
                    if let Some(exported) = self.exported.as_ref().filter(|_| which == FIRST) {
                        settled.first[exported.place(bucket)] += u64::from(times);
                    }
                }
            }
        }
        settled.ever.include(0, max);
        settled.late.raise(held, max);
        self.turn.store(turn, Ordering::Relaxed);
    }

    /// Returns the counts of the current slot: the first, then the others.
    fn slot_counts(&self) -> impl Iterator<Item = &Counts> {
        [&self.counts].into_iter().chain(self.others.get())
    }

    fn settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock()
    }
}

fn counts() -> Counts {
    (0..histogram::BUCKETS).map(|_| AtomicU32::new(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::metrics::bounds::Bounds;

    fn second(n: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(n)
    }

    #[test]
    fn threads_lose_nothing_while_turns_end_and_others_read() {
        let latencies = Latencies::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100_000).for_each(|n| latencies.record(second(n / 1_000), 5_000)));
            }
            scope.spawn(|| {
                let mut seen = 0;
                for _ in 0..100 {
                    let count = latencies.overall().count();
                    assert!(count >= seen, "what was counted once stays counted");
                    seen = count;
                }
            });
        });
        let (ever, hour) = (latencies.overall(), latencies.recent(second(100), Duration::from_secs(3_600)));
        assert_eq!((ever.count(), ever.sum(), ever.max()), (400_000, 400_000 * 5_000, 5_000));
        assert_eq!((hour.count(), hour.max()), (400_000, 5_000));
    }

    #[test]
    fn a_reading_adds_up_the_running_turn_and_the_settled_ones() {
        let (latencies, minute) = (Latencies::new(), Duration::from_secs(60));
        for n in 0..100_u64 {
            latencies.record(second(n), (n + 1) * 1_000_000);
        }
        let ever = latencies.overall();
        assert_eq!((ever.count(), ever.sum(), ever.max()), (100, 5_050_000_000, 100_000_000));
        assert!(ever.percentile(500).abs_diff(50_000_000) < 1_000_000);
        assert_eq!(latencies.recent(second(99), minute).count(), 70, "the minute and the ten seconds it reaches into");
        assert_eq!(latencies.recent(second(159), minute).count(), 10);
        assert_eq!(latencies.recent(second(160), minute).count(), 0);
        assert_eq!(latencies.recent(second(99), minute).max(), 100_000_000);
    }

    #[test]
    fn others_count_in_all_but_the_exported_counts() {
        let buckets = Arc::new(ExportedBuckets::new(Arc::new(Bounds::http())));
        let latencies = Latencies::exported(buckets.clone());
        for n in 0..40 {
            latencies.record(second(n), 5_000_000);
            latencies.record_other(second(n), 7_000_000_000);
            let (first, place) = (latencies.first(), buckets.bounds().place(5_000_000));
            assert_eq!((first.buckets[place], first.count(), first.sum), (n + 1, n + 1, (n + 1) * 5_000_000));
        }
        let ever = latencies.overall();
        assert_eq!((ever.count(), ever.sum(), ever.max()), (80, 40 * 7_005_000_000, 7_000_000_000));
        assert_eq!(latencies.recent(second(40), Duration::from_secs(60)).count(), 80);
    }
}
