//! Settles calls after they end.

use std::time::Duration;

use http::StatusCode;
use smallvec::SmallVec;

use super::{Account, AccountTicket, Alert, MAX_LEARNED};
use crate::base::clock::{Timestamp, nanos};
use crate::resilience::breaker::CallOutcome;
use crate::upstream::learn::observed_limits::{ObservedLimits, named};
use crate::upstream::quota::meter::{CountedResponse, LearnedLimit, PointInTime};

/// First pause after a rejection without a retry time, doubled each time, up to sixty-four times.
const PAUSE: Duration = Duration::from_secs(1);
/// The same for GitHub's secondary limit, as its documentation asks.
const SECONDARY_PAUSE: Duration = Duration::from_secs(60);

/// Ending of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CallEnding<'a> {
    /// Answered, with the limits that the response reported.
    Answered(StatusCode, &'a ObservedLimits),
    /// Failed with an error.
    Failed,
    /// Dropped by the caller.
    Cancelled,
}

/// Events of a settlement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AccountEvents {
    pub(crate) alerts: SmallVec<[Alert; 1]>,
    /// Whether the circuit opened (`true`) or closed (`false`), if it changed.
    pub(crate) circuit: Option<bool>,
}

impl Account {
    /// Settles a call that ended.
    pub(crate) fn settle(
        &mut self,
        ticket: &AccountTicket,
        ending: CallEnding<'_>,
        point: PointInTime,
    ) -> AccountEvents {
        self.advance(point);
        let now = point.now;
        let mut events = AccountEvents::default();
        match ending {
            CallEnding::Answered(status, observed) => {
                let counted = self.answered(ticket, status, now);
                self.apply_report(ticket, counted, observed, now);
                events.circuit = self.apply_pause(observed, now);
                events.circuit = self.record(ticket, Some(status), now).or(events.circuit);
            }
            CallEnding::Failed => {
                self.in_flight.forget(ticket.call.cost, now);
                self.endpoints[ticket.call.endpoint].failed += 1;
                events.circuit = self.record(ticket, None, now);
            }
            CallEnding::Cancelled => {
                self.in_flight.forget(ticket.call.cost, now);
                if now.nanos_since(ticket.sent) >= self.config.slow_after {
                    events.circuit = self.record_in_breaker(ticket, CallOutcome::Slow, now);
                }
            }
        }
        events.alerts = self.alerts();
        events
    }

    /// Returns the part of the cost that counts.
    fn answered(&mut self, ticket: &AccountTicket, status: StatusCode, now: Timestamp) -> u64 {
        let cost = ticket.call.cost;
        let endpoint = &mut self.endpoints[ticket.call.endpoint];
        endpoint.answered += 1;
        endpoint.time += now.nanos_since(ticket.sent);
        endpoint.not_modified += u64::from(status == StatusCode::NOT_MODIFIED);
        if status != StatusCode::NOT_MODIFIED || !self.config.free_not_modified {
            self.in_flight.answer(cost);
            return cost;
        }
        endpoint.credits -= cost;
        let limits = endpoint.limits;
        self.in_flight.refund(cost);
        self.burn.refund(cost, now);
        self.calendars.iter_mut().for_each(|calendar| calendar.refund(cost));
        for learned in super::marked(&mut self.learned, limits) {
            learned.spent = learned.spent.saturating_sub(cost);
        }
        0
    }

    /// Applies the limits that the response to a call reported, of whose cost `counted` is counted.
    fn apply_report(&mut self, ticket: &AccountTicket, counted: u64, observed: &ObservedLimits, now: Timestamp) {
        let unreported = self.in_flight.unreported(ticket.mark, counted);
        let answer = CountedResponse { sent: ticket.sent, unreported };
        let mut limits = 0_u16;
        for limit in &observed.limits {
            let known = self.learned.iter().position(|learned| learned.name == limit.name);
            match known {
                Some(at) => {
                    self.learned[at].report(limit, answer, now);
                    limits |= 1 << at;
                }
                None if self.learned.len() < MAX_LEARNED => {
                    if let Some(learned) = LearnedLimit::new(limit, answer, self.config.probe_interval, now) {
                        limits |= 1 << self.learned.len();
                        self.learned.push(learned);
                    }
                }
                None => {}
            }
        }
        if limits != 0 {
            self.endpoints[ticket.call.endpoint].limits = limits;
        }
    }

