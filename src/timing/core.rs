//! [`Core`]: what the routes of one layer share: how it was set up, the queries, the findings, the slow requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::facade::Series;
use super::finding::{Findings, Found};
use super::group::Sample;
use super::histogram::Histogram;
use super::latencies::Latencies;
use super::layer::Settings;
use super::route::Source;
use super::slow::SlowLog;
use super::stats::{Finding, FindingCount, Latency, PoolStats, QueryStats, Windows};
use super::table::Table;
use crate::clock::{Timestamp, nanos};

/// How many queries are told apart, and how many other services.
const MAX_QUERIES: usize = 256;
const MAX_UPSTREAMS: usize = 64;
/// How many findings wait to be told.
const MOST_UNTOLD: usize = 64;

/// What the routes of one layer share.
pub(super) struct Core {
    settings: Settings,
    /// The setting in nanoseconds, which every request is compared with.
    slow_after: u64,
    queries: Table<Work>,
    upstreams: Table<Work>,
    pool: Work,
    slow: Mutex<SlowLog>,
    findings: Mutex<Findings>,
    untold: Untold,
}

/// Findings made where nothing may be logged: inside a subscriber.
#[derive(Default)]
struct Untold {
    any: AtomicBool,
    list: Mutex<Vec<(Arc<str>, Found)>>,
}

impl Core {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            slow_after: nanos(settings.slow_after),
            settings,
            queries: Table::new(MAX_QUERIES, |name| Work::new(name, Some(Series::queries(name)))),
            upstreams: Table::new(MAX_UPSTREAMS, |name| Work::new(name, None)),
            pool: Work::new("pool", Some(Series::waits())),
            slow: Mutex::default(),
            findings: Mutex::default(),
            untold: Untold::default(),
        }
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) const fn slow_after(&self) -> u64 {
        self.slow_after
    }

    pub(super) fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }

    /// Counts a query.
    pub(super) fn query(&self, sample: &Sample<'_>, now: Timestamp) {
        self.queries.of(sample.name.as_str()).add(sample, now);
    }

    /// Counts a call of another service.
    pub(super) fn called(&self, sample: &Sample<'_>, now: Timestamp) {
        self.upstreams.of(sample.name.as_str()).add(sample, now);
    }

    /// Counts a wait for a connection.
    pub(super) fn waited(&self, took: Duration, now: Timestamp) {
        self.pool.record(took, now);
    }

    /// Counts what was found, and reports it where it is due.
    pub(super) fn found(&self, route: &Arc<str>, found: &Found, now: Timestamp, source: Source) {
        if !lock(&self.findings).note(route, found, now) {
            return;
        }
        match source {
            Source::Program => self.settings.events.emit(&found.event(route)),
            Source::Subscriber => {
                let mut list = lock(&self.untold.list);
                if list.len() < MOST_UNTOLD {
                    list.push((route.clone(), found.clone()));
                }
                self.untold.any.store(true, Ordering::Release);
            }
        }
    }

    /// Reports what was found where it could not be reported.
    #[inline]
    pub(super) fn tell(&self) {
        if self.untold.any.load(Ordering::Relaxed) && self.untold.any.swap(false, Ordering::Acquire) {
            let list = std::mem::take(&mut *lock(&self.untold.list));
            list.iter().for_each(|(route, found)| self.settings.events.emit(&found.event(route)));
        }
    }

    /// Each query there was, those first that took longest together.
    pub(super) fn query_stats(&self, now: Timestamp) -> Vec<QueryStats> {
        stats(&self.queries, now)
    }

    pub(super) fn upstream_stats(&self, now: Timestamp) -> Vec<QueryStats> {
        stats(&self.upstreams, now)
    }

    pub(super) fn pool_stats(&self, now: Timestamp) -> PoolStats {
        PoolStats { wait: Latency::of(&self.pool()), windows: Windows::of(&self.pool.latencies, now) }
    }

    /// The histograms behind [`query_stats`](Self::query_stats), by name.
    pub(super) fn queries(&self) -> impl Iterator<Item = (&str, Histogram)> {
        self.queries.sorted().into_iter().map(|work| (&*work.name, work.latencies.ever()))
    }

    pub(super) fn pool(&self) -> Histogram {
        self.pool.latencies.ever()
    }

    pub(super) fn findings(&self) -> (Vec<Finding>, Vec<FindingCount>) {
        let findings = lock(&self.findings);
        (findings.recent(), findings.counts())
    }

    pub(super) fn slow(&self) -> MutexGuard<'_, SlowLog> {
        lock(&self.slow)
    }
}

fn stats(table: &Table<Work>, now: Timestamp) -> Vec<QueryStats> {
    let all = table.sorted().into_iter().map(|work| work.stats(now));
    let mut all: Vec<QueryStats> = all.filter(|work| work.latency.count > 0).collect();
    all.sort_by_key(|work| std::cmp::Reverse(work.latency.total));
    all
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The counters of one query, of one other service, or of the pools.
struct Work {
    name: Box<str>,
    cancelled: AtomicU64,
    rows: AtomicU64,
    latencies: Latencies,
    told: Option<Series>,
}

impl Work {
    fn new(name: &str, told: Option<Series>) -> Self {
        Self {
            name: name.into(),
            cancelled: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            latencies: Latencies::new(),
            told,
        }
    }

    fn add(&self, sample: &Sample<'_>, now: Timestamp) {
        self.record(sample.took, now);
        if sample.cancelled {
            self.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        if sample.rows > 0 {
            self.rows.fetch_add(sample.rows, Ordering::Relaxed);
        }
    }

    fn record(&self, took: Duration, now: Timestamp) {
        let took = nanos(took);
        self.latencies.record(now, took);
        if let Some(told) = &self.told {
            told.record(took);
        }
    }

    fn stats(&self, now: Timestamp) -> QueryStats {
        QueryStats {
            name: self.name.clone().into(),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
            latency: Latency::of(&self.latencies.ever()),
            windows: Windows::of(&self.latencies, now),
        }
    }
}
