//! Events that layers report to a hook and to `tracing`.
//!
//! An [`Event`] is emitted for decisions that an operator may want to count or be alerted of. Events contain no user,
//! address or key, but a keyed hash. Without a hook and without the feature `tracing` an event costs one branch. The first warning that
//! neither receives is printed to standard error.

use std::fmt;
use std::io::Write;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::error::Error;

/// Event reported by a layer.
///
/// ```
/// use tollgate::{Event, Tollgate};
///
/// let gate = Tollgate::builder()
///     .hook(|event| match event {
///         Event::StoreDown { store, error } => eprintln!("{store} is down: {error}"),
///         Event::SlowRequest { route, took } => eprintln!("{route} took {took:?}"),
///         _ => {}
///     })
///     .build()?;
/// # let _ = gate;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request was rejected by this limit. Logged at most ten times a second for each layer.
    Refused {
        /// Matched route.
        route: &'a str,
        /// Name of the limit.
        limit: &'a str,
        /// Tier; empty if the limit has no tiers.
        tier: &'a str,
        /// Keyed hash of the subject; that of the fleet, if the store is shared. `None` for the per-node ceiling.
        key: Option<u64>,
        /// Reference by which the refusal is found again, as in the response.
        reference: &'a str,
        /// Time until the same request would be admitted.
        retry_after: Duration,
    },
    /// A request waits for a place under a limit on requests in progress.
    Queued {
        /// Matched route.
        route: &'a str,
        /// Name of the limit.
        limit: &'a str,
        /// Keyed hash of the subject, of this process.
        key: u64,
    },
    /// A limit has banned a subject that it refused too often.
    Banned {
        /// Name of the limit.
        limit: &'a str,
        /// Keyed hash of the subject; that of the fleet, if the store is shared.
        key: u64,
        /// Duration of the ban.
        span: Duration,
    },
    /// A request was admitted only because this limit is in shadow mode.
    WouldRefuse {
        /// Name of the limit.
        limit: &'a str,
    },
    /// A key passed 80 % of its limit.
    NearLimit {
        /// Name of the limit.
        limit: &'a str,
    },
    /// A store failed; the request continued with a local decision or a miss.
    StoreFailed {
        /// Name of the store, such as `redis`.
        store: &'a str,
        /// Its error.
        error: &'a Error,
    },
    /// A remote store is unreachable, or its breaker is open. Until [`StoreUp`](Self::StoreUp), requests continue
    /// without it.
    StoreDown {
        /// Name of the store, such as `redis`.
        store: &'a str,
        /// Its last error.
        error: &'a Error,
    },
    /// A remote store is available again.
    StoreUp {
        /// Name of the store, such as `redis`.
        store: &'a str,
        /// Duration of the outage.
        away: Duration,
    },
    /// A request took longer than the threshold.
    SlowRequest {
        /// Matched route.
        route: &'a str,
        /// Time to the response head, or until the request was dropped.
        took: Duration,
    },
    /// A query took longer than the threshold.
    SlowQuery {
        /// Matched route of the request.
        route: &'a str,
        /// Fingerprint or name of the query; never a value.
        query: &'a str,
        /// Duration.
        took: Duration,
        /// Call site in the program, if known.
        at: Option<&'static Location<'static>>,
    },
    /// A request repeated the same query for different rows (N+1).
    NPlusOne {
        /// Matched route.
        route: &'a str,
        /// Fingerprint or name of the query; never a value.
        query: &'a str,
        /// Number of repetitions.
        count: u64,
        /// Total duration.
        total: Duration,
        /// Call site in the program, if known.
        at: Option<&'static Location<'static>>,
    },
    /// A request wrote rows with the same statement repeatedly.
    UnbatchedWrites {
        /// Matched route.
        route: &'a str,
        /// Fingerprint or name of the statement; never a value.
        query: &'a str,
        /// Number of repetitions.
        count: u64,
        /// Total duration.
        total: Duration,
        /// Call site in the program, if known.
        at: Option<&'static Location<'static>>,
    },
    /// A request made an identical query more than once.
    DuplicateQueries {
        /// Matched route.
        route: &'a str,
        /// Fingerprint or name of the query; never a value.
        query: &'a str,
        /// Number of repetitions.
        count: u64,
        /// Total duration.
        total: Duration,
        /// Call site in the program, if known.
        at: Option<&'static Location<'static>>,
    },
    /// A request waited long for database connections.
    PoolStarvation {
        /// Matched route.
        route: &'a str,
        /// Number of waits.
        waits: u64,
        /// Total duration of the waits.
        waited: Duration,
    },
    /// Use of an upstream's quota reached a threshold. Emitted once per crossing.
    QuotaUsed {
        /// Name of the upstream.
        upstream: &'a str,
        /// Window: `minute`, `hour`, `day`, `month`, or the upstream's name of the limit.
        window: &'a str,
        /// Threshold, in per cent of the limit.
        percent: u8,
        /// Credits spent in this window.
        spent: u64,
        /// Credits that may be spent in the window.
        limit: u64,
        /// Time until the next window.
        resets_in: Duration,
        /// Time until the quota is used up at the recent rate; `None` if it lasts until the next window.
        exhausted_in: Option<Duration>,
    },
    /// A call of an upstream was rejected.
    CallRejected {
        /// Name of the upstream.
        upstream: &'a str,
        /// Identifier of the reason: see [`RejectedReason`](crate::upstream::RejectedReason).
        reason: &'static str,
        /// Time until the same call may succeed.
        retry_after: Duration,
    },
    /// The circuit of an upstream opened: it is not called until [`CircuitClosed`](Self::CircuitClosed).
    CircuitOpened {
        /// Name of the upstream.
        upstream: &'a str,
    },
    /// The circuit of an upstream closed.
    CircuitClosed {
        /// Name of the upstream.
        upstream: &'a str,
    },
    /// An operator has overridden a setting: see [`Overrides`](crate::Overrides).
    Overridden {
        /// Target and setting, such as `limit api quota`.
        id: &'a str,
        /// Value in force from now on.
        value: &'a str,
        /// Person or program that asked for it.
        actor: &'a str,
        /// Reason; empty if none was given.
        reason: &'a str,
    },
    /// An override has ended: the configured value, or that of another override, is in force again.
    OverrideEnded {
        /// Target and setting, such as `limit api quota`.
        id: &'a str,
        /// Person or program that removed it; `None` if it expired.
        actor: Option<&'a str>,
    },
    /// An attempt to run a job has ended: see [`Jobs`](crate::Tollgate).
    JobEnded {
        /// Name of the job.
        job: &'a str,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// `done`, `failed`, `timed-out`, `lapsed` or `shadow`.
        outcome: &'static str,
        /// Result or error.
        text: &'a str,
        /// Duration.
        took: Duration,
    },
    /// An objective is missed: it burns its budget too fast, over five minutes and over an hour. Emitted once, until
    /// [`ObjectiveMet`](Self::ObjectiveMet). See [`Health`](crate::Health).
    ObjectiveMissed {
        /// Name: `latency`, `errors`, `queries`, or `hits NAME`.
        name: &'a str,
        /// What is demanded.
        text: &'a str,
        /// Burn rate of the last hour.
        burn_rate: f64,
    },
    /// An objective is met again.
    ObjectiveMet {
        /// Name: `latency`, `errors`, `queries`, or `hits NAME`.
        name: &'a str,
        /// What is demanded.
        text: &'a str,
    },
    /// A likely misconfiguration. Each kind is reported once per layer.
    Warning {
        /// Stable identifier of the kind.
        code: &'static str,
        /// Description of the problem and of its remedy.
        message: &'a str,
    },
}

