//! [`ShardedCounter`]: counters that threads add to without meeting.
//!
//! Each thread owns a stripe, a cache line that no other thread writes: adding is a load and a store, without the lock
//! prefix that makes an atomic addition cost five times as much alone and far more in company. A thread that ends hands
//! its stripe on. Threads beyond [`OWNED`] share the last stripe and add atomically.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::lock::Mutex;

/// How many threads have a stripe of their own.
const OWNED: usize = 31;
/// The stripe of all others.
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
        let stripe = MINE.get();
        let Some(CounterShard(counters)) = self.0.get(stripe) else { return self.add_first(counter, n) };
        if stripe == SHARED {
            counters[counter].fetch_add(n, Ordering::Relaxed);
        } else {
            // No other thread writes here, so nothing comes between.
            let sum = counters[counter].load(Ordering::Relaxed).wrapping_add(n);
            counters[counter].store(sum, Ordering::Relaxed);
        }
    }

    #[cold]
    fn add_first(&self, counter: usize, n: u64) {
        MINE.set(LEASE.try_with(|lease| lease.0).unwrap_or(SHARED));
        self.add(counter, n);
    }

    /// The counter's sum over all stripes.
    pub(crate) fn sum(&self, counter: usize) -> u64 {
        self.0.iter().map(|CounterShard(counters)| counters[counter].load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

thread_local! {
    /// This thread's stripe.
    static MINE: Cell<usize> = const { Cell::new(UNKNOWN) };
    static LEASE: Lease = Lease::take();
}

/// A stripe for as long as its thread lives.
struct Lease(usize);

/// Stripes handed back, and the first that was never handed out.
static FREE: Mutex<(Vec<usize>, usize)> = Mutex::new((Vec::new(), 0));

impl Lease {
    fn take() -> Self {
        let mut free = FREE.lock();
        if let Some(stripe) = free.0.pop() {
            return Self(stripe);
        }
        let next = free.1.min(SHARED);
        free.1 = next + 1;
        Self(next)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What this thread still counts on its way out is added atomically: the stripe is somebody else's from here on.
        MINE.set(SHARED);
        if self.0 != SHARED {
            FREE.lock().0.push(self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_however_many_threads_come_and_go() {
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
    fn a_stripe_is_a_cache_line() {
        assert_eq!((size_of::<CounterShard<8>>(), align_of::<CounterShard<1>>()), (64, 64));
    }
}
