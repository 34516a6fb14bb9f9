//! Local cache of decisions: refusals until their retry time, and leases.
//!
//! A fixed table, each key in the one slot its name points to: bounded, O(1), no sweep. Where two keys want a slot, the
//! one that is refused or leased keeps it and the other is asked for each time.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::protocol::SoldUnits;
use crate::base::clock::Timestamp;
use crate::base::lock::Mutex;
use crate::limit::algorithm::lease::{LeaseAccount, Unspent, life};
use crate::limit::{Quota, Verdict};

/// How many keys are remembered: 2¹⁴.
const SLOTS: usize = 1 << 14;

#[derive(Debug)]
pub(super) struct LocalCache {
    slots: Box<[Mutex<Slot>]>,
    /// When the last refusal ends: after it, nobody need be looked for.
    refusing: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: u64,
    quota: Option<Quota>,
    /// Refused until then, for as much as `cost`.
    until: Timestamp,
    cost: u32,
    remaining: u32,
    /// When the limit will be whole again, as far as is known.
    whole: Timestamp,
    account: LeaseAccount,
}

/// Payment from a lease.
pub(super) struct LeasePayment {
    pub(super) verdict: Verdict,
    /// A new block should be bought soon.
    pub(super) runs_low: bool,
}

impl LocalCache {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Mutex::default()).collect(), refusing: AtomicU64::new(0) }
    }

    /// A refusal that still holds.
    pub(super) fn refusal(&self, key: u64, quota: Quota, cost: u32, now: Timestamp) -> Option<Verdict> {
        if now.as_nanos() >= self.refusing.load(Ordering::Relaxed) {
            return None;
        }
        let slot = self.lock(key);
        let holds = slot.is(key, quota) && now < slot.until && cost >= slot.cost;
        holds.then(|| Verdict::new(Some(slot.until.since(now)), slot.remaining, slot.whole.since(now)))
    }

    pub(super) fn refused(&self, key: u64, quota: Quota, cost: u32, verdict: &Verdict, at: Timestamp) {
        let Some(wait) = verdict.wait() else { return };
        if let Some(mut slot) = self.claim(key, quota, at) {
            slot.until = at + wait;
            self.refusing.fetch_max(slot.until.as_nanos(), Ordering::Relaxed);
            (slot.cost, slot.remaining, slot.whole) = (cost, verdict.remaining(), at + verdict.reset());
        }
    }

    /// Something was given back: what was refused may be admitted now.
    pub(super) fn forget_refusal(&self, key: u64) {
        let mut slot = self.lock(key);
        if slot.key == key {
            slot.until = Timestamp::ZERO;
        }
    }

    /// Pays from a lease, where there is one that suffices.
    pub(super) fn pay(&self, key: u64, quota: Quota, cost: u32, now: Timestamp) -> Option<LeasePayment> {
        let mut slot = self.lock(key);
        if !slot.is(key, quota) {
            return None;
        }
        let left = slot.account.spend(cost, now)?;
        let verdict = Verdict::new(None, left, slot.whole.since(now));
        Some(LeasePayment { verdict, runs_low: slot.account.runs_low() })
    }

    pub(super) fn unpay(&self, key: u64, quota: Quota, cost: u32) {
        let mut slot = self.lock(key);
        if slot.is(key, quota) {
            slot.account.unspend(cost);
        }
    }

    /// How much to buy of a key that is about to be asked for, and for how long; nothing where it is not hot.
    pub(super) fn order(
        &self,
        key: u64,
        quota: Quota,
        cost: u32,
        now: Timestamp,
        store_us: u64,
    ) -> Option<(u32, Duration)> {
        let life = life(quota, store_us)?;
        let mut slot = self.claim(key, quota, now)?;
        if cost > 0 {
            slot.account.asked(cost, now, life);
        }
        let wanted = slot.account.order(now, life);
        (wanted > 0).then_some((wanted, life))
    }

    /// Takes what was bought, for a question asked at `sent`. Gives what was left of the lease before.
    pub(super) fn bought(
        &self,
        (key, quota): (u64, Quota),
        sold: SoldUnits,
        store_us: u64,
        sent: Timestamp,
    ) -> Option<Unspent> {
        let mut slot = self.lock(key);
        if !slot.is(key, quota) {
            return (sold.units > 0).then_some(Unspent { units: sold.units, charged: store_us });
        }
        slot.whole = slot.whole.max(sent + sold.life + quota.period());
        slot.account.bought(sold.units, sent + sold.life, store_us, sent)
    }

    pub(super) fn order_failed(&self, key: u64, quota: Quota) {
        let mut slot = self.lock(key);
        if slot.is(key, quota) {
            slot.account.failed();
        }
    }

    /// Unspent units of an expired lease.
    pub(super) fn expire(&self, key: u64, quota: Quota, now: Timestamp) -> Option<Unspent> {
        let mut slot = self.lock(key);
        if slot.is(key, quota) { slot.account.expire(now) } else { None }
    }

    /// The key's slot, taken over where nobody needs it.
    fn claim(&self, key: u64, quota: Quota, now: Timestamp) -> Option<MutexGuard<'_, Slot>> {
        let mut slot = self.lock(key);
        if !slot.is(key, quota) {
            if now < slot.until || slot.account.is_live(now) {
                return None;
            }
            *slot = Slot { key, quota: Some(quota), ..Slot::default() };
        }
        Some(slot)
    }

    fn lock(&self, key: u64) -> MutexGuard<'_, Slot> {
        self.slots[key as usize & (SLOTS - 1)].lock()
    }
}

impl Slot {
    fn is(&self, key: u64, quota: Quota) -> bool {
        self.key == key && self.quota == Some(quota)
    }
}
