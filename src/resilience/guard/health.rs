//! State of a guard: breaker, connection and counters, behind the guard's lock. No I/O, no waiting.

use std::time::Duration;

use serde::Serialize;
use tokio::task::AbortHandle;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::event::{Event, Events};
use crate::base::outage::Outage;
use crate::resilience::breaker::{Breaker, CallOutcome, Permit};
use crate::resilience::circuit::Circuit;

/// Minimum interval between log lines of a flapping store, for each direction.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// State of a remote store.
///
/// ```
/// let stats = tollgate::GuardStats::default();
/// assert!(!stats.up && stats.last_error.is_none());
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct GuardStats {
    /// Name of the store, such as `redis`.
    pub name: String,
    /// Whether calls reach it.
    pub up: bool,
    /// Connections established.
    #[serde(rename = "connections_total")]
    pub connections: u64,
    /// Attempts to connect.
    #[serde(rename = "attempts_total")]
    pub attempts: u64,
    /// Calls made.
    #[serde(rename = "calls_total")]
    pub calls: u64,
    /// Calls without an answer by the deadline.
    #[serde(rename = "timeouts_total")]
    pub timeouts: u64,
    /// Calls that failed otherwise.
    #[serde(rename = "failures_total")]
    pub failures: u64,
    /// Calls not made, because of an open breaker or a missing connection.
    #[serde(rename = "skipped_total")]
    pub skipped: u64,
    /// The last error, if any.
    pub last_error: Option<String>,
}

/// Call in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallTicket {
    permit: Permit,
    /// Number of its connection.
    connection: u64,
    /// Time of the call.
    at: Timestamp,
}

/// Transition of the store: up or down.
#[derive(Debug)]
pub(super) struct Transition {
    /// Duration of the outage that ended; `None` if one began.
    back_after: Option<Duration>,
    logged: bool,
}

impl Transition {
    /// Returns the error of an outage that begins.
    pub(super) fn outage(&self, store: &str, error: Option<&Error>) -> Option<Error> {
        let text = |error: &Error| Error::store(error.to_string(), "outage");
        self.back_after.is_none().then(|| error.map_or_else(|| Error::outage(store, Outage::Disconnected), text))
    }

    pub(super) fn report(&self, events: &Events, store: &str, error: Option<Error>) {
        let unknown;
        let event = match self.back_after {
            Some(away) => Event::StoreUp { store, away },
            None => {
                unknown = error.unwrap_or_else(|| Error::outage(store, Outage::Disconnected));
                Event::StoreDown { store, error: &unknown }
            }
        };
        if self.logged { events.emit(&event) } else { events.emit_unlogged(&event) }
    }
}

pub(super) struct GuardHealth<C> {
    connection: Option<C>,
    /// Number of `connection`.
    number: u64,
    breaker: Breaker,
    /// Duration from which an answer is slow.
    slow_after: Option<Duration>,
    /// Start of the outage; `None` while up or unknown.
    down_since: Option<Timestamp>,
    known: bool,
    /// Error of an outage that began before anyone listened.
    pub(super) unheard: Option<Error>,
    logged: [Option<Timestamp>; 2],
    /// The running connection task: its number and its handle.
    dialling: Option<(u64, Option<AbortHandle>)>,
    dial_turns: u64,
    /// Start of the last attempt to connect.
    last_dial: Option<Timestamp>,
    stats: GuardStats,
}

impl<C> GuardHealth<C> {
    pub(super) fn new(circuit: Circuit) -> Self {
        Self {
            connection: None,
            number: 0,
            breaker: Breaker::new(circuit.policy),
            slow_after: circuit.slow_after,
            down_since: None,
            known: false,
            unheard: None,
            logged: [None; 2],
            dialling: None,
            dial_turns: 0,
            last_dial: None,
            stats: GuardStats::default(),
        }
    }

    pub(super) fn succeeded(&mut self, ticket: CallTicket, now: Timestamp) -> Option<Transition> {
        let slow = self.slow_after.is_some_and(|span| now.since(ticket.at) >= span);
        match self.record(ticket, if slow { CallOutcome::Slow } else { CallOutcome::Success }, now) {
            Some(true) => self.down(now),
            Some(false) => self.up(now),
            None => None,
        }
    }

    pub(super) fn refused(&mut self, ticket: CallTicket, now: Timestamp) -> Option<Transition> {
        self.stats.failures += 1;
        let turned = self.record(ticket, CallOutcome::Failure, now);
        if turned == Some(true) { self.down(now) } else { None }
    }

    pub(super) fn lost(&mut self, ticket: CallTicket, now: Timestamp) -> Option<Transition> {
        self.stats.failures += 1;
        self.record(ticket, CallOutcome::Failure, now);
        self.drop_connection(ticket, now)
    }

    /// A late answer alone does not replace the connection, because occasional slow answers would do so constantly.
    pub(super) fn timed_out(&mut self, ticket: CallTicket, now: Timestamp) -> Option<Transition> {
        self.stats.timeouts += 1;
        self.record(ticket, CallOutcome::Failure, now);
        if self.breaker.is_open() { self.drop_connection(ticket, now) } else { None }
    }

