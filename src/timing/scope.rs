//! [`RequestLog`]: what one request did elsewhere: its queries, its waits for connections, its calls of other services.
//!
//! A request's log is found through the carrier, so that detached work finds it too: a fetch that a cache goes on with
//! after its client has left, a background revalidation. It is opened by the first piece of work that asks for it; a
//! request without one has none.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::finding::{FindingKind, Found};
use super::group::{Group, Groups, Sample, Sum};
use super::repeat::Repeated;
use super::route::{Route, Source};
use super::stats::{QueryShare, Unattributed};
use crate::carrier::{self, Home, Notes, Scope};
use crate::clock::{Timestamp, nanos};

/// What one request did elsewhere.
pub(super) struct RequestLog {
    route: Arc<Route>,
    /// The same request's in an outer layer: what is counted here is counted there.
    outer: Option<Arc<RequestLog>>,
    work: Mutex<Work>,
    /// What detached work has noted: its first word stands, for what comes later is not this answer's.
    notes: OnceLock<Notes>,
}

#[derive(Clone, Default)]
pub(super) struct Work {
    pub(super) queries: Groups,
    /// Waits for a connection.
    pub(super) pool: Sum,
    /// Calls of other services.
    pub(super) upstream: Sum,
}

impl RequestLog {
    pub(super) fn new(route: Arc<Route>, outer: Option<Arc<Self>>) -> Self {
        Self { route, outer, work: Mutex::default(), notes: OnceLock::new() }
    }

    pub(super) fn current() -> Option<Arc<Self>> {
        let scope: Arc<dyn Any + Send + Sync> = carrier::current()?;
        scope.downcast().ok()
    }

    pub(super) fn route(&self) -> &Route {
        &self.route
    }

    pub(super) fn now(&self) -> Timestamp {
        self.route.core().now()
    }

    /// Counts a query that has ended.
    pub(super) fn query(&self, sample: &Sample<'_>, source: Source) {
        let now = self.now();
        self.route.core().query(sample, now);
        self.route.query(sample.took);
        self.work().queries.add(sample);
        if sample.took >= self.route.core().settings().slow_query_after {
            let (query, total, at) = (Some(sample.name.clone()), sample.took, sample.at);
            self.route.found(&Found { kind: FindingKind::SlowQuery, query, count: 1, total, at }, now, source);
        }
        if let Some(outer) = &self.outer {
            outer.query(sample, source);
        }
    }

    /// Counts a wait for a connection.
    pub(super) fn waited(&self, took: Duration) {
        self.route.core().waited(took, self.now());
        self.work().pool.add(took);
        if let Some(outer) = &self.outer {
            outer.waited(took);
        }
    }

    /// Counts a call of another service.
    pub(super) fn called(&self, sample: &Sample<'_>) {
        self.route.core().called(sample, self.now());
        self.work().upstream.add(sample.took);
        if let Some(outer) = &self.outer {
            outer.called(sample);
        }
    }

    /// What detached work has noted.
    pub(super) fn notes(&self) -> Notes {
        self.notes.get().copied().unwrap_or_default()
    }

    /// Everything until now.
    pub(super) fn reading(&self) -> Work {
        self.work().clone()
    }

    /// How many until now, and how long.
    pub(super) fn sums(&self) -> Sums {
        let work = self.work();
        Sums { queries: work.queries.sum(), pool: work.pool, upstream: work.upstream }
    }

    /// What there is to say about this request, now that it is over.
    pub(super) fn review(&self) -> Vec<Found> {
        let (settings, repeats) = (self.route.core().settings(), self.route.repeats());
        let work = self.work();
        let repeated = |group: &Group| {
            let kind = match repeats.judge(group)? {
                Repeated::NPlusOne => FindingKind::NPlusOne,
                Repeated::Duplicate => FindingKind::DuplicateQueries,
            };
            let (query, Sum { count, total }) = (Some(group.name.clone()), group.sum);
            Some(Found { kind, query, count, total, at: group.at })
        };
        let mut found: Vec<Found> = work.queries.iter().filter_map(repeated).collect();
        if work.pool.count > 0 && work.pool.total >= settings.starved_after {
            let Sum { count, total } = work.pool;
            found.push(Found { kind: FindingKind::PoolStarvation, query: None, count, total, at: None });
        }
        found
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    /// The queries by name, those first that took longest together.
    pub(super) fn shares(&self) -> Vec<QueryShare> {
        let share = |group: &Group| QueryShare {
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

/// What a request did elsewhere, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) queries: Sum,
    pub(super) pool: Sum,
    pub(super) upstream: Sum,
}

impl Home for RequestLog {
    fn open(self: Arc<Self>) -> Scope {
        self
    }

    fn noted(&self, notes: Notes) {
        let _ = self.notes.set(notes);
    }
}

/// What was measured outside every request, in this process.
pub(super) static UNATTRIBUTED: Strays = Strays { count: AtomicU64::new(0), nanos: AtomicU64::new(0) };

pub(super) struct Strays {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Strays {
    pub(super) fn add(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos(took), Ordering::Relaxed);
    }

    pub(super) fn reading(&self) -> Unattributed {
        Unattributed {
            count: self.count.load(Ordering::Relaxed),
            total: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}
