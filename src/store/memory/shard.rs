//! [`Shard`]: the keys under one lock, and eviction.
//!
//! A new key without a free slot samples [`SAMPLE`] random slots and replaces
//! 1. one whose state is equivalent to none (its limit is fully replenished), without loss;
//! 2. else the one that has used the smallest share of its limit;
//! 3. none, if none of them can afford another request of the cost of its last one: the new key then shares one of [`OVERFLOW`] buckets per shard, so that a
//!    flood never resets a limited key, and new keys are slowed in groups rather than rejected together.
//!
//! Each step is O(1): no request pays for a sweep.

use std::collections::HashMap;

use super::slab::Slab;
use super::table::{Slot, Table};
use crate::base::clock::Timestamp;
use crate::limit::algorithm::window::Log;
use crate::limit::{Check, KeyHistory, KeyHistoryMut, KeyState, Quota, Settlement, StateKind, Verdict};

/// Number of slots sampled for eviction.
const SAMPLE: usize = 8;
/// Number of buckets per shard shared by keys without a slot.
pub(super) const OVERFLOW: u64 = 16;

#[derive(Debug)]
pub(super) struct Shard {
    table: Table,
    pasts: WindowLogs,
    overflow: HashMap<u64, KeyState>,
    capacity: usize,
    evicted: u64,
    random: u64,
}

/// Logs of exact windows; a bucket's state is in its slot.
#[derive(Debug, Default)]
struct WindowLogs {
    narrow: Slab<Log<u16>>,
    wide: Slab<Log<u32>>,
}

