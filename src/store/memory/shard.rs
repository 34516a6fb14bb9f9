//! [`Shard`]: the keys under one lock, and eviction.
//!
//! A new key without a free slot samples [`SAMPLE`] random slots and replaces
//! 1. one whose state is equivalent to none (its limit is fully replenished), without loss;
//! 2. else the one that has used the smallest share of its limit;
//! 3. none, if all of them are exhausted: the new key then shares one of [`OVERFLOW`] buckets per shard, so that a
//!    flood never resets an exhausted key, and new keys are slowed in groups rather than rejected together.
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
        let slot = self.table.slot(at);
        if slot.quota != check.quota.packed() {
            self.pasts.adapt(slot, check.quota, now);
        }
        self.pasts.with_history(slot, StateKind::of(check.quota), f)
    }

    /// Returns a slot for a new key, evicting another if necessary and possible.
    #[cold]
    fn allocate(&mut self, mut at: usize, check: &Check, now: Timestamp) -> Option<usize> {
        let key = check.key.to_bits();
        let moved = if self.table.len() < self.capacity {
            self.table.widen(self.capacity)
        } else {
            let select_victim = self.select_victim(now)?;
            let evicted_slot = self.table.remove(select_victim);
            self.pasts.take(evicted_slot);
            true
        };
        if moved {
            at = self.table.find(key).unwrap_or_else(|slot| slot);
        }
        let state = self.pasts.put(KeyHistory::none(check.quota), self.capacity);
        self.table.insert(at, Slot::new(key, state, check.quota.packed()));
        Some(at)
    }

    /// Selects the slot to evict: see the module documentation.
    fn select_victim(&mut self, now: Timestamp) -> Option<usize> {
        let mut best: Option<(u64, usize)> = None;
        for _ in 0..SAMPLE {
            let random = self.next_random();
            let at = self.table.any(random)?;
            let slot = self.table.slot(at);
            let quota = slot.quota.quota();
            let (share, spent) = self.pasts.with_history(slot, StateKind::of(quota), |mut state| {
                (state.share(quota, now), state.is_spent(quota, now))
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

    #[cold]
    fn adapt(&mut self, slot: &mut Slot, quota: Quota, now: Timestamp) {
        let state = self.take(*slot).adapt(slot.quota.quota(), quota, now);
        slot.state = self.put(state, usize::MAX);
        slot.quota = quota.packed();
    }
}
