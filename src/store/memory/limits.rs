//! [`MemoryLimits`]: in-process [`LimitStore`] of fixed capacity, without sweeps.
//!
//! Keys are spread over shards, each a mutex around a table. A decision locks the shards of its checks in a fixed
//! order, evaluates all, then charges all or none: other threads never observe a roll-back.
//!
//! `shard.rs` selects the key to evict when the store is full, in O(1).

use std::sync::MutexGuard;

use smallvec::SmallVec;

use super::shard::Shard;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::MaybeReady;
use crate::identity::KeyHash;
use crate::limit::{Check, LimitStore, LimitStoreStats, Settlement, Verdict, Verdicts};

/// Minimum number of keys per shard.
const KEYS_PER_SHARD: usize = 64;
const MAX_SHARDS: usize = 64;
/// Spin iterations of the first pause before retrying a held lock; some hundred nanoseconds.
const FIRST_PAUSE: u32 = 16;
/// Number of retries before blocking.
const MAX_PAUSES: u32 = 5;

/// Rate-limit state of a fixed number of keys in this process.
///
/// ```
/// use tollgate::identity::KeyHash;
/// use tollgate::limit::{Check, LimitStore, Quota};
/// use tollgate::store::memory::MemoryLimits;
/// use tollgate::{MaybeReady, Clock};
///
/// let store = MemoryLimits::new(100_000);
/// let check = Check::new(KeyHash::from_bits(7), Quota::per_minute(2));
/// let now = Clock::default().now();
/// let mut admitted = 0;
/// for _ in 0..3 {
///     let MaybeReady::Ready(Ok(verdicts)) = store.decide(&[check], now) else { unreachable!() };
///     admitted += u32::from(verdicts[0].admits());
/// }
/// assert_eq!(admitted, 2);
/// ```
#[derive(Debug)]
pub struct MemoryLimits {
    shards: Box<[Padded]>,
    capacity: usize,
}

/// Aligned to a cache line, so that adjacent locks do not contend.
#[derive(Debug)]
#[repr(align(64))]
struct Padded(Mutex<Shard>);

