//! Meters of one window: [`Calendar`], counted here, and [`LearnedLimit`], counted by the upstream.
//!
//! Neither ever counts less than the upstream has counted:
//!
//! | | a calendar's window | a learned one |
//! |---|---|---|
//! | a call is sent | its cost is spent, before it is sent | the same, where it is known to fall under this limit |
//! | it is answered, and was free | its cost is given back | the same |
//! | it fails, or its client leaves | its cost stays spent | the same |
//! | the upstream tells | – | what it says, and what it cannot have said yet ([`InFlight`](crate::upstream::quota::in_flight::InFlight)) |
//! | a new window begins | what is still under way is spent in it: it may be counted there | the same |
//! | an answer of the window before arrives late | – | it is ignored |

use std::time::Duration;

use super::alert::Alerts;
use super::balance::Balance;
use super::credit::{Credits, WindowSpan};
use crate::base::clock::Timestamp;
use crate::upstream::learn::observed_limits::{self, LimitName};

const SECOND: i64 = 1_000_000_000;
/// Two moments closer than this are the same: they were told in whole seconds, and travelled.
const SAME: Duration = Duration::from_secs(2);
/// A limit that nobody says the length of.
const UNKNOWN: Duration = Duration::from_secs(60);

/// A moment by both clocks: the monotonic one, and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) now: Timestamp,
    pub(crate) unix: i64,
}

/// How much of a limit a call of this class may use up: rounded up, so that a share of one call is one.
pub(crate) fn allowed(limit: u64, share: f64) -> u64 {
    // Limits are below 2⁵³; what is this little above a whole number is rounding.
    (limit as f64 * share - 1e-6).ceil() as u64
}

/// A window of the calendar.
#[derive(Clone, Debug)]
pub(crate) struct Calendar {
    pub(crate) credits: Credits,
    pub(crate) span: WindowSpan,
    pub(crate) ends: Timestamp,
    /// Credits booked in the store by all processes.
    balance: Balance,
    /// What of it was booked here, and is not spent yet; below zero what is spent and not booked.
    block: i64,
    pub(crate) alerts: Alerts,
}

impl Calendar {
    pub(crate) fn new(credits: Credits, moment: Moment) -> Self {
        let span = WindowSpan { start: i64::MIN, end: i64::MIN };
        let ends = Timestamp::ZERO;
        let mut calendar =
            Self { credits, span, ends, balance: Balance::default(), block: 0, alerts: Alerts::default() };
        calendar.turn(moment, 0);
        calendar
    }

    /// Begins the window that holds this moment, where it is a later one. A calendar that was set back changes nothing:
    /// what is spent stays spent.
    pub(crate) fn turn(&mut self, moment: Moment, under_way: u64) {
        let second = moment.unix.div_euclid(SECOND);
        if second >= self.span.end {
            self.span = self.credits.span(second);
            (self.balance, self.block) = (Balance::default(), -signed(under_way));
            self.alerts.reset();
        }
        let left = self.span.end.saturating_mul(SECOND).saturating_sub(moment.unix);
        self.ends = moment.now.after(u64::try_from(left).unwrap_or(0));
    }

    /// Returns the credits spent in this window by all processes.
    pub(crate) fn spent(&self) -> u64 {
        u64::try_from(net(self.balance).saturating_sub(self.block)).unwrap_or(0)
    }

    pub(crate) const fn limit(&self) -> u64 {
        self.credits.limit()
    }

    pub(crate) fn fits(&self, cost: u64, share: f64) -> bool {
        self.spent() + cost <= allowed(self.limit(), share)
    }

    pub(crate) fn spend(&mut self, cost: u64) {
        self.block -= signed(cost);
    }

    pub(crate) fn give_back(&mut self, cost: u64) {
        self.block += signed(cost);
    }

    /// Whether a call of this cost is paid for in the store.
    pub(crate) fn is_booked(&self, cost: u64) -> bool {
        self.block >= signed(cost)
    }

    /// Returns the credits to book so that `wanted` can be spent.
    pub(crate) fn lacks(&self, wanted: u64) -> u64 {
        u64::try_from(signed(wanted) - self.block).unwrap_or(0)
    }

