//! Events that layers report to a hook and to `tracing`.
//!
//! An [`Event`] is emitted where a layer decides something an operator may want to count or be woken by. Nothing in an
//! event names a user, an address or a key. Without a hook and without the feature `tracing` an event costs one branch.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::error::Error;

/// Something a layer did or found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request was refused by this limit.
    Refused {
        /// The limit's name.
        limit: &'a str,
        /// How long until the same request would be admitted.
        retry_after: Duration,
    },
    /// A request was admitted only because this limit is in dry-run.
    WouldRefuse {
        /// The limit's name.
        limit: &'a str,
    },
    /// A key passed 80 % of its limit.
    NearLimit {
        /// The limit's name.
        limit: &'a str,
    },
    /// A store failed; the request went on with a local decision or a miss.
    StoreFailed {
        /// Which store, in one word.
        store: &'a str,
        /// Its error message.
        error: &'a Error,
    },
    /// A remote store is out of reach, or has failed so often that it is not asked; until [`StoreUp`](Self::StoreUp),
    /// requests go on without it.
    StoreDown {
        /// Which store, in one word.
        store: &'a str,
        /// Its last error message.
        error: &'a Error,
    },
    /// A remote store answers again.
    StoreUp {
        /// Which store, in one word.
        store: &'a str,
        /// How long it was away.
        away: Duration,
    },
    /// A request took longer than the threshold.
    SlowRequest {
        /// The matched route.
        route: &'a str,
        /// How long until the response head was there, or until the request was dropped.
        took: Duration,
    },
    /// A query took longer than the threshold.
    SlowQuery {
        /// The matched route of the request that made it.
        route: &'a str,
        /// Its fingerprint, or the name given to it; never a value.
        query: &'a str,
        /// How long it took.
        took: Duration,
        /// Where the program makes it, where that is known.
        at: Option<&'static Location<'static>>,
    },
    /// A request made the same query again and again, for different things: one query too few, in a loop.
    NPlusOne {
        /// The matched route.
        route: &'a str,
        /// The query's fingerprint, or the name given to it; never a value.
        query: &'a str,
        /// How many times.
        count: u64,
        /// How long, together.
        total: Duration,
        /// Where the program makes it, where that is known.
        at: Option<&'static Location<'static>>,
    },
    /// A request asked for the same thing more than once.
    DuplicateQueries {
        /// The matched route.
        route: &'a str,
        /// The query's fingerprint, or the name given to it; never a value.
        query: &'a str,
        /// How many times the query was made.
        count: u64,
        /// How long, together.
        total: Duration,
        /// Where the program makes it, where that is known.
        at: Option<&'static Location<'static>>,
    },
    /// A request waited long for database connections.
    PoolStarvation {
        /// The matched route.
        route: &'a str,
        /// How many times it waited.
        waits: u64,
        /// How long, together.
        waited: Duration,
    },
    /// An upstream's quota is used up to a threshold. Once per crossing.
    QuotaUsed {
        /// The upstream's name.
        upstream: &'a str,
        /// The window: `minute`, `hour`, `day`, `month`, or what the upstream calls the limit.
        window: &'a str,
        /// The threshold, in per cent of the limit.
        percent: u8,
        /// Credits spent in this window.
        spent: u64,
        /// Credits that may be spent in the window.
        limit: u64,
        /// How long until the next window.
        resets_in: Duration,
        /// How long the rest lasts at the rate of the last hour or day, where it does not last until the next window.
        exhausted_in: Option<Duration>,
    },
    /// A call of an upstream was not made.
    CallRejected {
        /// The upstream's name.
        upstream: &'a str,
        /// Why, in one word: see [`RejectedReason`](crate::upstream::RejectedReason).
        reason: &'static str,
        /// How long until the same call may be worth trying.
        retry_after: Duration,
    },
    /// An upstream fails, or is slow, so often that it is not called; until [`CircuitClosed`](Self::CircuitClosed).
    CircuitOpened {
        /// The upstream's name.
        upstream: &'a str,
    },
    /// An upstream answers again.
    CircuitClosed {
        /// The upstream's name.
        upstream: &'a str,
    },
    /// Something looks misconfigured. Each kind is reported once per layer.
    Warning {
        /// A stable word for the kind of warning.
        code: &'static str,
        /// Description of the problem and of its remedy.
        message: &'a str,
    },
}

