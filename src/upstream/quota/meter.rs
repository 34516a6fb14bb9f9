//! Meters of one window: [`Calendar`], counted locally, and [`LearnedLimit`], counted by the upstream.
//!
//! Neither ever counts less than the upstream has:
//!
//! | event | calendar window | observed limit |
//! |---|---|---|
//! | a call is sent | its cost is spent before | the same, if it is known to fall under this limit |
//! | it is answered, and was free | its cost is refunded | the same |
//! | it fails, or its caller leaves | its cost stays spent | the same |
//! | the upstream reports | – | the report, plus what it cannot include yet ([`InFlight`](crate::upstream::quota::in_flight::InFlight)) |
//! | a new window begins | calls in flight are spent in it: they may count there | the same |
//! | a response of the window before arrives late | – | it is ignored |

use std::time::Duration;

use super::alert::Alerts;
use super::balance::Balance;
use super::credit::{Credits, WindowSpan};
use crate::base::clock::Timestamp;
use crate::upstream::learn::observed_limits::{self, LimitName};

const SECOND: i64 = 1_000_000_000;
/// Points in time closer than this are equal: reports have whole seconds, and travel.
const SAME: Duration = Duration::from_secs(2);
/// Assumed window of a limit without a reported one.
const UNKNOWN: Duration = Duration::from_secs(60);

/// A time by both clocks: monotonic, and Unix time in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PointInTime {
    pub(crate) now: Timestamp,
    pub(crate) unix: i64,
}

/// Returns how much of a limit a class may use, rounded up, so that a share of one call is one.
pub(super) fn allowed(limit: u64, share: f64) -> u64 {
    // Limits are below 2⁵³; this little above a whole number is rounding error.
    (limit as f64 * share - 1e-6).ceil() as u64
}

/// Window of the calendar.
#[derive(Clone, Debug)]
pub(crate) struct Calendar {
    pub(crate) credits: Credits,
    pub(crate) span: WindowSpan,
    pub(crate) ends: Timestamp,
    /// Credits booked in the store by all processes.
    balance: Balance,
    /// Credits booked here and unspent; negative if spent and unbooked.
    block: i64,
    pub(crate) alerts: Alerts,
}

impl Calendar {
    pub(crate) fn new(credits: Credits, point: PointInTime) -> Self {
        let span = WindowSpan { start: i64::MIN, end: i64::MIN };
        let ends = Timestamp::ZERO;
        let mut calendar =
            Self { credits, span, ends, balance: Balance::default(), block: 0, alerts: Alerts::default() };
        calendar.advance(point, 0);
        calendar
    }

    /// Starts the window of this time if it is a later one. Setting the calendar back changes nothing: spent
    /// credits stay spent.
    pub(super) fn advance(&mut self, point: PointInTime, in_flight_credits: u64) {
        let second = point.unix.div_euclid(SECOND);
        if second >= self.span.end {
            self.span = self.credits.span(second);
            (self.balance, self.block) = (Balance::default(), -signed(in_flight_credits));
            self.alerts.reset();
        }
        let left = self.span.end.saturating_mul(SECOND).saturating_sub(point.unix);
        self.ends = point.now.after(u64::try_from(left).unwrap_or(0));
    }

    /// Returns the credits spent in this window by all processes.
    pub(crate) fn spent(&self) -> u64 {
        u64::try_from(net(self.balance).saturating_sub(self.block)).unwrap_or(0)
    }

    pub(crate) const fn limit(&self) -> u64 {
        self.credits.limit()
    }

    pub(super) fn fits(&self, cost: u64, share: f64) -> bool {
        self.spent() + cost <= allowed(self.limit(), share)
    }

    pub(super) fn spend(&mut self, cost: u64) {
        self.block -= signed(cost);
    }

    pub(super) fn refund(&mut self, cost: u64) {
        self.block += signed(cost);
    }

    /// Returns whether the cost of a call is already booked.
    pub(super) fn is_booked(&self, cost: u64) -> bool {
        self.block >= signed(cost)
    }

    /// Returns the credits to book so that `wanted` can be spent.
    pub(super) fn shortfall(&self, wanted: u64) -> u64 {
        u64::try_from(signed(wanted) - self.block).unwrap_or(0)
    }

    /// Returns credits booked here and unspent.
    pub(super) fn unspent(&self) -> u64 {
        u64::try_from(self.block).unwrap_or(0)
    }

    /// Returns credits spent here and unbooked.
    pub(crate) fn unbooked(&self) -> u64 {
        u64::try_from(-self.block).unwrap_or(0)
    }

    /// Records a booking (negative: a return) and the store's balance after it.
    pub(crate) fn booked(&mut self, credits: i64, balance: Balance) {
        let expected = self.balance.after(credits);
        self.block += credits;
        if balance.booked < expected.booked {
            // The store has lost data: the difference becomes unbooked.
            self.block -= (net(expected) - net(balance)).max(0);
        }
        self.balance = balance;
    }
}

/// Returns the credits booked and not returned.
fn net(balance: Balance) -> i64 {
    signed(balance.booked) - signed(balance.returned)
}

