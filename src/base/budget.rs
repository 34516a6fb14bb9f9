//! [`Budget`]: the remaining quota of an upstream, as seen by caches, and its effect on them.
#![doc = include_str!("../docs/budget.md")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::clock::Timestamp;
use super::error::Error;
use crate::base::lock::Mutex;

/// Policy that maps a low budget to longer lifetimes of cache entries. See the [table](Budget).
///
/// ```
/// use tollgate::BudgetPolicy;
///
/// let mut policy = BudgetPolicy::default();
/// policy.max_stretch = 4.0;
/// assert_eq!(policy.reserve, 0.1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct BudgetPolicy {
    /// Maximum factor for lifetimes of entries, at least 1. Defaults to 16.
    pub max_stretch: f64,
    /// Serves stale entries instead of refreshing them below this share of the budget. Defaults to 0.1.
    pub reserve: f64,
}

impl Default for BudgetPolicy {
    fn default() -> Self {
        Self { max_stretch: 16.0, reserve: 0.1 }
    }
}

/// Effect of a budget on a cache.
///
/// ```
/// use std::time::Duration;
/// use tollgate::{BudgetEffect, BudgetPolicy};
///
/// let effect: BudgetEffect = BudgetPolicy::default().effect(0.25, 0.5);
/// assert_eq!(effect.stretched(Duration::from_secs(10)), Duration::from_secs(20));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct BudgetEffect {
    /// Factor for lifetimes of entries, at least 1.
    pub stretch: f64,
    /// Whether stale entries are served instead of refreshed.
    pub prefer_stale: bool,
}

impl BudgetEffect {
    /// No effect: lifetimes as configured.
    pub const NONE: Self = Self { stretch: 1.0, prefer_stale: false };

    /// Returns the stronger effect of both, field by field.
    fn max(self, other: Self) -> Self {
        Self { stretch: self.stretch.max(other.stretch), prefer_stale: self.prefer_stale || other.prefer_stale }
    }

    /// Returns a lifetime multiplied by the factor.
    #[must_use]
    pub fn stretched(&self, life: Duration) -> Duration {
        Duration::try_from_secs_f64(life.as_secs_f64() * self.stretch).unwrap_or(Duration::MAX)
    }
}

impl BudgetPolicy {
    /// Returns the effect when the shares `left` of the budget and `time_left` of its window remain, both 0 to 1.
    ///
    /// ```
    /// use tollgate::BudgetPolicy;
    ///
    /// let policy = BudgetPolicy::default();
    /// assert_eq!(policy.effect(0.8, 0.5).stretch, 1.0); // ahead of an even pace
    /// assert_eq!(policy.effect(0.25, 0.5).stretch, 2.0); // twice too fast so far
    /// assert!(policy.effect(0.05, 0.5).prefer_stale); // the last tenth is for missing entries
    /// ```
    #[must_use]
    pub fn effect(&self, left: f64, time_left: f64) -> BudgetEffect {
        let (left, time_left) = (left.clamp(0.0, 1.0), time_left.clamp(0.0, 1.0));
        if left >= time_left {
            return BudgetEffect::NONE;
        }
        // A share of zero gives infinity, which the bound limits.
        let stretch = (time_left / left).min(self.max_stretch);
        BudgetEffect { stretch, prefer_stale: left < self.reserve }
    }

    fn check(self) -> Result<Self, Error> {
        if !(self.max_stretch.is_finite() && self.max_stretch >= 1.0) {
            return Err(Error::config(format!(
                "a budget must stretch lifetimes by a factor of at least 1, not {}",
                self.max_stretch
            )));
        }
        if !(0.0..=1.0).contains(&self.reserve) {
            return Err(Error::config(format!(
                "the reserve of a budget must be a share from 0 to 1, not {}",
                self.reserve
            )));
        }
        Ok(self)
    }
}

/// Remaining share of one window's budget.
///
/// ```
/// fn is_low(allowance: &tollgate::Allowance) -> bool {
///     allowance.left < 0.1
/// }
/// # let _ = is_low;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Allowance {
    /// Remaining share, 0 to 1.
    pub left: f64,
    /// Length of the window.
    pub window: Duration,
    /// End of the window, when the budget is reset.
    pub ends: Timestamp,
}

impl Allowance {
    /// Creates the remaining share `left`, 0 to 1, of a window that ends at `ends`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::{Allowance, Timestamp};
    ///
    /// let half = Allowance::new(0.5, Duration::from_secs(3_600), Timestamp::ZERO);
    /// assert_eq!(half.left, 0.5);
    /// ```
    #[must_use]
    pub const fn new(left: f64, window: Duration, ends: Timestamp) -> Self {
        Self { left, window, ends }
    }

    fn effect(&self, policy: &BudgetPolicy, now: Timestamp) -> BudgetEffect {
        if now >= self.ends {
            return BudgetEffect::NONE;
        }
        policy.effect(self.left, self.ends.since(now).as_secs_f64() / self.window.as_secs_f64())
    }
}

/// Remaining share of an upstream's quota, written by its clients and read by caches. Clones share it.
///
/// ```
/// use std::time::Duration;
/// use tollgate::{Allowance, Budget, Timestamp};
///
/// let hour = Duration::from_secs(3600);
/// let (start, end) = (Timestamp::ZERO, Timestamp::ZERO + hour);
/// let budget = Budget::default();
/// assert_eq!(budget.effect(start).stretch, 1.0); // not set yet
///
/// budget.set(&[Allowance::new(0.1, hour, end)]);               // a tenth is left, for half an hour
/// assert_eq!(budget.effect(start + hour / 2).stretch, 5.0);
/// assert_eq!(budget.effect(end).stretch, 1.0);                 // a new hour
/// ```
///
/// # The policy
///
#[doc = include_str!("../docs/budget.md")]
///
/// Spending of a budget over its window, with and without this policy, by demand:
///
#[doc = include_str!("../docs/budget.svg")]
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Allowances>);

