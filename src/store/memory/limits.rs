//! [`MemoryLimits`]: the in-process [`LimitStore`], bounded, without a sweep.
//!
//! Keys are spread over shards, each a mutex around a table of keys. A decision locks the shards of its checks in a
//! fixed order, asks all, then charges all or none: no roll-back is ever seen by another thread.
//!
//! Who makes room when it is full is told in `shard.rs`: whoever stands furthest from its limit, in O(1).

use std::sync::MutexGuard;

use smallvec::SmallVec;

use super::shard::Shard;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::MaybeReady;
use crate::identity::KeyHash;
use crate::limit::{Check, LimitStore, LimitStoreStats, Settlement, Verdict, Verdicts};

/// A shard for fewer keys than this is not worth its lock.
const KEYS_PER_SHARD: usize = 64;
const MOST_SHARDS: usize = 64;
/// How long to pause before a lock that is held is tried again, in turns of a spinning loop; some hundred nanoseconds.
const PAUSE: u32 = 16;
/// How often it is tried, before its holder is taken to be asleep.
const PAUSES: u32 = 5;

/// Keeps at most a fixed number of keys in this process.
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

/// One shard to a cache line, so that neighbours' locks do not slow each other.
#[derive(Debug)]
#[repr(align(64))]
struct Padded(Mutex<Shard>);

impl MemoryLimits {
    /// A store of at most `capacity` keys (at least one). A full store takes 40 bytes for each token bucket and 160 for
    /// each exact window (264 where the limit is over 65 535); nothing is allocated before a key is seen.
    ///
    /// What it is asked to do about more keys: one that equals no state at all (its limit is whole again) makes room,
    /// at
    /// no loss; else, of eight picked at random, the one that has used the smallest share of its limit. Where all of
    /// those are spent, newcomers share a few buckets: a flood of keys forgives no limited one, and newcomers are
    /// slowed
    /// in groups rather than locked out together.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let shards = (capacity / KEYS_PER_SHARD).clamp(1, MOST_SHARDS).next_power_of_two().min(MOST_SHARDS);
        let shard = |i: usize| {
            let share = capacity / shards + usize::from(i < capacity % shards);
            Padded(Mutex::new(Shard::new(share.max(1), i as u64)))
        };
        Self { shards: (0..shards).map(shard).collect(), capacity }
    }

    fn place(&self, key: KeyHash) -> usize {
        (key.to_bits() >> 32) as usize & (self.shards.len() - 1)
    }

    fn lock(&self, place: usize) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[place].0;
        // A panic under the lock leaves valid, if incomplete, counters: going on is right, refusing everybody is not.
        match shard.try_lock() {
            Some(locked) => locked,
            None => wait_for(shard),
        }
    }

    /// The shards of these checks, locked in ascending order: each time the lowest that is not locked yet.
    fn lock_all(&self, checks: &[Check]) -> Locked<'_> {
        let mut locked = SmallVec::new();
        let mut next = 0;
        let above =
            |least: usize| checks.iter().map(|check| self.place(check.key)).filter(move |place| *place >= least).min();
        while let Some(place) = above(next) {
            locked.push((place, self.lock(place)));
            next = place + 1;
        }
        Locked(locked)
    }

    /// One limit and two limits are what nearly every request meets: they go without a list of locks.
    fn run(&self, checks: &[Check], now: Timestamp, charge: bool) -> Verdicts {
        match checks {
            [check] if charge => smallvec::smallvec![self.lock(self.place(check.key)).spend(check, now)],
            [check] => smallvec::smallvec![self.lock(self.place(check.key)).ask(check, now)],
            [a, b] if self.place(a.key) != self.place(b.key) => self.run_two(a, b, now, charge),
            _ => self.run_many(checks, now, charge),
        }
    }

    fn run_two(&self, a: &Check, b: &Check, now: Timestamp, charge: bool) -> Verdicts {
        let (at_a, at_b) = (self.place(a.key), self.place(b.key));
        let (mut first, mut second) = (self.lock(at_a.min(at_b)), self.lock(at_a.max(at_b)));
        let (of_a, of_b) = if at_a < at_b { (&mut *first, &mut *second) } else { (&mut *second, &mut *first) };
        let mut asked = [of_a.ask(a, now), of_b.ask(b, now)];
        let admits = (asked[0].admits() || !a.enforced) && (asked[1].admits() || !b.enforced);
        if charge && admits {
            for (verdict, (shard, check)) in asked.iter_mut().zip([(of_a, a), (of_b, b)]) {
                if verdict.admits() {
                    *verdict = shard.charge(check, now);
                }
            }
        }
        Verdicts::from_buf(asked)
    }

    fn run_many(&self, checks: &[Check], now: Timestamp, charge: bool) -> Verdicts {
        let mut locked = self.lock_all(checks);
        let mut asked: Verdicts =
            checks.iter().map(|check| locked.shard(self.place(check.key)).ask(check, now)).collect();
        if !charge || checks.iter().zip(&asked).any(|(check, verdict)| check.enforced && !verdict.admits()) {
            return asked;
        }
        for (check, verdict) in checks.iter().zip(&mut asked) {
            if verdict.admits() {
                *verdict = locked.shard(self.place(check.key)).charge(check, now);
            }
        }
        asked
    }
}

impl LimitStore for MemoryLimits {
    fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        MaybeReady::Ready(Ok(self.run(checks, now, true)))
    }

    fn decide_one(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        Some(self.lock(self.place(check.key)).spend(check, now))
    }

    fn peek(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        MaybeReady::Ready(Ok(self.run(checks, now, false)))
    }

    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>> {
        for settlement in settlements {
            self.lock(self.place(settlement.check.key)).settle(settlement, now);
        }
        MaybeReady::Ready(Ok(()))
    }

    fn stats(&self) -> LimitStoreStats {
        let (mut keys, mut evicted) = (0, 0);
        for place in 0..self.shards.len() {
            let shard = self.lock(place);
            keys += shard.len() as u64;
            evicted += shard.evicted();
        }
        LimitStoreStats::new(keys, self.capacity as u64, evicted)
    }
}

/// Waits for a lock that is held for some tens of nanoseconds. Looking again and again takes the line from who holds
/// it, so
/// each pause is twice as long as the last: two threads at one key get through about twice as many decisions.
#[cold]
fn wait_for(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    for turn in 0..PAUSES {
        (0..PAUSE << turn).for_each(|_| std::hint::spin_loop());
        if let Some(locked) = shard.try_lock() {
            return locked;
        }
    }
    shard.lock()
}

/// Several locked shards.
struct Locked<'a>(SmallVec<[(usize, MutexGuard<'a, Shard>); 2]>);

impl Locked<'_> {
    /// The shard at this place, which is one of those locked.
    fn shard(&mut self, place: usize) -> &mut Shard {
        let held = self.0.iter().position(|(held, _)| *held == place).unwrap_or_default();
        &mut self.0[held].1
    }
}

#[cfg(test)]
mod tests;
