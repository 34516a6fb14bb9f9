//! Leases: a node acquires a block of a hot key's units in one round trip and spends it locally.
//!
//! # Why the bound holds
//!
//! The store charges a block **as of the end of its lifetime**, after which the block cannot be spent.
//!
//! * *Exact window.* A lifetime ends with the sub-bucket in which the block was acquired, and the charge counts from
//!   the last moment of that sub-bucket: for at least a whole period after the latest time at which a unit can be
//!   spent.
//! * *Token bucket.* A block of k units moves the arrival time to max(TAT, end of lifetime) + k·T, and is granted
//!   only if that stays within `burst · T` of *now*. Every unit then moves TAT by at least T beyond the time at which
//!   it is spent, and to at most `burst · T` beyond that time. So N units spent within a span from x to y leave x +
//!   N·T ≤ TAT ≤ y + burst·T: N ≤ burst + (y − x) ⁄ T, the bound of the algorithm.
//!
//! A lost fields, a failed node or an unspent unit only leaves units unused.
//!
//! # What it costs
//!
//! Under-admission: unspent units count until they are returned at the end of the lease, or, if the node has failed,
//! as long as any charge does. A block is at most a quarter of what remains, and follows the key's rate; a leased
//! bucket gives up at most `lifetime ⁄ T` of its burst.

use std::time::Duration;

use super::quota::{Algorithm, Quota};
use crate::base::clock::{Timestamp, nanos};

/// Smallest block: a smaller one saves no round trips.
const LEAST: u32 = 4;
/// First block of a key.
const FIRST: u32 = 16;
/// Maximum growth from one block to the next.
const GROWTH: u32 = 4;
/// Longest lifetime of a bucket's lease.
const LONGEST: Duration = Duration::from_millis(100);
/// Shortest lifetime: a shorter lease expires before it saves a round trip.
const SHORTEST: Duration = Duration::from_millis(2);

/// Returns the lifetime of a block acquired now. `store_us` is the estimated time of the store, in microseconds.
pub(crate) fn life(quota: Quota, store_us: u64) -> Option<Duration> {
    let life = match quota.algorithm() {
        Algorithm::Window(_) => {
            let width = nanos(quota.period()) / super::window::BUCKETS / 1_000;
            Duration::from_micros(width - store_us % width)
        }
        // Leasing may cost a bucket a tenth of its burst.
        Algorithm::Gcra(_) => (quota.period() * quota.capacity() / quota.limit().max(1) / 10).min(LONGEST),
    };
    (life >= SHORTEST).then_some(life)
}

/// Units acquired and not spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unspent {
    pub(crate) units: u32,
    /// Time of the charge, in microseconds of the store's clock.
    pub(crate) charged: u64,
}

/// Lease of one key on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaseAccount {
    left: u32,
    /// End of the lease, at or before it by the store's clock.
    until: Timestamp,
    charged: u64,
    block: u32,
    /// Whether an acquisition is in progress.
    acquiring: bool,
    /// Units spent since then, leased or not; gives the key's rate.
    since: Timestamp,
    spent: u32,
}

impl LeaseAccount {
    /// Spends from the lease. Returns what is left, or `None` if it does not suffice.
    pub(crate) fn spend(&mut self, cost: u32, now: Timestamp) -> Option<u32> {
        if now >= self.until || self.left < cost.max(1) {
            return None;
        }
        self.left -= cost;
        self.spent = self.spent.saturating_add(cost);
        Some(self.left)
    }

    /// Reverts the last spend after another limit rejected the request.
    pub(crate) const fn unspend(&mut self, cost: u32) {
        self.left += cost;
        self.spent = self.spent.saturating_sub(cost);
    }

    /// Records units charged at the store individually.
    pub(crate) fn asked(&mut self, cost: u32, now: Timestamp, life: Duration) {
        if now.since(self.since) > life * 2 {
            (self.since, self.spent, self.block) = (now, 0, 0);
        }
        self.spent = self.spent.saturating_add(cost);
    }

    /// Returns whether the lease should be renewed before it is used up.
    pub(crate) const fn runs_low(&self) -> bool {
        !self.acquiring && self.block >= FIRST && self.left < self.block / 4
    }

    /// Returns the units to acquire for the coming `life`; zero if the key is not hot or an acquisition is in
    /// progress.
    pub(crate) fn order(&mut self, now: Timestamp, life: Duration) -> u32 {
        if self.acquiring {
            return 0;
        }
        let elapsed = nanos(now.since(self.since)).max(1);
        let rate = u128::from(self.spent) * u128::from(nanos(life)) / u128::from(elapsed);
        let most = self.block.saturating_mul(GROWTH).max(FIRST);
        let wanted = u32::try_from(rate).unwrap_or(u32::MAX).min(most);
        if self.spent < 2 || wanted < LEAST {
            return 0;
        }
        self.acquiring = true;
        wanted
    }

    /// Records the granted units, possibly fewer than ordered. Returns the remainder of the previous lease.
    pub(crate) fn bought(&mut self, granted: u32, until: Timestamp, charged: u64, now: Timestamp) -> Option<Unspent> {
        self.acquiring = false;
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

    /// Returns whether units are left or an acquisition is in progress.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.acquiring || (self.left > 0 && now < self.until)
    }

    /// Records a failed acquisition.
    pub(crate) const fn failed(&mut self) {
        self.acquiring = false;
    }

    /// Takes the unspent units of an expired lease.
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