    /// The next call tries the fresh connection; its success closes the breaker.
    pub(super) fn connected(&mut self, connection: C, turn: u64, now: Timestamp) -> Option<Transition> {
        self.connection = Some(connection);
        self.number += 1;
        self.stop_dialling(turn);
        if self.breaker.is_open() {
            self.breaker.probe_now(now);
            return None;
        }
        self.up(now)
    }

    pub(super) fn not_connected(&mut self, now: Timestamp) -> Option<Transition> {
        self.down(now)
    }

    pub(super) fn check(&mut self, now: Timestamp) -> Result<(), Outage> {
        let verdict = match &self.connection {
            None => Err(Outage::Disconnected),
            Some(_) if self.breaker.admits(now) => Ok(()),
            Some(_) => Err(Outage::Open),
        };
        self.stats.skipped += u64::from(verdict.is_err());
        verdict
    }

    pub(super) const fn is_up(&self) -> bool {
        self.connection.is_some() && !self.breaker.is_open()
    }

    pub(super) fn wants_dialling(&self) -> bool {
        self.connection.is_none() && self.dialling.is_none()
    }

    pub(super) fn start_dialling(&mut self) -> Option<u64> {
        if !self.wants_dialling() {
            return None;
        }
        self.dial_turns += 1;
        self.dialling = Some((self.dial_turns, None));
        Some(self.dial_turns)
    }

    pub(super) fn set_dialling_task(&mut self, turn: u64, task: AbortHandle) {
        if let Some((current, handle)) = &mut self.dialling
            && *current == turn
        {
            *handle = Some(task);
        }
    }

    pub(super) fn dialled(&mut self, now: Timestamp) {
        self.stats.attempts += 1;
        self.last_dial = Some(now);
    }

    /// Returns the time until the next attempt to connect may start.
    pub(super) fn dial_due(&self, now: Timestamp, every: Duration) -> Duration {
        self.last_dial.map_or(Duration::ZERO, |last| every.saturating_sub(now.since(last)))
    }

    pub(super) fn stop_dialling(&mut self, turn: u64) {
        self.dialling = self.dialling.take().filter(|(current, _)| *current != turn);
    }

    pub(super) fn note(&mut self, error: &Error) {
        self.stats.last_error = Some(error.to_string());
    }

    pub(super) fn stats(&self, name: &str, connections: u64) -> GuardStats {
        GuardStats { name: name.to_owned(), up: self.is_up(), connections, ..self.stats.clone() }
    }

    fn record(&mut self, ticket: CallTicket, outcome: CallOutcome, now: Timestamp) -> Option<bool> {
        self.breaker.record(ticket.permit, outcome, now)
    }

    /// Drops the connection, unless it was replaced after the call was made.
    fn drop_connection(&mut self, ticket: CallTicket, now: Timestamp) -> Option<Transition> {
        if ticket.connection != self.number {
            return None;
        }
        self.connection = None;
        self.down(now)
    }

    pub(super) fn switched_off(&mut self, now: Timestamp) -> Option<Transition> {
        self.stats.skipped += 1;
        self.connection = None;
        self.down(now)
    }

    /// Returns the error of an outage that began before anyone listened, unless it is over.
    pub(super) fn take_unheard(&mut self) -> Option<Error> {
        self.unheard.take().filter(|_| self.down_since.is_some())
    }

    fn down(&mut self, now: Timestamp) -> Option<Transition> {
        if self.known && self.down_since.is_some() {
            return None;
        }
        (self.known, self.down_since) = (true, Some(now));
        Some(Transition { back_after: None, logged: self.may_log(0, now) })
    }

    fn up(&mut self, now: Timestamp) -> Option<Transition> {
        self.known = true;
        let since = self.down_since.take()?;
        Some(Transition { back_after: Some(now.since(since)), logged: self.may_log(1, now) })
    }

    fn may_log(&mut self, way: usize, now: Timestamp) -> bool {
        let due = self.logged[way].is_none_or(|last| now.since(last) >= LOG_EVERY);
        if due {
            self.logged[way] = Some(now);
        }
        due
    }
}

impl<C: Clone> GuardHealth<C> {
    pub(super) fn admit(&mut self, now: Timestamp) -> Result<(C, CallTicket), Outage> {
        let Some(connection) = self.connection.clone() else {
            self.stats.skipped += 1;
            return Err(Outage::Disconnected);
        };
        let Some(permit) = self.breaker.admit(now) else {
            self.stats.skipped += 1;
            return Err(Outage::Open);
        };
        self.stats.calls += 1;
        Ok((connection, CallTicket { permit, connection: self.number, at: now }))
    }
}

impl<C> Drop for GuardHealth<C> {
    fn drop(&mut self) {
        if let Some((_, Some(task))) = &self.dialling {
            task.abort();
        }
    }
}
