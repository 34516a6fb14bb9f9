//! [`Route`]: the counters of one route, and [`Core`], what the routes of one layer share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;

use super::histogram::Histogram;
use super::layer::Settings;
use super::scope::RequestLog;
use super::slow::SlowLog;
use super::stats::{Latency, QueryStats, RouteStats, SlowRequest};
use super::table::Table;
use crate::carrier::{Home, Scope};
use crate::clock::{Timestamp, nanos};
use crate::event::Event;

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

/// One route's counters. What is in flight was started and neither answered nor cancelled: a request pays for one
/// counter when it comes and for one when it goes.
pub(super) struct Route {
    name: Box<str>,
    core: Arc<Core>,
    started: AtomicU64,
    cancelled: AtomicU64,
    errors: AtomicU64,
    slow: AtomicU64,
    queries: AtomicU64,
    query_nanos: AtomicU64,
    latency: Histogram,
}

impl Route {
    pub(super) fn new(name: &str, core: Arc<Core>) -> Self {
        Self {
            name: name.into(),
            core,
            started: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            queries: AtomicU64::new(0),
            query_nanos: AtomicU64::new(0),
            latency: Histogram::new(),
        }
    }

    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    pub(super) fn latency(&self) -> &Histogram {
        &self.latency
    }

    /// Counts a request in.
    pub(super) fn begin(&self) {
        add(&self.started, 1);
    }

    /// Counts a query of one of this route's requests.
    pub(super) fn query(&self, took: Duration) {
        add(&self.queries, 1);
        add(&self.query_nanos, nanos(took));
    }

    /// Counts a request out.
    pub(super) fn finish(&self, took: Duration, outcome: Outcome, log: Option<&RequestLog>) {
        match outcome {
            Outcome::Cancelled => add(&self.cancelled, 1),
            Outcome::Answered(status) if !status.is_server_error() => self.latency.record(nanos(took)),
            Outcome::Answered(_) | Outcome::Failed => {
                add(&self.errors, 1);
                self.latency.record(nanos(took));
            }
        }
        if took >= self.core.settings.slow_after {
            self.slow(took, outcome, log);
        }
    }

    #[cold]
    fn slow(&self, took: Duration, outcome: Outcome, log: Option<&RequestLog>) {
        add(&self.slow, 1);
        let status = match outcome {
            Outcome::Answered(status) => Some(status.as_u16()),
            Outcome::Failed | Outcome::Cancelled => None,
        };
        self.core.slow().push(SlowRequest {
            route: self.name.clone().into(),
            took,
            status,
            cancelled: outcome == Outcome::Cancelled,
            at: self.core.settings.clock.wall(),
            queries: log.map(RequestLog::shares).unwrap_or_default(),
        });
        self.core.settings.events.emit(&Event::SlowRequest { route: &self.name, took });
    }

    pub(super) fn stats(&self) -> RouteStats {
        // The ends are read before the beginnings: a request that passes meanwhile is in flight, never less than none.
        let (latency, cancelled) = (Latency::of(&self.latency), read(&self.cancelled));
        let requests = read(&self.started);
        RouteStats {
            route: self.name.clone().into(),
            requests,
            in_flight: requests.saturating_sub(latency.count + cancelled),
            errors: read(&self.errors),
            cancelled,
            slow: read(&self.slow),
            latency,
            queries: read(&self.queries),
            query_time: Duration::from_nanos(read(&self.query_nanos)),
        }
    }
}

impl Home for Route {
    fn open(self: Arc<Self>) -> Scope {
        Arc::new(RequestLog::new(self))
    }
}

/// What the routes of one layer share: how it was set up, the queries, the slow requests.
pub(super) struct Core {
    settings: Settings,
    queries: Table<Query>,
    slow: Mutex<SlowLog>,
}

impl Core {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, queries: Table::new(MAX_QUERIES, Query::new), slow: Mutex::default() }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }

    /// Counts a query; the place of its name.
    pub(super) fn query(&self, name: &str, took: Duration, cancelled: bool) -> usize {
        let place = self.queries.place(name);
        let query = self.queries.at(place);
        query.latency.record(nanos(took));
        if cancelled {
            add(&query.cancelled, 1);
        }
        place
    }

    pub(super) fn query_name(&self, place: usize) -> &str {
        &self.queries.at(place).name
    }

    pub(super) fn query_stats(&self) -> Vec<QueryStats> {
        self.queries.sorted().into_iter().map(Query::stats).filter(|query| query.latency.count > 0).collect()
    }

    pub(super) fn slow(&self) -> std::sync::MutexGuard<'_, SlowLog> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counters of one name given to `timed`.
struct Query {
    name: Box<str>,
    cancelled: AtomicU64,
    latency: Histogram,
}

impl Query {
    fn new(name: &str) -> Self {
        Self { name: name.into(), cancelled: AtomicU64::new(0), latency: Histogram::new() }
    }

    fn stats(&self) -> QueryStats {
        QueryStats {
            name: self.name.clone().into(),
            cancelled: read(&self.cancelled),
            latency: Latency::of(&self.latency),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
