//! [`State`]: everything one timing layer counts, shared by all its services.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;

use super::histogram::Histogram;
use super::layer::Settings;
use super::scope::{RequestLog, UNATTRIBUTED};
use super::slow::SlowLog;
use super::stats::{Latency, QueryStats, RouteStats, SlowRequest, TimingStats};
use super::table::Table;
use crate::carrier::{Home, Scope};
use crate::clock::{Timestamp, nanos};
use crate::event::Event;
use crate::head::RequestHead;
use crate::route::UNMATCHED;

/// How many names given to `timed` are told apart.
const MAX_QUERIES: usize = 256;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With this status.
    Answered(StatusCode),
    /// With an error of the inner service.
    Failed,
    /// Its future was dropped before it was ready.
    Cancelled,
}

pub(super) struct State {
    settings: Settings,
    routes: Table<Route>,
    queries: Table<Query>,
    slow: Mutex<SlowLog>,
}

/// In flight is what was started and neither answered nor cancelled, so that a request costs one counter for it.
struct Route {
    started: AtomicU64,
    cancelled: AtomicU64,
    errors: AtomicU64,
    slow: AtomicU64,
    queries: AtomicU64,
    query_nanos: AtomicU64,
    latency: Histogram,
}

struct Query {
    cancelled: AtomicU64,
    latency: Histogram,
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        // One place more than asked for: unmatched requests never push a route out, nor are pushed out.
        let routes = Table::new(settings.max_routes + 1, Route::new);
        routes.place(UNMATCHED);
        let queries = Table::new(MAX_QUERIES, Query::new);
        Self { settings, routes, queries, slow: Mutex::default() }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }

    /// Counts a request in; the place of its route.
    pub(super) fn begin(&self, head: &RequestHead<'_>) -> usize {
        let route = self.routes.place(self.settings.patterns.name(head));
        self.routes.at(route).started.fetch_add(1, Ordering::Relaxed);
        route
    }

    /// Counts a request out.
    pub(super) fn finish(&self, route: usize, took: Duration, outcome: Outcome, log: Option<&RequestLog>) {
        let counters = self.routes.at(route);
        match outcome {
            Outcome::Cancelled => {
                counters.cancelled.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Answered(status) if !status.is_server_error() => counters.latency.record(nanos(took)),
            Outcome::Answered(_) | Outcome::Failed => {
                counters.errors.fetch_add(1, Ordering::Relaxed);
                counters.latency.record(nanos(took));
            }
        }
        if took >= self.settings.slow_after {
            counters.slow.fetch_add(1, Ordering::Relaxed);
            self.slow(route, took, outcome, log);
        }
    }

    #[cold]
    fn slow(&self, route: usize, took: Duration, outcome: Outcome, log: Option<&RequestLog>) {
        let route = self.routes.name(route);
        let status = match outcome {
            Outcome::Answered(status) => Some(status.as_u16()),
            Outcome::Failed | Outcome::Cancelled => None,
        };
        let request = SlowRequest {
            route: route.to_owned(),
            took,
            status,
            cancelled: outcome == Outcome::Cancelled,
            at: self.settings.clock.wall(),
            queries: log.map(RequestLog::shares).unwrap_or_default(),
        };
        self.slow.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        self.settings.events.emit(&Event::SlowRequest { route, took });
    }

    /// Counts a query of a request on that route; the place of its name.
    pub(super) fn query(&self, route: usize, name: &str, took: Duration, cancelled: bool) -> usize {
        let place = self.queries.place(name);
        let query = self.queries.at(place);
        query.latency.record(nanos(took));
        if cancelled {
            query.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        let route = self.routes.at(route);
        route.queries.fetch_add(1, Ordering::Relaxed);
        route.query_nanos.fetch_add(nanos(took), Ordering::Relaxed);
        place
    }

    pub(super) fn query_name(&self, place: usize) -> &str {
        self.queries.name(place)
    }

    pub(super) fn stats(&self) -> TimingStats {
        let all = Histogram::new();
        let mut routes = Vec::new();
        for (name, route) in self.routes.sorted() {
            all.merge(&route.latency);
            routes.push(route.stats(name));
        }
        routes.retain(|route| route.requests > 0);
        let queries = self.queries.sorted().into_iter().map(|(name, query)| query.stats(name));
        let queries = queries.filter(|query| query.latency.count > 0).collect();
        let slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        TimingStats {
            requests: routes.iter().map(|route| route.requests).sum(),
            in_flight: routes.iter().map(|route| route.in_flight).sum(),
            latency: Latency::of(&all),
            routes,
            queries,
            unattributed: UNATTRIBUTED.reading(),
            slow_recent: slow.recent(),
            slowest: slow.slowest(),
        }
    }
}

impl Route {
    fn new() -> Self {
        Self {
            started: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            queries: AtomicU64::new(0),
            query_nanos: AtomicU64::new(0),
            latency: Histogram::new(),
        }
    }

    fn stats(&self, name: &str) -> RouteStats {
        let at = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // The ends are read before the beginnings: a request that passes meanwhile is in flight, never less than none.
        let (latency, cancelled) = (Latency::of(&self.latency), at(&self.cancelled));
        let requests = at(&self.started);
        RouteStats {
            route: name.to_owned(),
            requests,
            in_flight: requests.saturating_sub(latency.count + cancelled),
            errors: at(&self.errors),
            cancelled,
            slow: at(&self.slow),
            latency,
            queries: at(&self.queries),
            query_time: Duration::from_nanos(at(&self.query_nanos)),
        }
    }
}

impl Query {
    fn new() -> Self {
        Self { cancelled: AtomicU64::new(0), latency: Histogram::new() }
    }

    fn stats(&self, name: &str) -> QueryStats {
        QueryStats {
            name: name.to_owned(),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            latency: Latency::of(&self.latency),
        }
    }
}

impl Home for State {
    fn open(self: Arc<Self>, place: usize) -> Scope {
        Arc::new(RequestLog::new(self, place))
    }
}

/// The state behind a home that a layer of ours put into a slot.
pub(super) fn of_home(home: &dyn Home) -> Option<&State> {
    (home as &dyn Any).downcast_ref()
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("settings", &self.settings).finish_non_exhaustive()
    }
}
