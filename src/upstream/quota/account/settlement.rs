//! What becomes of a call that was let through.

use std::time::Duration;

use http::StatusCode;
use smallvec::SmallVec;

use super::{Account, AccountTicket, Alert, MOST_LEARNED};
use crate::base::clock::{Timestamp, nanos};
use crate::resilience::breaker::CallOutcome;
use crate::upstream::learn::observed_limits::{ObservedLimits, named};
use crate::upstream::quota::meter::{CountedResponse, LearnedLimit, Moment};

/// How long an upstream that refuses without a word is left alone, doubled each time, up to sixty-four times as long.
const PAUSE: Duration = Duration::from_secs(1);

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CallEnding<'a> {
    /// With a response, and the limits it reported.
    Answered(StatusCode, &'a ObservedLimits),
    /// In an error.
    Failed,
    /// The caller dropped it.
    Left,
}

/// Events of a settlement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AccountEvents {
    pub(crate) alerts: SmallVec<[Alert; 1]>,
    /// The circuit opened, or shut.
    pub(crate) circuit: Option<bool>,
}

impl Account {
    /// A call ended.
    pub(crate) fn settle(&mut self, ticket: &AccountTicket, ending: CallEnding<'_>, moment: Moment) -> AccountEvents {
        self.turn(moment);
        let now = moment.now;
        let mut news = AccountEvents::default();
        match ending {
            CallEnding::Answered(status, told) => {
                let counted = self.answered(ticket, status, now);
                self.hear(ticket, counted, told, now);
                news.circuit = self.obey(told, now);
                news.circuit = self.record(ticket, Some(status), now).or(news.circuit);
            }
            CallEnding::Failed => {
                self.flow.lose(ticket.call.cost, now);
                self.endpoints[ticket.call.endpoint].failed += 1;
                news.circuit = self.record(ticket, None, now);
            }
            CallEnding::Left => {
                self.flow.lose(ticket.call.cost, now);
                if now.nanos_since(ticket.sent) >= self.terms.slow_after {
                    news.circuit = self.tell_breaker(ticket, CallOutcome::Slow, now);
                }
            }
        }
        news.alerts = self.alerts();
        news
    }

    /// Says what of its cost is counted.
    fn answered(&mut self, ticket: &AccountTicket, status: StatusCode, now: Timestamp) -> u64 {
        let cost = ticket.call.cost;
        let endpoint = &mut self.endpoints[ticket.call.endpoint];
        endpoint.answered += 1;
        endpoint.time += now.nanos_since(ticket.sent);
        endpoint.not_modified += u64::from(status == StatusCode::NOT_MODIFIED);
        if status != StatusCode::NOT_MODIFIED || !self.terms.free_not_modified {
            self.flow.answer(cost);
            return cost;
        }
        endpoint.credits -= cost;
        let limits = endpoint.limits;
        self.flow.forgive(cost);
        self.burn.forgive(cost, now);
        self.calendars.iter_mut().for_each(|calendar| calendar.give_back(cost));
        for learned in super::marked(&mut self.learned, limits) {
            learned.spent = learned.spent.saturating_sub(cost);
        }
        0
    }

    /// Takes in what the upstream says of its limits in the answer to a call, so much of whose cost is counted.
    fn hear(&mut self, ticket: &AccountTicket, counted: u64, told: &ObservedLimits, now: Timestamp) {
        let unseen = self.flow.unseen(ticket.mark, counted);
        let answer = CountedResponse { sent: ticket.sent, unseen };
        let mut limits = 0_u16;
        for limit in &told.limits {
            let known = self.learned.iter().position(|learned| learned.name == limit.name);
            match known {
                Some(at) => {
                    self.learned[at].tell(limit, answer, now);
                    limits |= 1 << at;
                }
                None if self.learned.len() < MOST_LEARNED => {
                    if let Some(learned) = LearnedLimit::new(limit, answer, now) {
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

    /// Waits where the upstream says so.
    fn obey(&mut self, told: &ObservedLimits, now: Timestamp) -> Option<bool> {
        if told.unavailable {
            let until = now + told.retry_after?;
            return match &mut self.breaker {
                Some(breaker) => breaker.open_until(until, now),
                None => {
                    self.held = self.held.max(until);
                    None
                }
            };
        }
        if !told.refused {
            self.refusals = 0;
            return None;
        }
        // A limit that is used up holds those who fall under it; any other refusal holds everybody.
        let used_up = told.limits.iter().filter(|limit| limit.remaining == Some(0)).map(|limit| &limit.name);
        let mut held = false;
        for name in used_up {
            let until = told.retry_after.map_or(now, |span| now + span);
            for learned in self.learned.iter_mut().filter(|learned| learned.name == *name) {
                learned.hold(until);
                held = true;
            }
        }
        if !held {
            let pause = told.retry_after.unwrap_or_else(|| PAUSE * (1 << self.refusals.min(6)));
            self.refusals = self.refusals.saturating_add(1);
            self.held = self.held.max(now + pause);
        }
        None
    }

    /// Applies limits from a body, after the head was settled.
    pub(crate) fn observed_in_body(
        &mut self,
        ticket: &AccountTicket,
        told: &ObservedLimits,
        moment: Moment,
    ) -> AccountEvents {
        self.turn(moment);
        // Whether the call itself was free is forgotten by now: it counts as if it were not in what was told.
        self.hear(ticket, 0, told, moment.now);
        let circuit = self.obey(told, moment.now);
        AccountEvents { alerts: self.alerts(), circuit }
    }

    fn record(&mut self, ticket: &AccountTicket, status: Option<StatusCode>, now: Timestamp) -> Option<bool> {
        let outcome = match status {
            None => CallOutcome::Failure,
            Some(status) if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => CallOutcome::Failure,
            Some(_) if now.nanos_since(ticket.sent) >= self.terms.slow_after => CallOutcome::Slow,
            Some(_) => CallOutcome::Success,
        };
        self.tell_breaker(ticket, outcome, now)
    }

    fn tell_breaker(&mut self, ticket: &AccountTicket, outcome: CallOutcome, now: Timestamp) -> Option<bool> {
        self.breaker.as_mut()?.record(ticket.permit?, outcome, now)
    }

    /// The thresholds that are crossed by now.
    pub(crate) fn alerts(&mut self) -> SmallVec<[Alert; 1]> {
        let (mut alerts, at) = (SmallVec::new(), &self.terms.alert_at);
        for calendar in &mut self.calendars {
            let (spent, limit, ends) = (calendar.spent(), calendar.limit(), calendar.ends);
            for percent in calendar.alerts.crossed(at, spent, limit) {
                let window = named(calendar.credits.window().as_bytes());
                alerts.push(Alert { window, percent, spent, limit, ends });
            }
        }
        for learned in &mut self.learned {
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