    /// Pauses as requested by the upstream.
    fn apply_pause(&mut self, observed: &ObservedLimits, now: Timestamp) -> Option<bool> {
        if observed.unavailable {
            let until = now + observed.retry_after?.min(self.config.probe_interval);
            return match &mut self.breaker {
                Some(breaker) => breaker.open_until(until, now),
                None => {
                    self.pause(until, now);
                    None
                }
            };
        }
        if observed.undecided {
            return None;
        }
        if !observed.refused {
            self.refusals = 0;
            return None;
        }
        // A used-up limit pauses its own endpoints; any other rejection pauses all.
        let used_up = observed.limits.iter().filter(|limit| limit.remaining == Some(0)).map(|limit| &limit.name);
        let mut held = false;
        for name in used_up {
            let until = observed.retry_after.map_or(now, |span| now + span);
            for learned in self.learned.iter_mut().filter(|learned| learned.name == *name) {
                learned.block_until(until, now);
                held = true;
            }
        }
        if !held {
            let first = if observed.secondary { SECONDARY_PAUSE } else { PAUSE };
            let pause = observed.retry_after.unwrap_or_else(|| first * (1 << self.refusals.min(6)));
            self.refusals = self.refusals.saturating_add(1);
            self.pause(now + pause, now);
        }
        None
    }

    fn pause(&mut self, until: Timestamp, now: Timestamp) {
        self.paused_until = self.paused_until.max(until);
        self.pause_probe_at = now + self.config.probe_interval;
    }

    /// Applies limits from a body, after the head was settled.
    pub(crate) fn observed_in_body(
        &mut self,
        ticket: &AccountTicket,
        observed: &ObservedLimits,
        point: PointInTime,
    ) -> AccountEvents {
        self.advance(point);
        // Whether the call itself was free is no longer known: its cost is treated as not included in the report.
        self.apply_report(ticket, 0, observed, point.now);
        let circuit = self.apply_pause(observed, point.now);
        AccountEvents { alerts: self.alerts(), circuit }
    }

    fn record(&mut self, ticket: &AccountTicket, status: Option<StatusCode>, now: Timestamp) -> Option<bool> {
        let outcome = match status {
            None => CallOutcome::Failure,
            Some(status) if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => CallOutcome::Failure,
            Some(_) if now.nanos_since(ticket.sent) >= self.config.slow_after => CallOutcome::Slow,
            Some(_) => CallOutcome::Success,
        };
        self.record_in_breaker(ticket, outcome, now)
    }

    fn record_in_breaker(&mut self, ticket: &AccountTicket, outcome: CallOutcome, now: Timestamp) -> Option<bool> {
        self.breaker.as_mut()?.record(ticket.permit?, outcome, now)
    }

    /// Returns the thresholds crossed by now.
    pub(crate) fn alerts(&mut self) -> SmallVec<[Alert; 1]> {
        let (mut alerts, at) = (SmallVec::new(), &self.config.alert_at);
        for calendar in &mut self.calendars {
            let (spent, limit, ends) = (calendar.spent(), calendar.limit(), calendar.ends);
            for percent in calendar.alerts.crossed(at, spent, limit) {
                let window = named(calendar.credits.window().as_bytes());
                alerts.push(Alert { window, percent, spent, limit, ends });
            }
        }
        for learned in self.learned.iter_mut().filter(|learned| !learned.is_unknown()) {
            let (spent, limit, ends) = (learned.spent, learned.limit, learned.ends);
            for percent in learned.alerts.crossed(at, spent, limit) {
                alerts.push(Alert { window: learned.name.clone(), percent, spent, limit, ends });
            }
        }
        alerts
    }

    /// Returns the duration above which a call is slow, in nanoseconds.
    pub(crate) const fn slow_after(span: Option<Duration>) -> u64 {
        match span {
            Some(span) => nanos(span),
            None => u64::MAX,
        }
    }
}
