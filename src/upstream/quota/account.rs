//! [`Account`]: the state of one upstream, and the decision whether a call may be sent.
//!
//! Pure: a call and a time go in, a verdict comes out; a response and a time go in, events come out. The owner
//! locks it twice per call, for a few dozen comparisons each.
//!
//! All or none: nothing is spent before every check has passed.

mod booking;
mod correction;
mod settlement;

use std::time::Duration;

use smallvec::SmallVec;

use super::burn::BurnRate;
use super::in_flight::InFlight;
use super::meter::{Calendar, LearnedLimit, PointInTime};
use super::rejected::RejectedReason;
use super::reservation_size::ReservationSize;
use crate::base::budget::Allowance;
use crate::base::clock::Timestamp;
use crate::resilience::breaker::{Breaker, Permit};
use crate::upstream::learn::observed_limits::LimitName;
pub(crate) use booking::BookingRequest;
pub(crate) use correction::Correction;
pub(crate) use settlement::{AccountEvents, CallEnding};

/// Ends of windows closer than this are reported to caches once.
const NEAR: Duration = Duration::from_secs(2);
/// Maximum number of observed limits per upstream.
const MAX_LEARNED: usize = 16;

/// Configuration of an account.
#[derive(Clone, Debug)]
pub(crate) struct AccountConfig {
    /// Whether calls can be rejected.
    pub(crate) enforce: bool,
    /// Whether credits are booked in a store.
    pub(crate) booked: bool,
    /// Whether a 304 response is free.
    pub(crate) free_not_modified: bool,
    /// Alert thresholds, in per cent.
    pub(crate) alert_at: SmallVec<[u8; 4]>,
    /// The share of the budget reported to caches.
    pub(crate) usual_share: f64,
    /// Duration from which a call is slow, in nanoseconds.
    pub(crate) slow_after: u64,
    /// Interval between calls that check whether a report of the upstream still holds.
    pub(crate) probe_interval: Duration,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Account {
    pub(super) config: AccountConfig,
    pub(crate) calendars: SmallVec<[Calendar; 2]>,
    pub(crate) learned: SmallVec<[LearnedLimit; 2]>,
    pub(crate) burn: BurnRate,
    pub(crate) breaker: Option<Breaker>,
    in_flight: InFlight,
    block: ReservationSize,
    /// End of the pause requested by the upstream.
    paused_until: Timestamp,
    /// Time from which one call may check whether the pause still holds.
    pause_probe_at: Timestamp,
    /// Consecutive rejections by the upstream without a retry time.
    refusals: u32,
    /// End of the period in which calls do not wait for the store, after a failure.
    store_away_until: Timestamp,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) rejections: [u64; RejectedReason::COUNT],
    pub(crate) would_reject: u64,
    pub(crate) waits: u64,
    /// Share last reported to caches, in 256ths.
    fed: SmallVec<[(u8, Timestamp); 4]>,
}

/// Counters of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Endpoint {
    pub(crate) calls: u64,
    pub(crate) credits: u64,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) not_modified: u64,
    /// Total duration of answered calls, in nanoseconds.
    pub(crate) time: u64,
    /// Observed limits that its last response reported, one bit each.
    limits: u16,
}

/// Call to be admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedCall {
    pub(crate) endpoint: usize,
    pub(crate) cost: u64,
    /// Share of each limit that its class may use.
    pub(crate) share: f64,
    /// Whether it has waited for the store long enough and is booked later.
    pub(crate) unbooked: bool,
}

/// Admitted call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccountTicket {
    pub(super) call: PlannedCall,
    pub(super) sent: Timestamp,
    /// Responses received before the call was sent.
    mark: u64,
    permit: Option<Permit>,
}

impl AccountTicket {
    /// Returns the index of the endpoint.
    pub(crate) const fn endpoint(&self) -> usize {
        self.call.endpoint
    }

    /// Returns the nanoseconds since the call was sent.
    pub(crate) fn age(&self, now: Timestamp) -> u64 {
        now.nanos_since(self.sent)
    }
}

/// Verdict on a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CallVerdict {
    /// Send: its cost is spent.
    Send(AccountTicket),
    /// Book its cost in the store first.
    Book,
    /// Reject until then.
    Reject(RejectedReason, Timestamp),
}

impl Account {
    pub(crate) fn new(
        config: AccountConfig,
        calendars: SmallVec<[Calendar; 2]>,
        breaker: Option<Breaker>,
        endpoints: usize,
    ) -> Self {
        Self {
            config,
            calendars,
            learned: SmallVec::new(),
            burn: BurnRate::new(),
            breaker,
            in_flight: InFlight::default(),
            block: ReservationSize::new(),
            paused_until: Timestamp::ZERO,
            pause_probe_at: Timestamp::ZERO,
            refusals: 0,
            store_away_until: Timestamp::ZERO,
            endpoints: vec![Endpoint::default(); endpoints],
            rejections: [0; RejectedReason::COUNT],
            would_reject: 0,
            waits: 0,
            fed: SmallVec::new(),
        }
    }