impl Shard {
    /// Creates a shard for at most `capacity` keys.
    pub(super) fn new(capacity: usize, seed: u64) -> Self {
        Self {
            table: Table::default(),
            pasts: WindowLogs::default(),
            overflow: HashMap::new(),
            capacity,
            evicted: 0,
            random: 0x9E37_79B9_7F4A_7C15 ^ seed,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Evaluates a check without charging.
    pub(super) fn evaluate(&mut self, check: &Check, now: Timestamp) -> Verdict {
        self.with(check, now, |mut state| state.peek(check.quota, check.cost, now))
    }

    /// Evaluates a check, and charges it if admitted.
    #[inline(always)]
    pub(super) fn try_charge(&mut self, check: &Check, now: Timestamp) -> Verdict {
        self.with(check, now, |mut state| state.spend(check.quota, check.cost, now))
    }

    /// Charges a check that was [evaluated](Self::evaluate) under the same lock.
    pub(super) fn charge(&mut self, check: &Check, now: Timestamp) -> Verdict {
        self.with(check, now, |mut state| state.charge(check.quota, check.cost, now))
    }

    /// Refunds or charges the difference to the actual cost.
    pub(super) fn settle(&mut self, Settlement { check, at, actual }: &Settlement, now: Timestamp) {
        self.with(check, now, |mut state| {
            if *actual < check.cost {
                state.refund(check.quota, check.cost - actual, *at, now);
            } else if *actual > check.cost {
                state.peek(check.quota, 0, now);
                state.charge(check.quota, actual - check.cost, now);
            }
        });
    }

    /// Removes the key, and its use of this quota that was set aside. A bucket that it shares with others stays.
    pub(super) fn forget(&mut self, check: &Check) {
        let key = check.key.to_bits();
        for key in [key, aside(key, check.quota)] {
            if let Ok(at) = self.table.find(key) {
                let slot = self.table.remove(at);
                self.pasts.take(slot);
            }
        }
    }

    /// Returns the key's history under the check's quota; allocates a slot if it has none.
    #[inline(always)]
    fn with<R>(&mut self, check: &Check, now: Timestamp, f: impl FnOnce(KeyHistoryMut<'_>) -> R) -> R {
        let at = match self.table.find(check.key.to_bits()) {
            Ok(at) => at,
            Err(at) => match self.allocate(at, check, now) {
                Some(at) => at,
                None => return self.with_overflow_bucket(check, now, f),
            },
        };
        let mut slot = self.table.slot(at);
        if slot.quota != check.quota.packed() {
            let at = self.change_quota(at, check, now);
            slot = self.table.slot(at);
        }
        slot.cost = check.cost;
        self.pasts.with_history(slot, StateKind::of(check.quota), f)
    }

    /// Returns a slot for a new key, evicting another if necessary and possible.
    #[cold]
    fn allocate(&mut self, at: usize, check: &Check, now: Timestamp) -> Option<usize> {
        let (key, history) = (check.key.to_bits(), KeyHistory::none(check.quota));
        let at = self.make_room(at, key, None, now)?;
        self.insert(at, key, history, check.quota);
        Some(at)
    }

    /// Returns the index at which to insert a key, evicting another if necessary and possible, but not `kept`.
    fn make_room(&mut self, at: usize, key: u64, kept: Option<u64>, now: Timestamp) -> Option<usize> {
        let moved = if self.table.len() < self.capacity {
            self.table.widen(self.capacity)
        } else {
            let victim = self.select_victim(now)?;
            if kept == Some(self.table.slot(victim).key()) {
                return None;
            }
            let evicted_slot = self.table.remove(victim);
            self.pasts.take(evicted_slot);
            true
        };
        Some(if moved { self.table.find(key).unwrap_or_else(|slot| slot) } else { at })
    }

    fn insert(&mut self, at: usize, key: u64, history: KeyHistory, quota: Quota) {
        let state = self.pasts.put(history, self.capacity);
        self.table.insert(at, Slot::new(key, state, quota.packed()));
    }

    /// Gives a key another quota; returns its index.
    ///
    /// It carries its used share along, and takes up again what it had used under that quota before, if that is more:
    /// otherwise a key that changes to a shorter window and back would be as new. What is counted for longer than
    /// under the new quota is set aside for that, in a slot of its own.
    #[cold]
    fn change_quota(&mut self, at: usize, check: &Check, now: Timestamp) -> usize {
        let (key, quota) = (check.key.to_bits(), check.quota);
        let was = self.table.slot(at).quota.quota();
        let slot = self.table.remove(at);
        let mut old = self.pasts.take(slot);
        let own = self.take_aside(aside(key, quota), quota);
        let mut carried = old.clone().adapt(was, quota, now);
        if let Some(mut own) = own
            && own.borrow().share(quota, now) > carried.borrow().share(quota, now)
        {
            carried = own;
        }
        let at = self.table.find(key).unwrap_or_else(|at| at);
        self.insert(at, key, carried, quota);
        if was.memory_nanos() > quota.memory_nanos() && old.borrow().share(was, now) > 0 {
            self.put_aside(aside(key, was), old, was, key, now);
        }
        self.table.find(key).unwrap_or_else(|at| at)
    }

    fn take_aside(&mut self, key: u64, quota: Quota) -> Option<KeyHistory> {
        let at = self.table.find(key).ok()?;
        if self.table.slot(at).quota != quota.packed() {
            return None;
        }
        let slot = self.table.remove(at);
        Some(self.pasts.take(slot))
    }

    fn put_aside(&mut self, key: u64, history: KeyHistory, quota: Quota, kept: u64, now: Timestamp) {
        if let Err(at) = self.table.find(key)
            && let Some(at) = self.make_room(at, key, Some(kept.min(u64::MAX - 1)), now)
        {
            self.insert(at, key, history, quota);
        }
    }

    /// Selects the slot to evict: see the module documentation.
    fn select_victim(&mut self, now: Timestamp) -> Option<usize> {
        let mut best: Option<(u64, usize)> = None;
        for _ in 0..SAMPLE {
            let random = self.next_random();
            let at = self.table.any(random)?;
            let slot = self.table.slot(at);
            let (quota, cost) = (slot.quota.quota(), slot.cost.max(1));
            let (share, spent) = self.pasts.with_history(slot, StateKind::of(quota), |mut state| {
                (state.share(quota, now), !state.peek(quota, cost, now).admits())
            });
            if share == 0 {
                return Some(at);
            }
            if best.is_none_or(|(least, _)| share < least) && !spent {
                best = Some((share, at));
            }
        }
        self.evicted += u64::from(best.is_some());
        best.map(|(_, at)| at)
    }

    #[cold]
    fn with_overflow_bucket<R>(&mut self, check: &Check, now: Timestamp, f: impl FnOnce(KeyHistoryMut<'_>) -> R) -> R {
        let bucket = check.key.to_bits() % OVERFLOW;
        self.overflow.entry(bucket).or_insert_with(|| KeyState::new(check.quota)).with_history(check.quota, now, f)
    }

    /// xorshift64: sampling needs no secret.
    const fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl WindowLogs {
    #[inline(always)]
    fn with_history<R>(&mut self, slot: &mut Slot, kind: StateKind, f: impl FnOnce(KeyHistoryMut<'_>) -> R) -> R {
        match kind {
            StateKind::Narrow => f(KeyHistoryMut::Narrow(self.narrow.at(slot.state))),
            StateKind::Wide => f(KeyHistoryMut::Wide(self.wide.at(slot.state))),
            StateKind::Tat => {
                let mut tat = Timestamp::from_nanos(slot.state);
                let result = f(KeyHistoryMut::Tat(&mut tat));
                slot.state = tat.as_nanos();
                result
            }
        }
    }

    /// Stores a history; returns its representation in a slot.
    fn put(&mut self, state: KeyHistory, capacity: usize) -> u64 {
        match state {
            KeyHistory::Tat(tat) => tat.as_nanos(),
            KeyHistory::Narrow(log) => self.narrow.put(log, capacity),
            KeyHistory::Wide(log) => self.wide.put(log, capacity),
        }
    }

    fn take(&mut self, slot: Slot) -> KeyHistory {
        match StateKind::of(slot.quota.quota()) {
            StateKind::Tat => KeyHistory::Tat(Timestamp::from_nanos(slot.state)),
            StateKind::Narrow => KeyHistory::Narrow(self.narrow.take(slot.state)),
            StateKind::Wide => KeyHistory::Wide(self.wide.take(slot.state)),
        }
    }
}

/// Returns the key under which a key's use of an earlier quota is set aside, in the same shard.
fn aside(key: u64, quota: Quota) -> u64 {
    let mut mixed = 0xCBF2_9CE4_8422_2325_u64;
    for part in [u64::from(quota.limit()), quota.period().as_nanos() as u64, quota.memory_nanos()] {
        mixed = (mixed ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^= mixed >> 29;
    }
    key ^ (mixed >> 32 | 1)
}
