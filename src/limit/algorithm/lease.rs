//! Leases: a node buys a block of a hot key's units in one round trip and spends it by itself.
//!
//! # Why the bound holds
//!
//! The store charges a block **as of the end of its life**, and the block is dead after it.
//!
//! * *Exact window.* A life ends with the sub-bucket it was bought in, and the charge counts from that sub-bucket's
//!   last
//!   moment: for at least a whole period after the latest time any of its units can be spent.
//! * *Token bucket.* A block of k units moves the arrival time to max(TAT, end of life) + k·T, and is sold only where
//!   that
//!   stays within `burst · T` of *now*. Every unit then moves TAT by at least T beyond the time it is spent at, and to
//!   at
//!   most `burst · T` beyond that time. So N units spent within a span from x to y leave x + N·T ≤ TAT ≤ y + burst·T:
//!   N ≤ burst + (y − x) ⁄ T, the algorithm's own bound.
//!
//! A lost answer, a node that dies or a unit that is never spent only leaves units unused.
//!
//! # What it costs
//!
//! Under-admission: units bought and not spent count until they are given back at the end of the lease, or, where the
//! node has died, as long as any charge does. A block is at most a quarter of what is left, and follows the key's rate;
//! a bucket that leases gives up at most `life ⁄ T` of its burst.

use std::time::Duration;

use super::quota::{Algorithm, Quota};
use crate::base::clock::{Timestamp, nanos};

/// A smaller block saves nothing.
const LEAST: u32 = 4;
/// The first block of a key.
const FIRST: u32 = 16;
/// A block is at most so many times the one before.
const GROWTH: u32 = 4;
/// The longest life of a bucket's lease.
const LONGEST: Duration = Duration::from_millis(100);
/// A shorter life is over before it has paid.
const SHORTEST: Duration = Duration::from_millis(2);

/// How long a block bought now would live. `store_us` is the store's time, in microseconds, as far as is known here.
pub(crate) fn life(quota: Quota, store_us: u64) -> Option<Duration> {
    let life = match quota.algorithm() {
        Algorithm::Window(_) => {
            let width = nanos(quota.period()) / super::window::BUCKETS / 1_000;
            Duration::from_micros(width - store_us % width)
        }
        // A tenth of the burst, which is what leasing may cost it.
        Algorithm::Gcra(_) => (quota.period() * quota.capacity() / quota.limit().max(1) / 10).min(LONGEST),
    };
    (life >= SHORTEST).then_some(life)
}

/// Units bought and not spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unspent {
    pub(crate) units: u32,
    /// When they were charged, in the store's microseconds.
    pub(crate) charged: u64,
}

/// One key's account on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaseAccount {
    left: u32,
    /// The end of the lease, not after it in the store's time.
    until: Timestamp,
    charged: u64,
    block: u32,
    /// Whether a block is being bought.
    buying: bool,
    /// Units spent since then, leased or not: the key's rate.
    since: Timestamp,
    spent: u32,
}

impl LeaseAccount {
    /// Pays from the lease. What is left, or `None` where it does not suffice.
    pub(crate) fn spend(&mut self, cost: u32, now: Timestamp) -> Option<u32> {
        if now >= self.until || self.left < cost.max(1) {
            return None;
        }
        self.left -= cost;
        self.spent = self.spent.saturating_add(cost);
        Some(self.left)
    }

    /// Refunds the last payment, because another limit refused.
    pub(crate) const fn unspend(&mut self, cost: u32) {
        self.left += cost;
        self.spent = self.spent.saturating_sub(cost);
    }

    /// Takes notice of units asked of the store one by one.
    pub(crate) fn asked(&mut self, cost: u32, now: Timestamp, life: Duration) {
        if now.since(self.since) > life * 2 {
            (self.since, self.spent, self.block) = (now, 0, 0);
        }
        self.spent = self.spent.saturating_add(cost);
    }

    /// Whether the lease should be renewed before it is used up.
    pub(crate) const fn runs_low(&self) -> bool {
        !self.buying && self.block >= FIRST && self.left < self.block / 4
    }

    /// How much to buy for the coming `life`; zero where the key is not hot, or somebody is buying.
    pub(crate) fn order(&mut self, now: Timestamp, life: Duration) -> u32 {
        if self.buying {
            return 0;
        }
        let elapsed = nanos(now.since(self.since)).max(1);
        let rate = u128::from(self.spent) * u128::from(nanos(life)) / u128::from(elapsed);
        let most = self.block.saturating_mul(GROWTH).max(FIRST);
        let wanted = u32::try_from(rate).unwrap_or(u32::MAX).min(most);
        if self.spent < 2 || wanted < LEAST {
            return 0;
        }
        self.buying = true;
        wanted
    }

    /// The order has been filled, perhaps in part or not at all. Gives what was left of the lease before.
    pub(crate) fn bought(&mut self, granted: u32, until: Timestamp, charged: u64, now: Timestamp) -> Option<Unspent> {
        self.buying = false;
        if granted == 0 {
            return None;
        }
        let before = if until == self.until { None } else { self.expire(Timestamp::MAX) };
        if before.is_none() {
            self.left += granted;
        } else {
            self.left = granted;
        }
        (self.until, self.charged, self.block) = (until, charged, granted);
        (self.since, self.spent) = (now, 0);
        before
    }

    /// Whether there is something left to spend, or somebody is buying.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.buying || (self.left > 0 && now < self.until)
    }

    /// The order was lost.
    pub(crate) const fn failed(&mut self) {
        self.buying = false;
    }

    /// Unspent units of an expired lease.
    pub(crate) fn expire(&mut self, now: Timestamp) -> Option<Unspent> {
        if now < self.until || self.left == 0 {
            return None;
        }
        let unspent = Unspent { units: self.left, charged: self.charged };
        self.left = 0;
        Some(unspent)
    }
}

#[cfg(test)]
pub(crate) mod tests;
