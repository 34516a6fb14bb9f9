//! [`FailOpen`]: the only door to a remote store.
//!
//! A call goes through with a deadline and a breaker, or is answered with an [`Outage`] at once: nobody ever waits for
//! a
//! connection to be made. Connections are made in the background, each on a fresh socket.
//!
//! | what happened | the call | the connection | the breaker |
//! |---|---|---|---|
//! | an answer in time | its value | stays | a success |
//! | no answer by the deadline | [`Outage::Deadline`] | stays until the breaker opens, then a fresh one is made | a failure |
//! | the connection broke, or its answer makes no sense | [`Outage::Disconnected`] | a fresh one is made | a failure |
//! | the server refused (`READONLY`, `OOM`, …) | [`Outage::Refused`] | stays | a failure |
//! | there is no connection | [`Outage::Disconnected`], at once | one is being made | – |
//! | the breaker is open | [`Outage::Open`], at once; one call a second tries | stays | – |
//!
//! While there is no connection one is tried each [`retry_every`](GuardSettings::retry_every), whether or not earlier
//! attempts have ended: a server that hangs in the middle of a handshake delays nothing. One that accepts and then
//! fails
//! is dialled no more often than that. A fresh connection may be tried
//! by the next call, even where the breaker is open.
//!
//! No lock is held across an await, and nothing is boxed per call.

mod dial;
mod health;

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::circuit::Circuit;
use crate::base::clock::{Timestamp, runtime_now};
use crate::base::error::Error;
use crate::base::event::Events;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::base::outage::Outage;
pub use health::GuardStats;
use health::{Health, Transition};

/// How long a guard waits for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuardSettings {
    /// For the answer to one call.
    pub(crate) deadline: Duration,
    /// Between one attempt to connect and the next.
    pub(crate) retry_every: Duration,
    /// For one attempt to connect.
    pub(crate) dial_patience: Duration,
    /// When to stop calling.
    pub(crate) circuit: Circuit,
}

impl GuardSettings {
    /// Five attempts to connect a second, two seconds for each; the circuit as it is by default.
    pub(crate) fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            retry_every: Duration::from_millis(200),
            dial_patience: Duration::from_secs(2),
            circuit: Circuit::default(),
        }
    }
}

/// Timers count milliseconds and round up, the runtime's and the poll's below it: by so much a wait may be longer than
/// was
/// asked for.
const ROUNDING: Duration = Duration::from_millis(2);

/// How a call through the guard failed, in the engine's words.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The connection is of no more use.
    Lost(Error),
    /// The server is there and says no.
    Refused(Error),
}

impl Fault {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Lost(error) | Self::Refused(error) => error,
        }
    }
}

pub(crate) type Connect<C> = Box<dyn Fn() -> BoxFuture<Result<C, Error>> + Send + Sync>;

/// Guards connections of type `C`. Clones share them; when the last is dropped, so is the connection and what makes it.
pub(crate) struct FailOpen<C> {
    inner: Arc<Inner<C>>,
}

struct Inner<C> {
    name: &'static str,
    settings: GuardSettings,
    dial: Connect<C>,
    events: Mutex<Events>,
    health: Mutex<Health<C>>,
    /// Whether every call would be tried: what most who ask want to know, without the lock.
    up: AtomicBool,
    /// The number of the latest connection.
    connects: watch::Sender<u64>,
    /// Where this guard's time begins.
    epoch: Instant,
}