#[derive(Debug, Default)]
struct Allowances {
    policy: BudgetPolicy,
    /// Whether an operator wants calls saved, whatever is left.
    conserves: AtomicBool,
    allowances: Mutex<Vec<Allowance>>,
}

impl Budget {
    /// Creates a budget with this policy. Until it is set, it has no effect.
    ///
    /// # Errors
    /// Returns an error if the policy is impossible: a stretch below 1, or a reserve outside 0 to 1.
    ///
    /// ```
    /// use tollgate::{Budget, BudgetPolicy};
    ///
    /// let mut policy = BudgetPolicy::default();
    /// policy.max_stretch = 4.0;
    /// assert!(Budget::new(policy).is_ok());
    /// ```
    pub fn new(policy: BudgetPolicy) -> Result<Self, Error> {
        Ok(Self(Arc::new(Allowances { policy: policy.check()?, ..Allowances::default() })))
    }

    /// Sets the remaining share of each window; the window with the strongest effect counts.
    pub fn set(&self, allowances: &[Allowance]) {
        let mut kept = self.allowances();
        kept.clear();
        kept.extend_from_slice(allowances);
    }

    /// Returns the effect at `now`. Takes a short lock: called for expired entries, not for fresh hits.
    #[must_use]
    pub fn effect(&self, now: Timestamp) -> BudgetEffect {
        if self.0.conserves.load(Ordering::Relaxed) {
            return BudgetEffect { stretch: self.0.policy.max_stretch, prefer_stale: true };
        }
        let allowances = self.allowances();
        allowances.iter().map(|left| left.effect(&self.0.policy, now)).fold(BudgetEffect::NONE, BudgetEffect::max)
    }

    /// Saves calls from now on as if nothing were left, or ends that.
    pub(crate) fn conserve(&self, conserves: bool) {
        self.0.conserves.store(conserves, Ordering::Relaxed);
    }

    /// Returns the largest factor, which bounds how long entries are worth keeping.
    pub(crate) fn max_stretch(&self) -> f64 {
        self.0.policy.max_stretch
    }

    fn allowances(&self) -> MutexGuard<'_, Vec<Allowance>> {
        self.0.allowances.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn lifetimes_are_stretched_as_much_as_spending_must_slow_down() {
        let policy = BudgetPolicy::default();
        for (left, time_left, stretch, prefer_stale) in [
            (1.0, 1.0, 1.0, false),
            (0.5, 0.5, 1.0, false),
            (0.9, 0.1, 1.0, false),
            (0.25, 1.0, 4.0, false),
            (0.05, 0.5, 10.0, true),
            (0.0, 0.5, 16.0, true),
            (0.0, 0.0, 1.0, false),
            (0.05, 0.01, 1.0, false),
            (-3.0, 7.0, 16.0, true),
            (f64::NAN, 0.5, 16.0, false),
        ] {
            let effect = policy.effect(left, time_left);
            assert_eq!(effect, BudgetEffect { stretch, prefer_stale }, "{left} left, for {time_left}");
        }
    }

    #[test]
    fn a_budget_lasts_until_the_end_of_its_window() {
        let policy = BudgetPolicy { max_stretch: 1e300, ..BudgetPolicy::default() };
        for demand in [0.5, 1.0, 2.0, 5.0, 20.0] {
            let steps = 100_000;
            let mut left = 1.0;
            for step in 0..steps {
                let time_left = 1.0 - f64::from(step) / f64::from(steps);
                left -= demand / policy.effect(left, time_left).stretch / f64::from(steps);
                assert!(left > -1e-9, "{demand} times the even pace spent it all with {time_left} of the window left");
            }
            let spent = 1.0 - left;
            assert!(spent > 0.999 * f64::min(demand, 1.0), "{demand}: only {spent} was spent");
        }
    }

    #[test]
    fn the_strictest_current_window_counts() {
        let budget = Budget::default();
        let now = Timestamp::ZERO + HOUR;
        let minute = Allowance::new(0.25, HOUR / 60, now + HOUR / 120);
        let day = Allowance::new(0.05, HOUR * 24, now + HOUR * 12);
        budget.set(&[minute, day]);
        assert_eq!(budget.effect(now), BudgetEffect { stretch: 10.0, prefer_stale: true });
        budget.set(&[minute]);
        assert_eq!(budget.effect(now), BudgetEffect { stretch: 2.0, prefer_stale: false });
        assert_eq!(budget.effect(now + HOUR / 120), BudgetEffect::NONE);
    }

    #[test]
    fn an_impossible_policy_is_refused() {
        for policy in [
            BudgetPolicy { max_stretch: 0.5, ..BudgetPolicy::default() },
            BudgetPolicy { max_stretch: f64::NAN, ..BudgetPolicy::default() },
            BudgetPolicy { reserve: 1.5, ..BudgetPolicy::default() },
            BudgetPolicy { reserve: f64::NAN, ..BudgetPolicy::default() },
        ] {
            let error = Budget::new(policy).expect_err("impossible").to_string();
            assert!(error.contains("budget"), "{error}");
        }
    }
}