/// Callback for every event. Runs on the request's path: keep it short and do not block.
///
/// ```
/// use std::sync::Arc;
/// use tollgate::{Event, Hook};
///
/// let hook: Hook = Arc::new(|event: &Event<'_>| {
///     if let Event::Warning { code, message } = event {
///         eprintln!("{code}: {message}");
///     }
/// });
/// # let _ = hook;
/// ```
pub type Hook = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// Returns a hook that calls both.
pub(crate) fn both_hooks(first: Option<Hook>, second: Hook) -> Hook {
    let Some(first) = first else { return second };
    Arc::new(move |event| {
        first(event);
        second(event);
    })
}

/// Sends events to the hook and the log.
#[derive(Clone, Default)]
pub(crate) struct Events {
    hook: Option<Hook>,
}

impl Events {
    pub(crate) fn new(hook: Option<Hook>) -> Self {
        Self { hook }
    }

    /// Adds a hook.
    pub(crate) fn add(&mut self, hook: Hook) {
        self.hook = Some(both_hooks(self.hook.take(), hook));
    }

    /// Returns whether there is a hook; warnings are logged even without one.
    pub(crate) fn has_hook(&self) -> bool {
        self.hook.is_some()
    }

    pub(crate) fn emit(&self, event: &Event<'_>) {
        match (&self.hook, event) {
            (Some(hook), _) => hook(event),
            (None, Event::Warning { message, .. }) if !is_logged() => print_once(message),
            (None, _) => {}
        }
        log(event);
    }