impl<C> Clone for FailOpen<C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<C: Clone + Send + Sync + 'static> FailOpen<C> {
    /// Begins to connect where there is a runtime, else on the first call. Never fails: a server that is down is an
    /// outage, not a mistake.
    pub(crate) fn new(
        name: &'static str,
        settings: GuardSettings,
        dial: impl Fn() -> BoxFuture<Result<C, Error>> + Send + Sync + 'static,
        events: Events,
    ) -> Self {
        let inner = Inner {
            name,
            settings,
            dial: Box::new(dial),
            events: Mutex::new(events),
            health: Mutex::new(Health::new(settings.circuit)),
            up: AtomicBool::new(false),
            connects: watch::Sender::new(0),
            epoch: runtime_now(),
        };
        let guard = Self { inner: Arc::new(inner) };
        guard.connect();
        guard
    }

    /// Calls the store, within the deadline.
    ///
    /// # Errors
    /// Why there is no answer. The engine's own words are in the [`stats`](Self::stats) and in the event.
    pub(crate) async fn call<T, F, Fut>(&self, f: F) -> Result<T, Outage>
    where
        F: FnOnce(C) -> Fut,
        Fut: Future<Output = Result<T, Fault>>,
    {
        self.call_by(runtime_now() + self.patience(), f).await
    }

    /// Calls the store, for an answer by then: the deadline of a call that has waited already.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) async fn call_by<T, F, Fut>(&self, by: Instant, f: F) -> Result<T, Outage>
    where
        F: FnOnce(C) -> Fut,
        Fut: Future<Output = Result<T, Fault>>,
    {
        let (connection, ticket) = self.admit()?;
        let (outage, error, edge) = match tokio::time::timeout_at(by, f(connection)).await {
            Ok(Ok(value)) => {
                let edge = self.inner.change(|health, now| health.succeeded(ticket, now));
                self.inner.tell(edge, None);
                return Ok(value);
            }
            Ok(Err(Fault::Lost(error))) => {
                (Outage::Disconnected, error, self.inner.change(|health, now| health.lost(ticket, now)))
            }
            Ok(Err(Fault::Refused(error))) => {
                (Outage::Refused, error, self.inner.change(|health, now| health.refused(ticket, now)))
            }
            Err(_) => {
                let error = Error::outage(self.inner.name, Outage::Deadline);
                (Outage::Deadline, error, self.inner.change(|health, now| health.timed_out(ticket, now)))
            }
        };
        self.inner.tell(edge, Some(error));
        self.connect();
        Err(outage)
    }

    /// Whether a call would be tried now.
    pub(crate) fn check(&self) -> Result<(), Outage> {
        if self.inner.up.load(Ordering::Relaxed) {
            return Ok(());
        }
        let verdict = self.inner.lock().check(self.inner.now());
        if verdict.is_err() {
            self.connect();
        }
        verdict
    }

    /// How many connections have been made. What was known from before may have been missed since.
    pub(crate) fn generation(&self) -> u64 {
        *self.inner.connects.borrow()
    }

    /// Called for every fresh connection.
    pub(crate) fn connects(&self) -> watch::Receiver<u64> {
        self.inner.connects.subscribe()
    }

    /// How long the store is waited for, so that who asks has waited no longer than the deadline.
    pub(crate) fn patience(&self) -> Duration {
        let deadline = self.inner.settings.deadline;
        deadline - ROUNDING.min(deadline / 2)
    }

    /// Where events go from now on.
    pub(crate) fn listen(&self, events: Events) {
        *self.inner.events.lock() = events;
    }

    pub(crate) fn stats(&self) -> GuardStats {
        self.inner.lock().stats(self.inner.name, self.generation())
    }

    fn admit(&self) -> Result<(C, health::CallTicket), Outage> {
        let admitted = self.inner.lock().admit(self.inner.now());
        if admitted.is_err() {
            self.connect();
        }
        admitted
    }

    /// Sees to it that a connection is being made where there is none.
    fn connect(&self) {
        dial::start(&self.inner);
    }
}

impl<C> Inner<C> {
    fn lock(&self) -> MutexGuard<'_, Health<C>> {
        self.health.lock()
    }

    /// Changes what is known of the store.
    fn change<R>(&self, change: impl FnOnce(&mut Health<C>, Timestamp) -> R) -> R {
        let mut health = self.lock();
        let changed = change(&mut health, self.now());
        self.up.store(health.is_up(), Ordering::Relaxed);
        changed
    }

    fn now(&self) -> Timestamp {
        // A day's head start, so that "ten seconds ago" is representable from the beginning.
        Timestamp::from_nanos(86_400_000_000_000) + (runtime_now() - self.epoch)
    }

    /// Says what turned, outside every lock.
    fn tell(&self, edge: Option<Transition>, error: Option<Error>) {
        if let Some(error) = &error {
            self.lock().note(error);
        }
        let Some(edge) = edge else { return };
        let events = self.events.lock().clone();
        edge.tell(&events, self.name, error);
    }
}

impl<C> fmt::Debug for FailOpen<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailOpen").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
