//! Local cache of refusals, until their retry time, and of leases.
//!
//! A fixed table in which each key has one slot, selected by its name: bounded, O(1), no sweep. If two keys compete for
//! a slot, the refused or leased one keeps it and the other is not cached.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::group::SoldUnits;
use crate::base::clock::Timestamp;
use crate::base::lock::Mutex;
use crate::limit::algorithm::lease::{LeaseAccount, Unspent, life};
use crate::limit::{Quota, Verdict};

/// Number of slots.
const SLOTS: usize = 1 << 14;

#[derive(Debug)]
pub(super) struct LocalCache {
    slots: Box<[Mutex<Slot>]>,
    /// End of the last refusal, after which no look-up is needed.
    refused_until: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: u64,
    quota: Option<Quota>,
    /// End of a refusal of `cost` units.
    until: Timestamp,
    cost: u32,
    remaining: u32,
    /// Time at which the limit is expected to be fully replenished.
    replenished_at: Timestamp,
    account: LeaseAccount,
}

/// Payment from a lease.
pub(super) struct LeasePayment {
    pub(super) verdict: Verdict,
    /// The next block should be leased soon.
    pub(super) runs_low: bool,
}

impl LocalCache {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Mutex::default()).collect(), refused_until: AtomicU64::new(0) }
    }

    /// Returns a cached refusal that is still valid.
    pub(super) fn refusal(&self, key: u64, quota: Quota, cost: u32, now: Timestamp) -> Option<Verdict> {
        if now.as_nanos() >= self.refused_until.load(Ordering::Relaxed) {
            return None;
        }
        let slot = self.lock(key);
        let holds = slot.is(key, quota) && now < slot.until && cost >= slot.cost;
        holds.then(|| Verdict::new(Some(slot.until.since(now)), slot.remaining, slot.replenished_at.since(now)))
    }

    pub(super) fn refused(&self, key: u64, quota: Quota, cost: u32, verdict: &Verdict, at: Timestamp) {
        let Some(wait) = verdict.wait() else { return };
        if let Some(mut slot) = self.take_slot(key, quota, at) {
            slot.until = at + wait;
            self.refused_until.fetch_max(slot.until.as_nanos(), Ordering::Relaxed);
            (slot.cost, slot.remaining, slot.replenished_at) = (cost, verdict.remaining(), at + verdict.reset());
        }
    }

    /// Clears a refusal after a refund.
    pub(super) fn clear_refusal(&self, key: u64) {
        let mut slot = self.lock(key);
        if slot.key == key {
            slot.until = Timestamp::ZERO;
        }
    }

    /// Pays from a lease with sufficient units.
    pub(super) fn pay(&self, key: u64, quota: Quota, cost: u32, now: Timestamp) -> Option<LeasePayment> {
        let mut slot = self.lock(key);
        if !slot.is(key, quota) {
            return None;
        }
        let left = slot.account.spend(cost, now)?;
        let verdict = Verdict::new(None, left, slot.replenished_at.since(now));
        Some(LeasePayment { verdict, runs_low: slot.account.runs_low() })
    }

    pub(super) fn undo_payment(&self, key: u64, quota: Quota, cost: u32) {
        let mut slot = self.lock(key);
        if slot.is(key, quota) {
            slot.account.unspend(cost);
        }
    }

    /// Returns the number of units to lease for a key, and for how long; `None` if it is not hot.
    pub(super) fn lease_order(
        &self,
        key: u64,
        quota: Quota,
        cost: u32,
        now: Timestamp,
        store_us: u64,
    ) -> Option<(u32, Duration)> {
        let ttl = life(quota, store_us)?;
        let mut slot = self.take_slot(key, quota, now)?;
        if cost > 0 {
            slot.account.asked(cost, now, ttl);
        }
        let units = slot.account.order(now, ttl);
        (units > 0).then_some((units, ttl))
    }

    /// Records a block leased by a call sent at `sent`; returns the units left of the previous lease.
    pub(super) fn record_lease(
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
        slot.replenished_at = slot.replenished_at.max(sent + sold.ttl + quota.period());
        slot.account.bought(sold.units, sent + sold.ttl, store_us, sent)
    }

    pub(super) fn lease_order_failed(&self, key: u64, quota: Quota) {
        let mut slot = self.lock(key);
        if slot.is(key, quota) {
            slot.account.failed();
        }
    }

    /// Returns the unspent units of an expired lease.
    pub(super) fn expire(&self, key: u64, quota: Quota, now: Timestamp) -> Option<Unspent> {
        let mut slot = self.lock(key);
        if slot.is(key, quota) { slot.account.expire(now) } else { None }
    }

    /// Returns the key's slot, taking it over if unused.
    fn take_slot(&self, key: u64, quota: Quota, now: Timestamp) -> Option<MutexGuard<'_, Slot>> {
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
