//! [`Latencies`]: the latency distribution of one route or query, overall and in recent windows.
//!
//! A value is recorded once, in the histogram of the current ten-second slot: two additions to shared and per-thread
//! counters, without a lock. The first value of the next slot moves the finished slot into the overall histogram and
//! the [`Sliding`] windows; until then readers add it. About 32 KB.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::{self, Histogram};
use super::sliding::{self, Sliding};
use crate::base::clock::{Timestamp, nanos};
use crate::base::lock::Mutex;
use crate::base::sharded_counter::ShardedCounter;

pub(crate) struct Latencies {
    /// Number of the current slot, from 1; 0 before the first value.
    turn: AtomicU64,
    counts: Box<[AtomicU32]>,
    max: AtomicU64,
    sum: ShardedCounter<1>,
    settled: Mutex<Settled>,
}

/// Latencies of finished slots.
struct Settled {
    ever: Histogram,
    late: Sliding,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self {
            turn: AtomicU64::new(0),
            counts: (0..histogram::BUCKETS).map(|_| AtomicU32::new(0)).collect(),
            max: AtomicU64::new(0),
            sum: ShardedCounter::default(),
            settled: Mutex::new(Settled { ever: Histogram::default(), late: Sliding::new() }),
        }
    }

    /// Records one value.
    #[inline]
    pub(crate) fn record(&self, now: Timestamp, nanos: u64) {
        let turn = sliding::turn(now);
        if self.turn.load(Ordering::Relaxed) != turn {
            self.settle(turn);
        }
        self.counts[histogram::index(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum.add(0, nanos);
        if nanos > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(nanos, Ordering::Relaxed);
        }
    }

    /// Returns the overall distribution. Sum and maximum are exact.
    pub(crate) fn overall(&self) -> Histogram {
        let settled = self.settled();
        let mut reading = settled.ever.clone();
        self.add_to(&mut reading);
        reading.include(self.sum.sum(0), 0);
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
        self.sum.add(0, reading.sum());
    }

    /// Adds the current slot to `reading`; returns about its sum.
    fn add_to(&self, reading: &mut Histogram) -> u64 {
        let mut sum = 0_u64;
        for (bucket, count) in self.counts.iter().enumerate() {
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
        for (bucket, count) in self.counts.iter().enumerate() {
            if count.load(Ordering::Relaxed) > 0 {
                let (value, times) = (histogram::middle(bucket), count.swap(0, Ordering::Relaxed));
                settled.ever.add(value, u64::from(times));
                settled.late.add(held, value, times);
            }
        }
        settled.ever.include(0, max);
        settled.late.raise(held, max);
        self.turn.store(turn, Ordering::Relaxed);
    }

    fn settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
