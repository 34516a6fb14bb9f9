//! [`FailOpen`]: guards all calls of a remote store.
//!
//! A call is made with a deadline and a breaker, or fails with an [`Outage`] at once: no call waits for a connection.
//! Connections are made in the background, each on a fresh socket.
//!
//! | event | the call | the connection | the breaker |
//! |---|---|---|---|
//! | an answer in time | returns it | stays | a success |
//! | no answer by the deadline | [`Outage::Deadline`] | stays until the breaker opens, then is replaced | a failure |
//! | a broken connection, or a malformed answer | [`Outage::Disconnected`] | is replaced | a failure |
//! | a rejection by the server (`READONLY`, `OOM`, …) | [`Outage::Refused`] | stays | a failure |
//! | no connection | [`Outage::Disconnected`], at once | is being made | – |
//! | an open breaker | [`Outage::Open`], at once; one call a second is a probe | stays | – |
//!
//! Without a connection, an attempt starts every [`retry_every`](GuardSettings::retry_every), whether or not earlier
//! ones have ended: a server that hangs during a handshake delays nothing, and one that accepts and then fails is not
//! dialled more often. The next call may try a fresh connection even while the breaker is open.
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
use super::outage_switch::OutageSwitch;
use crate::base::clock::{Timestamp, runtime_now};
use crate::base::error::Error;
use crate::base::event::{Event, Events};
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::base::outage::Outage;
pub use health::GuardStats;
use health::{GuardHealth, Transition};

/// Timeouts and intervals of a guard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuardSettings {
    /// Timeout of a call.
    pub(crate) deadline: Duration,
    /// Interval between attempts to connect.
    pub(crate) retry_every: Duration,
    /// Timeout of an attempt to connect.
    pub(crate) dial_timeout: Duration,
    /// Circuit breaker.
    pub(crate) circuit: Circuit,
}

impl GuardSettings {
    /// Creates the defaults: five attempts to connect a second, two seconds for each, and the default circuit.
    pub(crate) fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            retry_every: Duration::from_millis(200),
            dial_timeout: Duration::from_secs(2),
            circuit: Circuit::default(),
        }
    }

    /// Sets the circuit breaker.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(crate) const fn circuit(self, circuit: Circuit) -> Self {
        Self { circuit, ..self }
    }
}

/// Maximum excess of a timer: the runtime's and the poll's timers count milliseconds and round up.
const ROUNDING: Duration = Duration::from_millis(2);

/// Least time for which a caller waits for the first connection.
#[cfg(any(feature = "postgres", feature = "redis"))]
const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Failure of a call, as reported by the engine.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The connection is unusable.
    Lost(Error),
    /// The server rejected the call.
    Refused(Error),
}

impl From<Error> for Fault {
    /// An outage is a lost connection, any other error the server's refusal.
    fn from(error: Error) -> Self {
        if error.is_outage() { Self::Lost(error) } else { Self::Refused(error) }
    }
}

impl Fault {
    #[cfg(feature = "redis")]
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Lost(error) | Self::Refused(error) => error,
        }
    }
}

pub(crate) type Connect<C> = Box<dyn Fn() -> BoxFuture<Result<C, Error>> + Send + Sync>;

/// Guards connections of type `C`. Clones share them; dropping the last one closes the connection and stops dialling.
pub(crate) struct FailOpen<C> {
    inner: Arc<Inner<C>>,
}

struct Inner<C> {
    name: &'static str,
    settings: GuardSettings,
    dial: Connect<C>,
    events: Mutex<Events>,
    health: Mutex<GuardHealth<C>>,
    /// Whether every call would be tried; read without the lock.
    up: AtomicBool,
    /// Number of the latest connection.
    connects: watch::Sender<u64>,
    /// Origin of this guard's time.
    epoch: Instant,
    switch: OutageSwitch,
}

