//! A check: one key, its quota and its cost; and its settlement.

use crate::base::clock::Timestamp;
use crate::identity::KeyHash;
use crate::limit::algorithm::quota::Quota;

/// One charge against one limit: a key, its quota and a cost.
///
/// ```
/// use tollgate::identity::KeyHash;
/// use tollgate::limit::{Check, Quota};
///
/// let check = Check::new(KeyHash::from_bits(7), Quota::per_minute(100)).cost(5);
/// assert!(check.enforced && check.cost == 5 && check.fleet().is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// Keyed hash of the identity, separate for each limit.
    pub key: KeyHash,
    /// Quota of the key.
    pub quota: Quota,
    /// Units that the request costs.
    pub cost: u32,
    /// Whether this check can reject the request; in shadow mode it only counts.
    pub enforced: bool,
    /// Whether the charge may be refunded soon: the outcome of the request decides.
    pub(crate) settles: bool,
    /// Key hash shared by the fleet; zero if unknown.
    pub(crate) fleet: u64,
}

impl Check {
    /// Creates an enforced check of one unit.
    ///
    /// ```
    /// use tollgate::identity::KeyHash;
    /// use tollgate::limit::{Check, Quota};
    ///
    /// let check = Check::new(KeyHash::from_bits(7), Quota::per_minute(100));
    /// # let _ = check;
    /// ```
    #[must_use]
    pub const fn new(key: KeyHash, quota: Quota) -> Self {
        Self { key, quota, cost: 1, enforced: true, settles: false, fleet: 0 }
    }

    /// Sets the key hash under the secret that all nodes of a fleet share.
    ///
    /// ```
    /// use tollgate::identity::KeyHash;
    /// use tollgate::limit::{Check, Quota};
    ///
    /// let check = Check::new(KeyHash::from_bits(7), Quota::per_minute(100)).in_fleet(KeyHash::from_bits(8));
    /// assert_eq!(check.fleet(), Some(KeyHash::from_bits(8)));
    /// ```
    #[must_use]
    pub const fn in_fleet(self, key: KeyHash) -> Self {
        Self { fleet: key.to_bits(), ..self }
    }

    /// Returns the key hash under the [fleet secret](crate::limit::LimitStore::secret): the same on every node, used
    /// as the key in a remote store. `None` if there is no such secret, or it is not known yet.
    #[must_use]
    pub const fn fleet(&self) -> Option<KeyHash> {
        if self.fleet == 0 { None } else { Some(KeyHash::from_bits(self.fleet)) }
    }

    /// Sets the cost in units.
    #[must_use]
    pub const fn cost(self, cost: u32) -> Self {
        Self { cost, ..self }
    }
}

/// Correction of a charge to its actual cost.
///
/// ```
/// use tollgate::Timestamp;
/// use tollgate::identity::KeyHash;
/// use tollgate::limit::{Check, Quota, Settlement};
///
/// let estimate = Check::new(KeyHash::from_bits(7), Quota::per_minute(100)).cost(50);
/// let settlement = Settlement::new(estimate, Timestamp::from_nanos(1), 42);
/// assert_eq!(settlement.actual, 42);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settlement {
    /// The charged check.
    pub check: Check,
    /// Time of the charge.
    pub at: Timestamp,
    /// The actual cost.
    pub actual: u32,
}

impl Settlement {
    /// Creates a settlement of `check`, charged at `at`, to its actual cost.
    ///
    /// ```
    /// use tollgate::Timestamp;
    /// use tollgate::identity::KeyHash;
    /// use tollgate::limit::{Check, Quota, Settlement};
    ///
    /// let check = Check::new(KeyHash::from_bits(7), Quota::per_minute(100));
    /// assert_eq!(Settlement::new(check, Timestamp::ZERO, 3).actual, 3);
    /// ```
    #[must_use]
    pub const fn new(check: Check, at: Timestamp, actual: u32) -> Self {
        Self { check, at, actual }
    }
}