/// Credits are below 2⁵⁰.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// Limit observed from the upstream's reports.
#[derive(Clone, Debug)]
pub(crate) struct LearnedLimit {
    pub(crate) name: LimitName,
    pub(crate) limit: u64,
    pub(crate) spent: u64,
    /// Units used according to the upstream.
    used: u64,
    /// Whether the upstream has stated the limit, not only what remains of it.
    stated: bool,
    /// Whether a report speaks of this window.
    confirmed: bool,
    /// Time from which one call may check whether the limit still holds: only a call can correct a report.
    probe_at: Timestamp,
    /// Time between such calls.
    probe_interval: Duration,
    pub(crate) ends: Timestamp,
    pub(crate) length: Duration,
    /// Time of the last report.
    reported_at: Timestamp,
    pub(crate) alerts: Alerts,
}

/// Response with a report, and its relation to other calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountedResponse {
    /// Time at which its call was sent.
    pub(super) sent: Timestamp,
    /// Cost of calls that the report cannot include.
    pub(super) unreported: u64,
}

impl LearnedLimit {
    /// Creates a limit from its first report; `None` if that has no number.
    pub(crate) fn new(
        observed: &observed_limits::ObservedLimit,
        answer: CountedResponse,
        probe_interval: Duration,
        now: Timestamp,
    ) -> Option<Self> {
        observed.remaining?;
        let mut learned = Self {
            name: observed.name.clone(),
            limit: 0,
            spent: 0,
            used: 0,
            stated: false,
            confirmed: false,
            probe_at: Timestamp::ZERO,
            probe_interval,
            ends: Timestamp::ZERO,
            length: UNKNOWN,
            reported_at: Timestamp::ZERO,
            alerts: Alerts::default(),
        };
        learned.report(observed, answer, now);
        Some(learned)
    }

    /// Applies a report.
    pub(super) fn report(
        &mut self,
        observed: &observed_limits::ObservedLimit,
        answer: CountedResponse,
        now: Timestamp,
    ) {
        let Some(remaining) = observed.remaining else { return };
        let held = if self.is_unknown() { 0 } else { self.limit };
        let limit = observed.limit.unwrap_or(held).max(remaining);
        let used = limit - remaining;
        let ends = observed.resets_in.map(|span| now + span);
        // The call was sent after the last report: this one is newer.
        let is_later = answer.sent >= self.reported_at;
        let is_another = ends.is_some_and(|ends| ends > self.ends + SAME) || now >= self.ends;
        let is_an_earlier = ends.is_some_and(|ends| ends + SAME < self.ends);
        if !is_later && (is_an_earlier || !is_another && used < self.used) {
            return;
        }
        if now >= self.ends {
            self.alerts.reset();
        }
        if is_another {
            self.length = observed.window.or(observed.resets_in).unwrap_or(UNKNOWN);
        }
        (self.limit, self.used, self.reported_at) = (limit, used, now);
        self.stated |= observed.limit.is_some();
        (self.confirmed, self.probe_at) = (true, now + self.probe_interval);
        self.spent = used + answer.unreported;
        self.ends = match ends {
            Some(ends) => ends,
            None if now >= self.ends => now + self.length,
            None => self.ends,
        };
    }

    /// Blocks the limit until then, regardless of the remaining units.
    pub(super) fn block_until(&mut self, until: Timestamp, now: Timestamp) {
        (self.confirmed, self.probe_at) = (true, now + self.probe_interval);
        self.spent = self.spent.max(self.limit);
        self.ends = self.ends.max(until);
    }

    /// Starts a new window if this one is over; its units are known after the next report.
    pub(super) fn advance(&mut self, now: Timestamp, in_flight_credits: u64) {
        if now < self.ends {
            return;
        }
        (self.spent, self.used) = (in_flight_credits, 0);
        self.ends = now + self.length.max(Duration::from_millis(1));
        self.confirmed = false;
        // A limit of nothing may have been lifted.
        self.probe_at = if self.limit == 0 { now } else { now + self.probe_interval };
        self.alerts.reset();
    }

    /// Returns whether nothing is known of this window: the upstream never stated the limit, and what remained of it
    /// was that of an earlier window.
    pub(crate) const fn is_unknown(&self) -> bool {
        !self.stated && !self.confirmed
    }

    /// Returns whether a call may be sent. One that costs more than the limit counts as all of it.
    pub(super) fn fits(&self, cost: u64, share: f64, now: Timestamp) -> bool {
        self.is_unknown() || self.has_left(cost, share) || now >= self.probe_at
    }

    fn has_left(&self, cost: u64, share: f64) -> bool {
        let allowed = allowed(self.limit, share);
        allowed > 0 && self.spent.saturating_add(cost.min(allowed)) <= allowed
    }

    /// Returns when a call that does not fit may be sent.
    pub(super) fn opens_at(&self) -> Timestamp {
        self.ends.min(self.probe_at)
    }

    /// Counts a call that is sent.
    pub(super) fn spend(&mut self, cost: u64, share: f64, now: Timestamp) {
        if !self.is_unknown() && !self.has_left(cost, share) && now >= self.probe_at {
            self.probe_at = now + self.probe_interval;
        }
        self.spent = self.spent.saturating_add(cost);
    }
}

#[cfg(test)]
mod tests;