impl MemoryLimits {
    /// Creates a store of at most `capacity` keys (at least one). A full store takes 40 bytes for each token bucket and
    /// 160 for each exact window (264 if the limit exceeds 65 535); memory is allocated as keys arrive.
    ///
    /// When full, it evicts a key whose state is equivalent to none (its limit is fully replenished), without loss;
    /// otherwise the one of eight random keys that has used the smallest share of its limit. If all eight are
    /// exhausted, new keys share a few buckets: a flood of keys never resets an exhausted one, and new keys are slowed
    /// in groups rather than rejected together.
    ///
    /// ```
    /// use tollgate::limit::LimitStore;
    /// use tollgate::store::memory::MemoryLimits;
    ///
    /// let store = MemoryLimits::new(100_000);
    /// assert_eq!(store.stats().keys, 0);
    /// ```
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let shards = (capacity / KEYS_PER_SHARD).clamp(1, MAX_SHARDS).next_power_of_two().min(MAX_SHARDS);
        let shard = |i: usize| {
            let share = capacity / shards + usize::from(i < capacity % shards);
            Padded(Mutex::new(Shard::new(share.max(1), i as u64)))
        };
        Self { shards: (0..shards).map(shard).collect(), capacity }
    }

    fn index(&self, key: KeyHash) -> usize {
        (key.to_bits() >> 32) as usize & (self.shards.len() - 1)
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[index].0;
        // A panic under the lock leaves valid, if incomplete, counters: continuing is better than rejecting all
        // requests.
        match shard.try_lock() {
            Some(locked) => locked,
            None => wait_for(shard),
        }
    }

    /// Locks the shards of these checks in ascending order.
    fn lock_all(&self, checks: &[Check]) -> Locked<'_> {
        let mut locked = SmallVec::new();
        let mut next = 0;
        let above =
            |least: usize| checks.iter().map(|check| self.index(check.key)).filter(move |index| *index >= least).min();
        while let Some(index) = above(next) {
            locked.push((index, self.lock(index)));
            next = index + 1;
        }
        Locked(locked)
    }

    /// One or two limits are the usual case, without a list of locks.
    fn run(&self, checks: &[Check], now: Timestamp, charge: bool) -> Verdicts {
        match checks {
            [check] if charge => Verdicts::from(self.lock(self.index(check.key)).try_charge(check, now)),
            [check] => Verdicts::from(self.lock(self.index(check.key)).evaluate(check, now)),
            [a, b] if self.index(a.key) != self.index(b.key) => self.run_two(a, b, now, charge),
            _ => self.run_many(checks, now, charge),
        }
    }

    fn run_two(&self, a: &Check, b: &Check, now: Timestamp, charge: bool) -> Verdicts {
        let (at_a, at_b) = (self.index(a.key), self.index(b.key));
        let (mut first, mut second) = (self.lock(at_a.min(at_b)), self.lock(at_a.max(at_b)));
        let (of_a, of_b) = if at_a < at_b { (&mut *first, &mut *second) } else { (&mut *second, &mut *first) };
        let mut evaluated = [of_a.evaluate(a, now), of_b.evaluate(b, now)];
        let admits = (evaluated[0].admits() || !a.enforced) && (evaluated[1].admits() || !b.enforced);
        if charge && admits {
            for (verdict, (shard, check)) in evaluated.iter_mut().zip([(of_a, a), (of_b, b)]) {
                if verdict.admits() {
                    *verdict = shard.charge(check, now);
                }
            }
        }
        Verdicts::two(evaluated)
    }

    fn run_many(&self, checks: &[Check], now: Timestamp, charge: bool) -> Verdicts {
        let mut locked = self.lock_all(checks);
        let mut evaluated: Verdicts =
            checks.iter().map(|check| locked.shard(self.index(check.key)).evaluate(check, now)).collect();
        if !charge || checks.iter().zip(&evaluated).any(|(check, verdict)| check.enforced && !verdict.admits()) {
            return evaluated;
        }
        for (check, verdict) in checks.iter().zip(evaluated.iter_mut()) {
            if verdict.admits() {
                *verdict = locked.shard(self.index(check.key)).charge(check, now);
            }
        }
        evaluated
    }
}

impl LimitStore for MemoryLimits {
    fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        MaybeReady::Ready(Ok(self.run(checks, now, true)))
    }

    fn decide_one(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        Some(self.lock(self.index(check.key)).try_charge(check, now))
    }

    fn peek(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        MaybeReady::Ready(Ok(self.run(checks, now, false)))
    }

    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>> {
        for settlement in settlements {
            self.lock(self.index(settlement.check.key)).settle(settlement, now);
        }
        MaybeReady::Ready(Ok(()))
    }

    fn reset(&self, checks: &[Check]) -> MaybeReady<Result<(), Error>> {
        for check in checks {
            self.lock(self.index(check.key)).forget(check);
        }
        MaybeReady::Ready(Ok(()))
    }

    fn stats(&self) -> LimitStoreStats {
        let (mut keys, mut evicted) = (0, 0);
        for index in 0..self.shards.len() {
            let shard = self.lock(index);
            keys += shard.len() as u64;
            evicted += shard.evicted();
        }
        LimitStoreStats::new(keys, self.capacity as u64, evicted)
    }
}

/// Waits for a lock that is usually held for tens of nanoseconds. Polling takes the cache line from the holder, so each
/// pause is twice as long as the last: two threads on one key make about twice as many decisions.
#[cold]
fn wait_for(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    for attempt in 0..MAX_PAUSES {
        (0..FIRST_PAUSE << attempt).for_each(|_| std::hint::spin_loop());
        if let Some(locked) = shard.try_lock() {
            return locked;
        }
    }
    shard.lock()
}

/// Several locked shards.
struct Locked<'a>(SmallVec<[(usize, MutexGuard<'a, Shard>); 2]>);

impl Locked<'_> {
    /// Returns the shard at this index, which must be locked.
    fn shard(&mut self, index: usize) -> &mut Shard {
        let locked = self.0.iter().position(|(locked, _)| *locked == index).unwrap_or_default();
        &mut self.0[locked].1
    }
}

#[cfg(test)]
mod tests;