    /// Advances the windows to this time.
    pub(crate) fn advance(&mut self, point: PointInTime) {
        self.in_flight.age(point.now);
        let in_flight_credits = self.in_flight.in_flight_credits();
        for calendar in self.calendars.iter_mut().filter(|calendar| point.now >= calendar.ends) {
            calendar.advance(point, in_flight_credits);
        }
        for learned in &mut self.learned {
            learned.advance(point.now, in_flight_credits);
        }
    }

    /// Restarts the windows after the calendar was read again, because it may have been set.
    pub(crate) fn reset_clock(&mut self, point: PointInTime) {
        let in_flight_credits = self.in_flight.in_flight_credits();
        self.calendars.iter_mut().for_each(|calendar| calendar.advance(point, in_flight_credits));
    }

    /// Decides, and spends the cost.
    pub(crate) fn admit(&mut self, call: PlannedCall, point: PointInTime) -> CallVerdict {
        self.advance(point);
        let now = point.now;
        if let Some((reason, until)) = self.rejection_of(call, now) {
            if self.config.enforce {
                return CallVerdict::Reject(reason, until);
            }
            self.would_reject += 1;
        } else if self.config.enforce && !call.unbooked && self.must_book(call.cost, now) {
            return CallVerdict::Book;
        }
        if now < self.paused_until && now >= self.pause_probe_at {
            self.pause_probe_at = now + self.config.probe_interval;
        }
        let permit = self.breaker.as_mut().and_then(|breaker| breaker.admit(now));
        self.calendars.iter_mut().for_each(|calendar| calendar.spend(call.cost));
        let limits = self.endpoints[call.endpoint].limits;
        for learned in marked(&mut self.learned, limits) {
            learned.spend(call.cost, call.share, now);
        }
        self.burn.spend(call.cost, now);
        let endpoint = &mut self.endpoints[call.endpoint];
        endpoint.calls += 1;
        endpoint.credits += call.cost;
        CallVerdict::Send(AccountTicket { call, sent: now, mark: self.in_flight.send(call.cost), permit })
    }

    /// Returns the reason against sending the call now, and when that ends.
    fn rejection_of(&mut self, call: PlannedCall, now: Timestamp) -> Option<(RejectedReason, Timestamp)> {
        if now < self.paused_until && now < self.pause_probe_at {
            return Some((RejectedReason::RetryAfter, self.paused_until.min(self.pause_probe_at)));
        }
        if let Some(breaker) = self.breaker.as_ref().filter(|breaker| !breaker.admits(now)) {
            return Some((RejectedReason::CircuitOpen, breaker.probe_at().unwrap_or(now)));
        }
        if call.cost == 0 {
            return None;
        }
        let full = self.calendars.iter().filter(|calendar| !calendar.fits(call.cost, call.share));
        let ours = full.map(|calendar| calendar.ends).max();
        let limits = self.endpoints[call.endpoint].limits;
        let full = marked(&mut self.learned, limits).filter(|learned| !learned.fits(call.cost, call.share, now));
        let upstream_time = full.map(|learned| learned.opens_at()).max();
        ours.max(upstream_time).map(|until| (RejectedReason::Quota, until))
    }

    /// Returns the allowances for caches, if one changed by a 256th or a window began.
    pub(crate) fn changed_allowances(&mut self) -> Option<Vec<Allowance>> {
        let share = self.config.usual_share;
        let ours = self.calendars.iter().map(|c| (c.spent(), c.limit(), c.span.length(), c.ends));
        let known = self.learned.iter().filter(|l| !l.is_unknown());
        let upstream_time = known.map(|l| (l.spent, l.limit, l.length, l.ends));
        let left: SmallVec<[(f64, Duration, Timestamp); 4]> = ours
            .chain(upstream_time)
            .map(|(spent, limit, length, ends)| {
                let limit = limit as f64 * share;
                ((1.0 - spent as f64 / limit.max(1.0)).clamp(0.0, 1.0), length, ends)
            })
            .collect();
        let same = self.fed.len() == left.len()
            && self.fed.iter().zip(&left).all(|(fed, (left, _, ends))| fed.0 == step(*left) && is_near(fed.1, *ends));
        if same {
            return None;
        }
        self.fed = left.iter().map(|(left, _, ends)| (step(*left), *ends)).collect();
        Some(left.into_iter().map(|(left, length, ends)| Allowance::new(left, length, ends)).collect())
    }
}

/// Reset times in whole seconds vary by as much.
fn is_near(one: Timestamp, other: Timestamp) -> bool {
    one.since(other).max(other.since(one)) < NEAR
}

fn step(share: f64) -> u8 {
    (share * 255.0) as u8
}

/// Iterates over the limits whose bits are set.
fn marked(learned: &mut [LearnedLimit], limits: u16) -> impl Iterator<Item = &mut LearnedLimit> {
    learned.iter_mut().enumerate().filter(move |(at, _)| limits & (1 << at) != 0).map(|(_, learned)| learned)
}

/// Crossed threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alert {
    pub(crate) window: LimitName,
    pub(crate) percent: u8,
    pub(crate) spent: u64,
    pub(crate) limit: u64,
    pub(crate) ends: Timestamp,
}

#[cfg(test)]
mod tests;