impl<C> Clone for FailOpen<C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<C: Clone + Send + Sync + 'static> FailOpen<C> {
    /// Starts to connect, or does so on the first call if there is no runtime. Never fails: an unreachable server is
    /// an outage, not a configuration error.
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
            health: Mutex::new(GuardHealth::new(settings.circuit)),
            up: AtomicBool::new(false),
            connects: watch::Sender::new(0),
            epoch: runtime_now(),
            switch: OutageSwitch::default(),
        };
        let guard = Self { inner: Arc::new(inner) };
        guard.connect();
        guard
    }

    /// Calls the store, within the deadline.
    ///
    /// # Errors
    /// Returns the cause of the outage. The engine's error is in the [`stats`](Self::stats) and in the event.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(crate) async fn call<T, F, Fut>(&self, f: F) -> Result<T, Outage>
    where
        F: FnOnce(C) -> Fut,
        Fut: Future<Output = Result<T, Fault>>,
    {
        self.call_by(runtime_now() + self.remaining_timeout(), f).await
    }

    /// Calls the store, with a deadline at `by` for a call that has already waited.
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
                self.inner.report(edge, None);
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
        self.inner.report(edge, Some(error));
        self.connect();
        Err(outage)
    }

    /// Returns whether a call would be tried now.
    pub(crate) fn check(&self) -> Result<(), Outage> {
        self.check_switch()?;
        if self.inner.up.load(Ordering::Relaxed) {
            return Ok(());
        }
        let verdict = self.inner.lock().check(self.inner.now());
        if verdict.is_err() {
            self.connect();
        }
        verdict
    }

    /// Returns the number of connections made. Changes of the store may have been missed before the latest one.
    pub(crate) fn generation(&self) -> u64 {
        *self.inner.connects.borrow()
    }

    /// Returns a watch of the connection number.
    pub(crate) fn connects(&self) -> watch::Receiver<u64> {
        self.inner.connects.subscribe()
    }

    /// Waits for the first connection, at least for the deadline of a call and 200 ms: a process that has just started.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(crate) async fn first_connection(&self) {
        if self.generation() == 0 {
            let mut connects = self.connects();
            let patience = self.remaining_timeout().max(FIRST_CONNECT_TIMEOUT);
            // If none is established in time, the next call is an outage.
            drop(tokio::time::timeout(patience, connects.wait_for(|made| *made > 0)).await);
        }
    }

    /// Returns the timeout of a call, shortened so that the caller's wait does not exceed the deadline.
    pub(crate) fn remaining_timeout(&self) -> Duration {
        let deadline = self.inner.settings.deadline;
        deadline - ROUNDING.min(deadline / 2)
    }

    /// Sets the receiver of events.
    pub(crate) fn listen(&self, events: Events) {
        let mut current = self.inner.events.lock();
        *current = events.clone();
        // An outage may have begun before anyone listened.
        let unheard = self.inner.lock().take_unheard();
        drop(current);
        if let Some(error) = unheard {
            events.emit_unlogged(&Event::StoreDown { store: self.inner.name, error: &error });
        }
    }

    pub(crate) fn stats(&self) -> GuardStats {
        let stats = self.inner.lock().stats(self.inner.name, self.generation());
        GuardStats { up: stats.up && !self.inner.switch.is_off(), ..stats }
    }

    /// Returns the switch of this store.
    pub(crate) fn switch(&self) -> OutageSwitch {
        self.inner.switch.clone()
    }

    /// Drops the connection of a store that is switched off, so that its return is that from an outage.
    fn check_switch(&self) -> Result<(), Outage> {
        if !self.inner.switch.is_off() {
            return Ok(());
        }
        let edge = self.inner.change(GuardHealth::switched_off);
        self.inner.report(edge, Some(Error::outage(self.inner.name, Outage::SwitchedOff)));
        Err(Outage::SwitchedOff)
    }

    fn admit(&self) -> Result<(C, health::CallTicket), Outage> {
        self.check_switch()?;
        let admitted = self.inner.lock().admit(self.inner.now());
        if admitted.is_err() {
            self.connect();
        }
        admitted
    }

    /// Starts connecting if there is no connection.
    fn connect(&self) {
        if !self.inner.switch.is_off() {
            dial::start(&self.inner);
        }
    }
}

impl<C> Inner<C> {
    fn lock(&self) -> MutexGuard<'_, GuardHealth<C>> {
        self.health.lock()
    }

    /// Updates the state of the store.
    fn change<R>(&self, change: impl FnOnce(&mut GuardHealth<C>, Timestamp) -> R) -> R {
        let mut health = self.lock();
        let changed = change(&mut health, self.now());
        self.up.store(health.is_up(), Ordering::Relaxed);
        changed
    }

    fn now(&self) -> Timestamp {
        // Starts a day after zero, so that "ten seconds ago" is representable from the beginning.
        Timestamp::from_nanos(86_400_000_000_000) + (runtime_now() - self.epoch)
    }

    /// Reports a transition, outside of every lock.
    fn report(&self, edge: Option<Transition>, error: Option<Error>) {
        if let Some(error) = &error {
            self.lock().note(error);
        }
        let Some(edge) = edge else { return };
        let current = self.events.lock();
        let events = current.clone();
        if !events.has_hook() {
            self.lock().unheard = edge.outage(self.name, error.as_ref());
        }
        drop(current);
        edge.report(&events, self.name, error);
    }
}

impl<C> fmt::Debug for FailOpen<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailOpen").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
