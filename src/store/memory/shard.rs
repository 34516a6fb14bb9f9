//! [`Shard`]: one lock's share of the keys, and who makes room when it is full.
//!
//! A new key that finds no room looks at [`SAMPLE`] random slots and takes the place of
//! 1. one that equals no state at all (its limit is whole again): nothing is lost;
//! 2. else the one that has used the smallest share of its limit;
//! 3. none, where every one of them is spent: the new key then shares one of [`OVERFLOW`] buckets per shard, so that a
//!    flood forgives no limited key, and newcomers are slowed in groups rather than locked out together.
//!
//! All of it is O(1): no request ever pays for a sweep.

use std::collections::HashMap;

use super::slab::Slab;
use super::table::{Slot, Table};
use crate::base::clock::Timestamp;
use crate::limit::algorithm::window::Log;
use crate::limit::{Check, KeyHistory, KeyHistoryMut, KeyState, Quota, Settlement, StateKind, Verdict};

/// How many slots a newcomer looks at.
const SAMPLE: usize = 8;
/// How many buckets per shard are shared by newcomers that found no room.
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

/// The logs of windows; a bucket's past is in its slot.
#[derive(Debug, Default)]
struct WindowLogs {
    narrow: Slab<Log<u16>>,
    wide: Slab<Log<u32>>,
}

impl Shard {
    /// For at most `capacity` keys.
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

    /// Asks without charging.
    pub(super) fn ask(&mut self, check: &Check, now: Timestamp) -> Verdict {
        self.with(check, now, |mut past| past.peek(check.quota, check.cost, now))
    }

    /// Asks, and charges where the answer is yes.
    #[inline(always)]
    pub(super) fn spend(&mut self, check: &Check, now: Timestamp) -> Verdict {
        self.with(check, now, |mut past| past.spend(check.quota, check.cost, now))
    }

    /// Charges what was [asked](Self::ask) a moment ago.
    pub(super) fn charge(&mut self, check: &Check, now: Timestamp) -> Verdict {
        self.with(check, now, |mut past| past.charge(check.quota, check.cost, now))
    }

    /// Gives back, or charges, the difference to what the check really cost.
    pub(super) fn settle(&mut self, Settlement { check, at, actual }: &Settlement, now: Timestamp) {
        self.with(check, now, |mut past| {
            if *actual < check.cost {
                past.refund(check.quota, check.cost - actual, *at, now);
            } else if *actual > check.cost {
                past.peek(check.quota, 0, now);
                past.charge(check.quota, actual - check.cost, now);
            }
        });
    }

    /// Returns the key's history under the check's quota; allocates a slot if it has none.
    #[inline(always)]
    fn with<R>(&mut self, check: &Check, now: Timestamp, f: impl FnOnce(KeyHistoryMut<'_>) -> R) -> R {
        let at = match self.table.find(check.key.to_bits()) {
            Ok(at) => at,
            Err(at) => match self.admit(at, check, now) {
                Some(at) => at,
                None => return self.in_overflow(check, now, f),
            },
        };
        let slot = self.table.slot(at);
        if slot.quota != check.quota.packed() {
            self.pasts.adapt(slot, check.quota, now);
        }
        self.pasts.lend(slot, StateKind::of(check.quota), f)
    }

    /// A slot for a new key that belongs there, if there is room or somebody to make room.
    #[cold]
    fn admit(&mut self, mut at: usize, check: &Check, now: Timestamp) -> Option<usize> {
        let key = check.key.to_bits();
        let moved = if self.table.len() < self.capacity {
            self.table.widen(self.capacity)
        } else {
            let victim = self.victim(now)?;
            let gone = self.table.remove(victim);
            self.pasts.take(gone);
            true
        };
        if moved {
            at = self.table.find(key).unwrap_or_else(|place| place);
        }
        let past = self.pasts.put(KeyHistory::none(check.quota), self.capacity);
        self.table.insert(at, Slot::new(key, past, check.quota.packed()));
        Some(at)
    }

    /// Whom to forget: see the module's essay.
    fn victim(&mut self, now: Timestamp) -> Option<usize> {
        let mut best: Option<(u64, usize)> = None;
        for _ in 0..SAMPLE {
            let random = self.next_random();
            let at = self.table.any(random)?;
            let slot = self.table.slot(at);
            let quota = slot.quota.quota();
            let (share, spent) = self
                .pasts
                .lend(slot, StateKind::of(quota), |mut past| (past.share(quota, now), past.is_spent(quota, now)));
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
    fn in_overflow<R>(&mut self, check: &Check, now: Timestamp, f: impl FnOnce(KeyHistoryMut<'_>) -> R) -> R {
        let bucket = check.key.to_bits() % OVERFLOW;
        self.overflow.entry(bucket).or_insert_with(|| KeyState::new(check.quota)).with_history(check.quota, now, f)
    }

    /// xorshift64: which slot to look at needs no secret.
    const fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl WindowLogs {
    #[inline(always)]
    fn lend<R>(&mut self, slot: &mut Slot, kind: StateKind, f: impl FnOnce(KeyHistoryMut<'_>) -> R) -> R {
        match kind {
            StateKind::Narrow => f(KeyHistoryMut::Narrow(self.narrow.at(slot.past))),
            StateKind::Wide => f(KeyHistoryMut::Wide(self.wide.at(slot.past))),
            StateKind::Tat => {
                let mut tat = Timestamp::from_nanos(slot.past);
                let result = f(KeyHistoryMut::Tat(&mut tat));
                slot.past = tat.as_nanos();
                result
            }
        }
    }

    /// State that a slot stores of this history.
    fn put(&mut self, past: KeyHistory, most: usize) -> u64 {
        match past {
            KeyHistory::Tat(tat) => tat.as_nanos(),
            KeyHistory::Narrow(log) => self.narrow.put(log, most),
            KeyHistory::Wide(log) => self.wide.put(log, most),
        }
    }

    fn take(&mut self, slot: Slot) -> KeyHistory {
        match StateKind::of(slot.quota.quota()) {
            StateKind::Tat => KeyHistory::Tat(Timestamp::from_nanos(slot.past)),
            StateKind::Narrow => KeyHistory::Narrow(self.narrow.take(slot.past)),
            StateKind::Wide => KeyHistory::Wide(self.wide.take(slot.past)),
        }
    }

    #[cold]
    fn adapt(&mut self, slot: &mut Slot, quota: Quota, now: Timestamp) {
        let past = self.take(*slot).adapt(slot.quota.quota(), quota, now);
        slot.past = self.put(past, usize::MAX);
        slot.quota = quota.packed();
    }
}