    /// Booked here and not spent.
    pub(crate) fn unspent(&self) -> u64 {
        u64::try_from(self.block).unwrap_or(0)
    }

    /// Spent here, and booked nowhere.
    pub(crate) fn owed(&self) -> u64 {
        u64::try_from(-self.block).unwrap_or(0)
    }

    /// So much was booked, or given back where it is less than nothing; this is what the store says now.
    pub(crate) fn booked(&mut self, credits: i64, balance: Balance) {
        let expected = self.balance.after(credits);
        self.block += credits;
        if balance.booked < expected.booked {
            // It has forgotten: what is missing is owed to it, and nothing is forgotten here.
            self.block -= (net(expected) - net(balance)).max(0);
        }
        self.balance = balance;
    }
}

/// Booked and not given back.
fn net(balance: Balance) -> i64 {
    signed(balance.booked) - signed(balance.returned)
}

/// Credits are below 2⁵⁰.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// A limit of the upstream's own.
#[derive(Clone, Debug)]
pub(crate) struct LearnedLimit {
    pub(crate) name: LimitName,
    pub(crate) limit: u64,
    pub(crate) spent: u64,
    /// Units used according to the upstream.
    used: u64,
    pub(crate) ends: Timestamp,
    pub(crate) length: Duration,
    /// When it was last said.
    heard: Timestamp,
    pub(crate) alerts: Alerts,
}

/// The answer in which an upstream told, as far as counting goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountedResponse {
    /// When its call was sent.
    pub(crate) sent: Timestamp,
    /// Cost of calls it cannot include.
    pub(crate) unseen: u64,
}

impl LearnedLimit {
    /// A limit that was told of for the first time; nothing where it says no number.
    pub(crate) fn new(told: &observed_limits::ObservedLimit, answer: CountedResponse, now: Timestamp) -> Option<Self> {
        told.remaining?;
        let mut learned = Self {
            name: told.name.clone(),
            limit: 0,
            spent: 0,
            used: 0,
            ends: Timestamp::ZERO,
            length: UNKNOWN,
            heard: Timestamp::ZERO,
            alerts: Alerts::default(),
        };
        learned.tell(told, answer, now);
        Some(learned)
    }

    /// Takes notice of what the upstream says.
    pub(crate) fn tell(&mut self, told: &observed_limits::ObservedLimit, answer: CountedResponse, now: Timestamp) {
        let Some(remaining) = told.remaining else { return };
        let limit = told.limit.unwrap_or(self.limit).max(remaining);
        let used = limit - remaining;
        let ends = told.resets_in.map(|span| now + span);
        // The call was sent after everything known here had been heard: what it says is later, whatever it says.
        let is_later = answer.sent >= self.heard;
        let is_another = ends.is_some_and(|ends| ends > self.ends + SAME) || now >= self.ends;
        let is_an_earlier = ends.is_some_and(|ends| ends + SAME < self.ends);
        if !is_later && (is_an_earlier || !is_another && used < self.used) {
            return;
        }
        if now >= self.ends {
            self.alerts.reset();
        }
        if is_another {
            self.length = told.window.or(told.resets_in).unwrap_or(UNKNOWN);
        }
        (self.limit, self.used, self.heard) = (limit, used, now);
        self.spent = used + answer.unseen;
        self.ends = match ends {
            Some(ends) => ends,
            None if now >= self.ends => now + self.length,
            None => self.ends,
        };
    }

    /// It may not be used before then, whatever was said of what remains.
    pub(crate) fn hold(&mut self, until: Timestamp) {
        self.spent = self.spent.max(self.limit);
        self.ends = self.ends.max(until);
    }

    /// Begins a new window, where this one is over; what it allows is known when the upstream says so.
    pub(crate) fn turn(&mut self, now: Timestamp, under_way: u64) {
        if now < self.ends {
            return;
        }
        (self.spent, self.used) = (under_way, 0);
        self.ends = now + self.length.max(Duration::from_millis(1));
        self.alerts.reset();
    }

    pub(crate) fn fits(&self, cost: u64, share: f64) -> bool {
        self.spent + cost <= allowed(self.limit, share)
    }
}

#[cfg(test)]
mod tests;
