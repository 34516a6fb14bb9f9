//! GCRA, the generic cell rate algorithm: a token bucket kept in one number.
//!
//! ITU-T I.371's virtual scheduling: a key's *theoretical arrival time* (TAT) is the moment at which its bucket is
//! full again. Each admitted unit moves it by one emission interval `T`; a request conforms if TAT stays within
//! `burst · T` of now. From any start, the units admitted in a span are at most **burst + ⌊span ⁄ T⌋**.
//!
//! ```
//! use tollgate::Timestamp;
//! use tollgate::limit::{Algorithm, Quota};
//!
//! let now = Timestamp::from_nanos(1_000_000_000_000);
//! let Algorithm::Gcra(gcra) = Quota::per_second(10).bucket(2).algorithm() else { unreachable!() };
//! let tat = gcra.check(Timestamp::from_nanos(0), now, 2).expect("the bucket is full");
//! let wait = gcra.check(tat, now, 1).expect_err("the bucket is empty");
//! assert_eq!(wait.as_millis(), 100);
//! assert_eq!(gcra.verdict(tat, now, Some(wait)).remaining(), 0);
//! ```
//!
//! | state | means |
//! |---|---|
//! | TAT ≤ now | a full bucket, equivalent to no state |
//! | TAT − now = k·T | k units are used |
//! | TAT − now = burst·T | an empty bucket: one unit is available after T |

use std::time::Duration;

use super::verdict::Verdict;
use crate::base::clock::{Timestamp, nanos};

/// Parameters of a token bucket. See the [module](self) for its bound.
///
/// ```
/// use tollgate::limit::Quota;
///
/// // Ten at once, then one every 0.6 s.
/// let bucket = Quota::per_minute(100).bucket(10);
/// # let _ = bucket;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    /// Nanoseconds per unit, rounded up, so that rounding never admits more.
    interval: u64,
    burst: u32,
}

impl Gcra {
    /// Creates a bucket of `burst` units that gains one unit per `interval` nanoseconds.
    pub(super) const fn stepping(interval: u64, burst: u32) -> Self {
        Self { interval, burst }
    }

    pub(super) const fn interval(limit: u32, period: u64) -> u64 {
        let limit = if limit == 0 { 1 } else { limit as u64 };
        period.div_ceil(limit)
    }

    #[cfg(test)]
    const fn new(limit: u32, period: u64, burst: u32) -> Self {
        Self::stepping(Self::interval(limit, period), burst)
    }

    /// Returns the theoretical arrival time after `cost` units, if they conform now. A cost above the burst never
    /// conforms.
    ///
    /// # Errors
    /// The time until the same cost conforms, if nothing else is charged meanwhile.
    pub fn check(&self, tat: Timestamp, now: Timestamp, cost: u32) -> Result<Timestamp, Duration> {
        let after = self.charge(tat, now, cost);
        match after.nanos_since(now.after(self.span(self.burst))) {
            0 => Ok(after),
            wait => Err(Duration::from_nanos(wait)),
        }
    }

    /// Returns the verdict for a key with this theoretical arrival time.
    #[must_use]
    pub fn verdict(&self, tat: Timestamp, now: Timestamp, wait: Option<Duration>) -> Verdict {
        let used = tat.nanos_since(now);
        let free = self.span(self.burst).saturating_sub(used);
        let left = (free / self.interval).min(u64::from(self.burst)) as u32;
        Verdict::of(wait.map_or(0, nanos), left, used)
    }

    /// Refunds `units` charged at `charged`, without creating burst: units drained since then are not refunded.
    ///
    /// ```
    /// use tollgate::Timestamp;
    /// use tollgate::limit::{Algorithm, Quota};
    ///
    /// let now = Timestamp::from_nanos(1_000_000_000_000);
    /// let Algorithm::Gcra(gcra) = Quota::per_second(10).bucket(2).algorithm() else { unreachable!() };
    /// let tat = gcra.charge(Timestamp::from_nanos(0), now, 2);
    /// let tat = gcra.refund(tat, now, 1, now);
    /// assert_eq!(gcra.verdict(tat, now, None).remaining(), 1);
    /// ```
    #[must_use]
    pub fn refund(&self, tat: Timestamp, now: Timestamp, units: u32, charged: Timestamp) -> Timestamp {
        tat.before(self.span(units).saturating_sub(now.nanos_since(charged)))
    }

    /// Charges `units` even if they do not conform.
    #[must_use]
    pub fn charge(&self, tat: Timestamp, now: Timestamp, units: u32) -> Timestamp {
        tat.max(now).after(self.span(units))
    }

