//! [`MemoryLimits`]: the in-process [`LimitStore`], bounded, without a sweep.
//!
//! Keys are spread over shards, each a mutex around an index and a slab of [`KeyState`]s. A decision locks the shards
//! of its checks in a fixed order, asks all, then charges all or none: no roll-back is ever seen by another thread.
//!
//! # When it is full
//!
//! A new key looks at [`SAMPLE`] random slots of its shard and takes the place of
//! 1. one that equals no state at all (its limit is whole again): nothing is lost;
//! 2. else the one that has used the smallest share of its limit;
//! 3. none, where every one of them is spent: the new key then shares one of [`OVERFLOW`] buckets per shard, so that a
//!    flood forgives no limited key, and newcomers are slowed in groups rather than locked out together.
//!
//! All of it is O(1): no request ever pays for a sweep.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::hashed::Hashed;
use crate::answer::Answer;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::KeyHash;
use crate::limit::{Check, KeyState, LimitStore, LimitStoreStats, Settlement, Verdict, Verdicts};

/// How many slots a newcomer looks at.
const SAMPLE: usize = 8;
/// How many buckets per shard are shared by newcomers that found no room.
const OVERFLOW: u64 = 16;
/// A shard for fewer keys than this is not worth its lock.
const KEYS_PER_SHARD: usize = 64;
const MOST_SHARDS: usize = 64;

/// Keeps at most a fixed number of keys in this process.
///
/// ```
/// use tollgate::key::KeyHash;
/// use tollgate::limit::{Check, LimitStore, Quota};
/// use tollgate::store::memory::MemoryLimits;
/// use tollgate::{Answer, Clock};
///
/// let store = MemoryLimits::new(100_000);
/// let check = Check::new(KeyHash::from_bits(7), Quota::per_minute(2));
/// let now = Clock::default().now();
/// let mut admitted = 0;
/// for _ in 0..3 {
///     let Answer::Ready(Ok(verdicts)) = store.decide(&[check], now) else { unreachable!() };
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

#[derive(Debug, Default)]
struct Shard {
    index: HashMap<KeyHash, u32, Hashed>,
    slots: Vec<Slot>,
    overflow: HashMap<u64, KeyState>,
    capacity: usize,
    evicted: u64,
    random: u64,
}

#[derive(Debug)]
struct Slot {
    key: KeyHash,
    state: KeyState,
}

impl MemoryLimits {
    /// A store of at most `capacity` keys (at least one). A token bucket takes a slot of 48 bytes and its place in the
    /// index, an exact window 232 bytes more; nothing is allocated before a key is seen.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let shards = (capacity / KEYS_PER_SHARD).clamp(1, MOST_SHARDS).next_power_of_two().min(MOST_SHARDS);
        let shard = |i: usize| {
            let share = capacity / shards + usize::from(i < capacity % shards);
            Padded(Mutex::new(Shard {
                capacity: share.max(1),
                random: 0x9E37_79B9_7F4A_7C15 ^ i as u64,
                ..Shard::default()
            }))
        };
        Self { shards: (0..shards).map(shard).collect(), capacity }
    }

    fn place(&self, key: KeyHash) -> usize {
        (key.to_bits() >> 32) as usize & (self.shards.len() - 1)
    }

    fn lock(&self, place: usize) -> MutexGuard<'_, Shard> {
        // A panic under the lock leaves valid, if incomplete, counters: going on is right, refusing everybody is not.
        self.shards[place].0.lock().unwrap_or_else(PoisonError::into_inner)
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
            [check] => smallvec::smallvec![self.lock(self.place(check.key)).run_one(check, now, charge)],
            [a, b] if self.place(a.key) != self.place(b.key) => self.run_two(a, b, now, charge),
            _ => self.run_many(checks, now, charge),
        }
    }

    fn run_two(&self, a: &Check, b: &Check, now: Timestamp, charge: bool) -> Verdicts {
        let (at_a, at_b) = (self.place(a.key), self.place(b.key));
        let (mut first, mut second) = (self.lock(at_a.min(at_b)), self.lock(at_a.max(at_b)));
        let (of_a, of_b) = if at_a < at_b { (&mut *first, &mut *second) } else { (&mut *second, &mut *first) };
        let (of_a, of_b) = (of_a.state(a, now), of_b.state(b, now));
        let mut asked = [of_a.ask(a.quota, a.cost, now), of_b.ask(b.quota, b.cost, now)];
        let admits = (asked[0].admits() || !a.enforced) && (asked[1].admits() || !b.enforced);
        if charge && admits {
            for (verdict, (state, check)) in asked.iter_mut().zip([(of_a, a), (of_b, b)]) {
                if verdict.admits() {
                    *verdict = state.charge(check.cost, now);
                }
            }
        }
        Verdicts::from_buf(asked)
    }

    fn run_many(&self, checks: &[Check], now: Timestamp, charge: bool) -> Verdicts {
        let mut locked = self.lock_all(checks);
        let mut asked = Verdicts::new();
        let mut found: SmallVec<[Found; 2]> = SmallVec::new();
        for check in checks {
            let (at, state) = locked.find(self.place(check.key), check, now);
            asked.push(state.ask(check.quota, check.cost, now));
            found.push(at);
        }
        if !charge || checks.iter().zip(&asked).any(|(check, verdict)| check.enforced && !verdict.admits()) {
            return asked;
        }
        for ((check, verdict), at) in checks.iter().zip(&mut asked).zip(found) {
            if verdict.admits() {
                *verdict = locked.again(at, check, now).charge(check.cost, now);
            }
        }
        asked
    }
}