    /// Calls only the hook, because the same event was logged recently.
    pub(crate) fn emit_unlogged(&self, event: &Event<'_>) {
        if let Some(hook) = &self.hook {
            hook(event);
        }
    }

    /// Emits an [`Event::Warning`] for the first call with `once`.
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

/// Flag that is taken once.
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

/// Prints the first warning of the process that neither a hook nor a log receives: a misconfiguration is never silent.
fn print_once(message: &str) {
    static PRINTED: Once = Once::new();
    if PRINTED.first() {
        // Without a standard error there is no place for it.
        let _ = writeln!(
            std::io::stderr().lock(),
            "tollgate: {message}\ntollgate: further warnings are not printed; set a hook, or enable the feature `tracing` \
             and let its filter pass tollgate=info"
        );
    }
}

/// Returns whether the program's log receives warnings.
#[cfg(feature = "tracing")]
fn is_logged() -> bool {
    tracing::enabled!(target: "tollgate", tracing::Level::WARN)
}

#[cfg(not(feature = "tracing"))]
const fn is_logged() -> bool {
    false
}

#[cfg(feature = "tracing")]
fn log(event: &Event<'_>) {
    match event {
        Event::Warning { code, message } => tracing::warn!(target: "tollgate", code, "{message}"),
        Event::StoreFailed { store, error } => tracing::warn!(target: "tollgate", store, %error, "store failed"),
        Event::StoreDown { store, error } => {
            tracing::warn!(target: "tollgate", store, %error, "store down; requests continue without it");
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
                "N+1: the same query {count} times in one request; load all rows with one query"
            );
        }
        Event::UnbatchedWrites { route, query, count, total, at } => {
            let at = at.map(tracing::field::display);
            tracing::warn!(
                target: "tollgate", route, query, count, ?total, at,
                "unbatched writes: the same statement {count} times in one request; write all rows with one statement"
            );
        }
        Event::DuplicateQueries { route, query, count, total, at } => {
            let at = at.map(tracing::field::display);
            tracing::warn!(
                target: "tollgate", route, query, count, ?total, at,
                "duplicate queries: one request repeated an identical query; keep the first result"
            );
        }
        Event::PoolStarvation { route, waits, waited } => tracing::warn!(
            target: "tollgate", route, waits, ?waited,
            "pool starvation: the request waited for a connection; hold connections for less time, or enlarge the pool"
        ),
        Event::QuotaUsed { upstream, window, percent, spent, limit, resets_in, exhausted_in } => tracing::warn!(
            target: "tollgate", upstream, window, percent, spent, limit, ?resets_in, ?exhausted_in,
            "{percent} % of the quota is used"
        ),
        Event::CircuitOpened { upstream } => {
            tracing::warn!(target: "tollgate", upstream, "circuit open; the upstream is not called");
        }
        Event::CircuitClosed { upstream } => tracing::info!(target: "tollgate", upstream, "circuit closed"),
        Event::Banned { limit, key, span } => {
            let key = tracing::field::display(format!("{key:016x}"));
            tracing::warn!(target: "tollgate", limit, key, ?span, "banned");
        }
        // Sampled by the limits: a refusal is cheap.
        Event::Refused { route, limit, tier, key, reference, retry_after } => {
            let key = key.map(|key| tracing::field::display(format!("{key:016x}")));
            tracing::info!(target: "tollgate", route, limit, tier, key, reference, ?retry_after, "refused");
        }
        _ => log_operation(event),
    }
}

/// Logs what operators did, and objectives.
#[cfg(feature = "tracing")]
fn log_operation(event: &Event<'_>) {
    match event {
        Event::Overridden { id, value, actor, reason } => {
            tracing::warn!(target: "tollgate", id, value, actor, reason, "setting overridden");
        }
        Event::ObjectiveMissed { name, text, burn_rate } => {
            tracing::warn!(target: "tollgate", name, burn_rate, "objective missed: {text}");
        }
        Event::ObjectiveMet { name, text } => tracing::info!(target: "tollgate", name, "objective met again: {text}"),
        Event::JobEnded { job, attempt, outcome: outcome @ ("done" | "shadow"), text, took } => {
            tracing::info!(target: "tollgate", job, attempt, outcome, ?took, "job ended: {text}");
        }
        Event::JobEnded { job, attempt, outcome, text, took } => {
            tracing::warn!(target: "tollgate", job, attempt, outcome, ?took, "job ended: {text}");
        }
        Event::OverrideEnded { id, actor } => tracing::warn!(target: "tollgate", id, actor, "override ended"),
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