    /// Returns the used share of the bucket, in units of 2⁻³².
    pub(crate) fn share(&self, tat: Timestamp, now: Timestamp) -> u64 {
        let used = u128::from(tat.nanos_since(now));
        ((used << 32).div_ceil(u128::from(self.span(self.burst).max(1)))) as u64
    }

    /// Returns the state of a key that has used `share` of the bucket.
    pub(super) fn at_share(&self, share: u64, now: Timestamp) -> Timestamp {
        let span = u128::from(self.span(self.burst));
        now.after((span * u128::from(share)).div_ceil(1 << 32) as u64)
    }

    /// Returns the nanoseconds in which `units` drain.
    const fn span(&self, units: u32) -> u64 {
        self.interval.saturating_mul(units as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_nanos(1_000_000_000_000);

    #[test]
    fn a_burst_passes_then_one_per_interval() {
        let gcra = Gcra::new(60, 60_000_000_000, 3);
        let mut tat = Timestamp::ZERO;
        for left in [2, 1, 0] {
            tat = gcra.check(tat, START, 1).expect("within the burst");
            assert_eq!(gcra.verdict(tat, START, None).remaining(), left);
        }
        assert_eq!(gcra.check(tat, START, 1), Err(Duration::from_secs(1)));
        let later = START + Duration::from_secs(1);
        assert!(gcra.check(tat, later, 1).is_ok());
        assert_eq!(gcra.verdict(tat, START, None).reset(), Duration::from_secs(3));
    }

    #[test]
    fn idling_saves_no_more_than_the_burst() {
        let gcra = Gcra::new(60, 60_000_000_000, 3);
        let tat = gcra.check(Timestamp::ZERO, START, 3).expect("a burst");
        let much_later = START + Duration::from_secs(1_000_000);
        assert!(gcra.check(tat, much_later, 4).is_err());
    }

    #[test]
    fn a_refund_creates_no_burst() {
        let gcra = Gcra::new(60, 60_000_000_000, 3);
        let tat = gcra.check(Timestamp::ZERO, START, 2).expect("within the burst");
        let later = START + Duration::from_secs(1);
        // One of the two units has drained by now, so only one is refunded.
        assert_eq!(gcra.verdict(gcra.refund(tat, later, 2, START), later, None).remaining(), 3);
        assert_eq!(gcra.refund(tat, later, 2, START), tat - Duration::from_secs(1));
    }

    #[test]
    fn a_share_survives_a_change_of_quota() {
        let small = Gcra::new(100, 60_000_000_000, 100);
        let large = Gcra::new(1_000, 60_000_000_000, 1_000);
        let tat = small.check(Timestamp::ZERO, START, 50).expect("half");
        let moved = large.at_share(small.share(tat, START), START);
        assert_eq!(large.verdict(moved, START, None).remaining(), 500);
    }

    proptest! {
        /// Over any requests, the units admitted in any span are at most burst + ⌊span ⁄ T⌋.
        #[test]
        fn never_more_than_the_published_bound(
            limit in 1_u32..500, burst in 1_u32..200,
            steps in prop::collection::vec((0_u64..3_000_000_000, 1_u32..5), 1..300),
        ) {
            let gcra = Gcra::new(limit, 60_000_000_000, burst);
            let (mut now, mut tat, mut log) = (START, Timestamp::ZERO, Vec::new());
            for (step, cost) in steps {
                now = now + Duration::from_nanos(step);
                if let Ok(next) = gcra.check(tat, now, cost) {
                    tat = next;
                    log.push((now, u64::from(cost)));
                }
            }
            for (i, (from, _)) in log.iter().enumerate() {
                let mut sum = 0;
                for (at, cost) in &log[i..] {
                    sum += cost;
                    let span = at.since(*from).as_nanos() as u64;
                    let allowed = u64::from(burst) + span / (60_000_000_000 / u64::from(limit)).max(1);
                    prop_assert!(sum <= allowed, "{sum} > {allowed}");
                }
            }
        }

        /// A rejected request of a conforming cost is admitted after the returned wait, and not a nanosecond earlier.
        #[test]
        fn the_wait_is_exact(limit in 1_u32..500, burst in 1_u32..50, used in 1_u32..50, cost in 1_u32..50) {
            let gcra = Gcra::new(limit, 60_000_000_000, burst);
            let tat = gcra.charge(Timestamp::ZERO, START, used);
            if let Err(wait) = gcra.check(tat, START, cost.min(burst)) {
                prop_assert!(gcra.check(tat, START + wait, cost.min(burst)).is_ok());
                prop_assert!(gcra.check(tat, START + wait - Duration::from_nanos(1), cost.min(burst)).is_err());
            }
        }
    }
}