impl LimitStore for MemoryLimits {
    fn decide(&self, checks: &[Check], now: Timestamp) -> Answer<Result<Verdicts, Error>> {
        Answer::Ready(Ok(self.run(checks, now, true)))
    }

    fn peek(&self, checks: &[Check], now: Timestamp) -> Answer<Result<Verdicts, Error>> {
        Answer::Ready(Ok(self.run(checks, now, false)))
    }

    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> Answer<Result<(), Error>> {
        for Settlement { check, at, actual } in settlements {
            let mut shard = self.lock(self.place(check.key));
            let state = shard.state(check, now);
            if *actual < check.cost {
                state.refund(check.quota, check.cost - actual, *at, now);
            } else if *actual > check.cost {
                state.ask(check.quota, 0, now);
                state.charge(actual - check.cost, now);
            }
        }
        Answer::Ready(Ok(()))
    }

    fn stats(&self) -> LimitStoreStats {
        let (mut keys, mut evicted) = (0, 0);
        for place in 0..self.shards.len() {
            let shard = self.lock(place);
            keys += shard.slots.len() as u64;
            evicted += shard.evicted;
        }
        LimitStoreStats::new(keys, self.capacity as u64, evicted)
    }
}

/// Several locked shards.
struct Locked<'a>(SmallVec<[(usize, MutexGuard<'a, Shard>); 2]>);

/// Where a key's state was found: which locked shard, and which of its slots.
type Found = (usize, Option<usize>);

impl Locked<'_> {
    fn find(&mut self, place: usize, check: &Check, now: Timestamp) -> (Found, &mut KeyState) {
        let held = self.0.iter().position(|(held, _)| *held == place).unwrap_or_default();
        let shard = &mut self.0[held].1;
        let slot = shard.slot(check, now);
        ((held, slot), shard.state_at(slot, check))
    }

    /// The state found a moment ago, unless a newcomer has taken its slot since.
    fn again(&mut self, (held, slot): Found, check: &Check, now: Timestamp) -> &mut KeyState {
        let shard = &mut self.0[held].1;
        let stays = slot.is_none_or(|slot| shard.slots[slot].key == check.key);
        let slot = if stays { slot } else { shard.slot(check, now) };
        shard.state_at(slot, check)
    }
}

impl Shard {
    fn run_one(&mut self, check: &Check, now: Timestamp, charge: bool) -> Verdict {
        let state = self.state(check, now);
        if charge { state.spend(check.quota, check.cost, now) } else { state.ask(check.quota, check.cost, now) }
    }

    /// The key's state, made where it is missing.
    fn state(&mut self, check: &Check, now: Timestamp) -> &mut KeyState {
        let slot = self.slot(check, now);
        self.state_at(slot, check)
    }

    /// The key's slot, taken where it has none; `None` where there is no room.
    fn slot(&mut self, check: &Check, now: Timestamp) -> Option<usize> {
        match self.index.get(&check.key) {
            Some(at) => Some(*at as usize),
            None => self.admit(check, now),
        }
    }

    fn state_at(&mut self, slot: Option<usize>, check: &Check) -> &mut KeyState {
        match slot {
            Some(at) => &mut self.slots[at].state,
            None => self.overflow_state(check),
        }
    }

    /// A slot for a new key, if there is room or somebody to make room.
    fn admit(&mut self, check: &Check, now: Timestamp) -> Option<usize> {
        let slot = Slot { key: check.key, state: KeyState::new(check.quota) };
        let at = if self.slots.len() < self.capacity {
            self.slots.push(slot);
            self.slots.len() - 1
        } else {
            let at = self.victim(now)?;
            let old = std::mem::replace(&mut self.slots[at], slot);
            self.index.remove(&old.key);
            at
        };
        self.index.insert(check.key, at as u32);
        Some(at)
    }

    /// Whom to forget: see the module's essay.
    fn victim(&mut self, now: Timestamp) -> Option<usize> {
        let mut best: Option<(u64, usize)> = None;
        for _ in 0..SAMPLE {
            let at = self.next_random() as usize % self.slots.len();
            let state = &mut self.slots[at].state;
            let share = state.share(now);
            if share == 0 {
                return Some(at);
            }
            if best.is_none_or(|(least, _)| share < least) && !state.is_spent(now) {
                best = Some((share, at));
            }
        }
        self.evicted += u64::from(best.is_some());
        best.map(|(_, at)| at)
    }

    fn overflow_state(&mut self, check: &Check) -> &mut KeyState {
        self.overflow.entry(check.key.to_bits() % OVERFLOW).or_insert_with(|| KeyState::new(check.quota))
    }

    /// xorshift64: which slot to look at needs no secret.
    const fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests;
