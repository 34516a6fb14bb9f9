//! [`RequestLog`]: external work of one request: queries, waits for connections, calls of other services.
//!
//! The log is found through the detached context, so that detached work finds it too: a fetch that a cache continues
//! after its client has disconnected, or a background revalidation. The first piece of work opens it; a request
//! without work has none.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;

use super::route_stats::{QuerySource, Route};
use crate::base::clock::{Timestamp, nanos};
use crate::base::detached_context::{self, Notes, RequestScope, ScopeOwner};
use crate::base::lock::Mutex;
use crate::timing::measure::findings::{FindingKind, RequestFinding};
use crate::timing::measure::group::{QueryGroup, QueryGroups, Sample, Sum};
use crate::timing::measure::n_plus_one::Repeated;
use crate::timing::measure::stats::{QueryShare, Unattributed};

/// Work of one request outside the process: queries, calls, waits.
pub(crate) struct RequestLog {
    route: Arc<Route>,
    /// Log of the same request in an outer layer; measurements are added to both.
    outer: Option<Arc<RequestLog>>,
    work: Mutex<WorkLog>,
    /// Notes of detached work. The first ones are kept, because later ones belong to other responses.
    notes: OnceLock<Notes>,
}

#[derive(Clone, Default)]
pub(crate) struct WorkLog {
    pub(crate) queries: QueryGroups,
    /// Waits for database connections.
    pub(crate) pool: Sum,
    /// Calls of other services.
    pub(crate) upstream: Sum,
}

impl RequestLog {
    pub(crate) fn new(route: Arc<Route>, outer: Option<Arc<Self>>) -> Self {
        Self { route, outer, work: Mutex::default(), notes: OnceLock::new() }
    }

    pub(crate) fn current() -> Option<Arc<Self>> {
        let scope: Arc<dyn Any + Send + Sync> = detached_context::current()?;
        scope.downcast().ok()
    }

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.route.core().now()
    }

    /// Records a finished query.
    pub(crate) fn query(&self, sample: &Sample<'_>, source: QuerySource) {
        let now = self.now();
        self.route.core().query(sample, now);
        self.route.query(sample.took, !sample.transaction);
        self.work().queries.add(sample);
        if sample.took >= self.route.core().settings().slow_query_after {
            let (query, total, at) = (Some(sample.name.clone()), sample.took, sample.at);
            self.route.found(&RequestFinding { kind: FindingKind::SlowQuery, query, count: 1, total, at }, now, source);
        }
        if let Some(outer) = &self.outer {
            outer.query(sample, source);
        }
    }

    /// Records a wait for a connection.
    pub(crate) fn waited(&self, took: Duration) {
        self.route.core().waited(took, self.now());
        self.work().pool.add(took);
        if let Some(outer) = &self.outer {
            outer.waited(took);
        }
    }

    /// Records a call of another service.
    pub(crate) fn called(&self, sample: &Sample<'_>) {
        self.route.core().called(sample, self.now());
        self.work().upstream.add(sample.took);
        if let Some(outer) = &self.outer {
            outer.called(sample);
        }
    }

    /// Returns the notes of detached work.
    pub(crate) fn notes(&self) -> Notes {
        self.notes.get().copied().unwrap_or_default()
    }

    /// Returns the work until now.
    pub(crate) fn reading(&self) -> WorkLog {
        self.work().clone()
    }

    /// Returns the counts and durations until now.
    pub(crate) fn sums(&self) -> Sums {
        let work = self.work();
        Sums { queries: work.queries.sum(), pool: work.pool, upstream: work.upstream }
    }

    /// Returns the findings of a finished request.
    pub(crate) fn findings(&self) -> Vec<RequestFinding> {
        let (settings, repeats) = (self.route.core().settings(), self.route.repeats());
        let work = self.work();
        let repeated = |group: &QueryGroup| {
            let kind = match repeats.classify(group)? {
                Repeated::NPlusOne => FindingKind::NPlusOne,
                Repeated::UnbatchedWrites => FindingKind::UnbatchedWrites,
                Repeated::Duplicate => FindingKind::DuplicateQueries,
            };
            let (query, Sum { count, total }) = (Some(group.name.clone()), group.sum);
            Some(RequestFinding { kind, query, count, total, at: group.at })
        };
        let mut found: Vec<RequestFinding> = work.queries.iter().filter_map(repeated).collect();
        if work.pool.count > 0 && work.pool.total >= settings.starved_after {
            let Sum { count, total } = work.pool;
            found.push(RequestFinding { kind: FindingKind::PoolStarvation, query: None, count, total, at: None });
        }
        found
    }

    fn work(&self) -> MutexGuard<'_, WorkLog> {
        self.work.lock()
    }
}

impl WorkLog {
    /// Returns the queries by name, ordered by total time.
    pub(crate) fn shares(&self) -> Vec<QueryShare> {
        let share = |group: &QueryGroup| QueryShare {
            name: group.name.as_str().to_owned(),
            count: group.sum.count,
            total: group.sum.total,
            slowest: group.slowest,
            rows: group.rows,
            duplicates: group.duplicates(),
            at: group.at.map(ToString::to_string),
        };
        let mut shares: Vec<QueryShare> = self.queries.iter().map(share).collect();
        shares.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.name.cmp(&b.name)));
        shares
    }
}

/// Totals of a request's queries, calls and waits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) queries: Sum,
    pub(crate) pool: Sum,
    pub(crate) upstream: Sum,
}

impl ScopeOwner for RequestLog {
    fn open(self: Arc<Self>) -> RequestScope {
        self
    }

    fn noted(&self, notes: Notes) {
        let _ = self.notes.set(notes);
    }
}

/// Work measured outside of requests, in this process.
pub(crate) static UNATTRIBUTED: UnattributedWork =
    UnattributedWork { count: AtomicU64::new(0), nanos: AtomicU64::new(0) };

pub(crate) struct UnattributedWork {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl UnattributedWork {
    pub(crate) fn add(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos(took), Ordering::Relaxed);
    }

    pub(crate) fn reading(&self) -> Unattributed {
        Unattributed {
            count: self.count.load(Ordering::Relaxed),
            total: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}