/// Callback for every event. Runs on the request's path: keep it short and do not block.
pub type Hook = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// Where a layer sends its events.
#[derive(Clone, Default)]
pub(crate) struct Events {
    hook: Option<Hook>,
}

impl Events {
    pub(crate) fn new(hook: Option<Hook>) -> Self {
        Self { hook }
    }

    /// Whether a hook listens to everything; warnings are also logged without one.
    pub(crate) fn heard(&self) -> bool {
        self.hook.is_some()
    }

    pub(crate) fn emit(&self, event: &Event<'_>) {
        if let Some(hook) = &self.hook {
            hook(event);
        }
        log(event);
    }

    /// Calls the hook only: the log had the same event recently.
    pub(crate) fn emit_unlogged(&self, event: &Event<'_>) {
        if let Some(hook) = &self.hook {
            hook(event);
        }
    }

    /// Emits a [`Event::Warning`] the first time `once` is asked.
    pub(crate) fn warn_once(&self, once: &Once, code: &'static str, message: &str) {
        if once.first() {
            self.emit(&Event::Warning { code, message });
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("hook", &self.hook.is_some()).finish()
    }
}

/// True once.
#[derive(Debug, Default)]
pub(crate) struct Once(AtomicU32);

impl Once {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    pub(crate) fn first(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0 && self.0.swap(1, Ordering::Relaxed) == 0
    }
}

#[cfg(feature = "tracing")]
fn log(event: &Event<'_>) {
    match event {
        Event::Warning { code, message } => tracing::warn!(target: "tollgate", code, "{message}"),
        Event::StoreFailed { store, error } => tracing::warn!(target: "tollgate", store, %error, "store failed"),
        Event::StoreDown { store, error } => {
            tracing::warn!(target: "tollgate", store, %error, "store down: requests go on without it");
        }
        Event::StoreUp { store, away } => tracing::info!(target: "tollgate", store, ?away, "store up again"),
        Event::SlowRequest { route, took } => tracing::warn!(target: "tollgate", route, ?took, "slow request"),
        Event::SlowQuery { route, query, took, at } => {
            let at = at.map(tracing::field::display);
            tracing::warn!(target: "tollgate", route, query, ?took, at, "slow query");
        }
        Event::NPlusOne { route, query, count, total, at } => {
            let at = at.map(tracing::field::display);
            tracing::warn!(
                target: "tollgate", route, query, count, ?total, at,
                "N+1: the same query {count} times in one request; ask once for all rows"
            );
        }
        Event::DuplicateQueries { route, query, count, total, at } => {
            let at = at.map(tracing::field::display);
            tracing::warn!(
                target: "tollgate", route, query, count, ?total, at,
                "duplicate queries: one request asks for the same thing again; keep the first answer"
            );
        }
        Event::PoolStarvation { route, waits, waited } => tracing::warn!(
            target: "tollgate", route, waits, ?waited,
            "pool starvation: the request waited for a connection; hold fewer for less time, or enlarge the pool"
        ),
        Event::QuotaUsed { upstream, window, percent, spent, limit, resets_in, exhausted_in } => tracing::warn!(
            target: "tollgate", upstream, window, percent, spent, limit, ?resets_in, ?exhausted_in,
            "{percent} % of the quota is used"
        ),
        Event::CircuitOpened { upstream } => {
            tracing::warn!(target: "tollgate", upstream, "circuit open: the upstream is not called");
        }
        Event::CircuitClosed { upstream } => tracing::info!(target: "tollgate", upstream, "circuit closed"),
        // "A refusal is cheap": no log line per refusal.
        _ => {}
    }
}

#[cfg(not(feature = "tracing"))]
fn log(_event: &Event<'_>) {}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_warning_is_given_once() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let events = Events::new(Some(Arc::new(move |event: &Event<'_>| {
            sink.lock().expect("not poisoned").push(format!("{event:?}"));
        })));
        let once = Once::default();
        events.warn_once(&once, "a", "first");
        events.warn_once(&once, "a", "second");
        let seen = seen.lock().expect("not poisoned");
        assert_eq!(seen.len(), 1);
        assert!(seen[0].contains("first"));
    }
}
