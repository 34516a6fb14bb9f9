//! [`ShardedCounter`]: counters with a shard per thread.
//!
//! Each thread owns a shard, a cache line that no other thread writes: adding is a load and a store, without the lock
//! prefix that makes an atomic addition five times as expensive alone and far more under contention. A thread that
//! ends releases its shard. Threads beyond [`OWNED`] share the last shard and add atomically.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::lock::Mutex;

/// Number of threads with their own shard.
const OWNED: usize = 31;
/// Index of the shard of all other threads.
const SHARED: usize = OWNED;
const UNKNOWN: usize = usize::MAX;

/// `N` counters, at most eight, in 2 KiB.
#[derive(Debug)]
pub(crate) struct ShardedCounter<const N: usize>(Box<[CounterShard<N>]>);

#[derive(Debug)]
#[repr(align(64))]
struct CounterShard<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for ShardedCounter<N> {
    fn default() -> Self {
        Self((0..=OWNED).map(|_| CounterShard([const { AtomicU64::new(0) }; N])).collect())
    }
}

impl<const N: usize> ShardedCounter<N> {
    #[inline]
    pub(crate) fn add(&self, counter: usize, n: u64) {
        let shard = SHARD.get();
        let Some(CounterShard(counters)) = self.0.get(shard) else { return self.add_first(counter, n) };
        if shard == SHARED {
            counters[counter].fetch_add(n, Ordering::Relaxed);
        } else {
            // No other thread writes this shard.
            let sum = counters[counter].load(Ordering::Relaxed).wrapping_add(n);
            counters[counter].store(sum, Ordering::Relaxed);
        }
    }

    #[cold]
    fn add_first(&self, counter: usize, n: u64) {
        SHARD.set(LEASE.try_with(|lease| lease.0).unwrap_or(SHARED));
        self.add(counter, n);
    }

    /// Returns the counter's sum over all shards.
    pub(crate) fn sum(&self, counter: usize) -> u64 {
        self.0.iter().map(|CounterShard(counters)| counters[counter].load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

thread_local! {
    /// Shard of this thread.
    static SHARD: Cell<usize> = const { Cell::new(UNKNOWN) };
    static LEASE: Lease = Lease::take();
}

/// Shard held for the lifetime of its thread.
struct Lease(usize);

/// Released shards, and the first unused one.
static FREE: Mutex<(Vec<usize>, usize)> = Mutex::new((Vec::new(), 0));

impl Lease {
    fn take() -> Self {
        let mut free = FREE.lock();
        if let Some(shard) = free.0.pop() {
            return Self(shard);
        }
        let next = free.1.min(SHARED);
        free.1 = next + 1;
        Self(next)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Later counts of this ending thread are added atomically, because the shard may have a new owner.
        SHARD.set(SHARED);
        if self.0 != SHARED {
            FREE.lock().0.push(self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_the_end_of_threads() {
        let counters = ShardedCounter::<2>::default();
        for _ in 0..5 {
            std::thread::scope(|scope| {
                for _ in 0..OWNED * 2 {
                    scope.spawn(|| (0..1_000).for_each(|n| counters.add(n % 2, 1 + n as u64 % 2)));
                }
            });
        }
        let threads = 5 * OWNED as u64 * 2;
        assert_eq!((counters.sum(0), counters.sum(1)), (threads * 500, threads * 1_000));
    }

    #[test]
    fn a_shard_is_a_cache_line() {
        assert_eq!((size_of::<CounterShard<8>>(), align_of::<CounterShard<1>>()), (64, 64));
    }
}
