//! A check: one key, its quota and its cost; and its settlement.

use crate::base::clock::Timestamp;
use crate::identity::KeyHash;
use crate::limit::algorithm::quota::Quota;

/// One question: may this key spend that much of this quota?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// Keyed hash of the identity under one limit.
    pub key: KeyHash,
    /// Quota of the key.
    pub quota: Quota,
    /// How many units the request costs.
    pub cost: u32,
    /// Whether this check may refuse; in dry-run it only counts.
    pub enforced: bool,
    /// Zero where it is not known.
    pub(crate) fleet: u64,
}

impl Check {
    /// A check of one unit that may refuse.
    #[must_use]
    pub const fn new(key: KeyHash, quota: Quota) -> Self {
        Self { key, quota, cost: 1, enforced: true, fleet: 0 }
    }

    /// The same check, named as all nodes of a fleet name it.
    #[must_use]
    pub const fn in_fleet(self, key: KeyHash) -> Self {
        Self { fleet: key.to_bits(), ..self }
    }

    /// The key's hash under the [secret of the fleet](crate::limit::LimitStore::secret), the same on every node: what
    /// a remote store
    /// counts under. `None` where there is no such secret, or none is known yet.
    #[must_use]
    pub const fn fleet(&self) -> Option<KeyHash> {
        if self.fleet == 0 { None } else { Some(KeyHash::from_bits(self.fleet)) }
    }

    /// The same check, costing that much.
    #[must_use]
    pub const fn cost(self, cost: u32) -> Self {
        Self { cost, ..self }
    }
}

/// Correction of a charge to its actual cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settlement {
    /// The check as it was decided.
    pub check: Check,
    /// When it was decided.
    pub at: Timestamp,
    /// The actual cost.
    pub actual: u32,
}

impl Settlement {
    /// A check decided at that time which really cost `actual`.
    #[must_use]
    pub const fn new(check: Check, at: Timestamp, actual: u32) -> Self {
        Self { check, at, actual }
    }
}
