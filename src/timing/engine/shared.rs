//! [`TimingShared`]: state shared by the routes of one layer: settings, queries, findings, slow requests.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::facade::Series;
use super::route_stats::QuerySource;
use super::settings::TimingSettings;
use crate::base::clock::{Timestamp, nanos};
use crate::base::lock::Mutex;
use crate::timing::measure::findings::{Findings, RequestFinding};
use crate::timing::measure::group::Sample;
use crate::timing::measure::histogram::Histogram;
use crate::timing::measure::latencies::Latencies;
use crate::timing::measure::recent_names::RecentNames;
use crate::timing::measure::slow::SlowLog;
use crate::timing::measure::stats::{Finding, FindingCount, Latency, PoolStats, QueryStats, Windows};
use crate::timing::measure::table::OTHER;

/// Maximum number of distinct queries, and of other services.
const MAX_QUERIES: usize = 256;
const MAX_UPSTREAMS: usize = 64;
/// Maximum number of queries with a series of their own in the `metrics` facade, whose exporters keep every name.
const MAX_SERIES: usize = 4 * MAX_QUERIES;
/// Maximum number of pending findings.
const MAX_PENDING: usize = 64;

/// State shared by the routes of one layer.
pub(crate) struct TimingShared {
    settings: TimingSettings,
    /// Slow-request threshold in nanoseconds, compared with every request.
    slow_after: u64,
    queries: RecentNames<Work>,
    upstreams: RecentNames<Work>,
    pool: Work,
    slow: Mutex<SlowLog>,
    findings: Mutex<Findings>,
    pending: PendingFindings,
}

/// Findings made inside a subscriber, where logging is not allowed.
#[derive(Default)]
struct PendingFindings {
    any: AtomicBool,
    list: Mutex<Vec<(Arc<str>, RequestFinding)>>,
}

impl TimingShared {
    pub(crate) fn new(settings: TimingSettings) -> Self {
        Self {
            slow_after: nanos(settings.slow_after),
            settings,
            queries: RecentNames::new(MAX_QUERIES, series(), Work::absorb),
            upstreams: RecentNames::new(MAX_UPSTREAMS, |name| Work::new(name, None), Work::absorb),
            pool: Work::new("pool", Some(Series::waits())),
            slow: Mutex::default(),
            findings: Mutex::default(),
            pending: PendingFindings::default(),
        }
    }

    pub(crate) const fn settings(&self) -> &TimingSettings {
        &self.settings
    }

    pub(crate) const fn slow_after(&self) -> u64 {
        self.slow_after
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }

    /// Records a query.
    pub(crate) fn query(&self, sample: &Sample<'_>, now: Timestamp) {
        self.queries.with(sample.name.as_str(), |work| work.add(sample, now));
    }

    /// Records a call of another service.
    pub(super) fn called(&self, sample: &Sample<'_>, now: Timestamp) {
        self.upstreams.with(sample.name.as_str(), |work| work.add(sample, now));
    }

    /// Records a wait for a connection.
    pub(crate) fn waited(&self, took: Duration, now: Timestamp) {
        self.pool.record(took, now);
    }

    /// Counts a finding, and reports it if it is due.
    pub(super) fn found(&self, route: &Arc<str>, found: &RequestFinding, now: Timestamp, source: QuerySource) {
        if !lock(&self.findings).note(route, found, now) {
            return;
        }
        match source {
            QuerySource::Program => self.settings.events.emit(&found.event(route)),
            QuerySource::Subscriber => {
                let mut list = lock(&self.pending.list);
                if list.len() < MAX_PENDING {
                    list.push((route.clone(), found.clone()));
                }
                self.pending.any.store(true, Ordering::Release);
            }
        }
    }

    /// Reports pending findings.
    #[inline]
    pub(super) fn report_pending(&self) {
        if self.pending.any.load(Ordering::Relaxed) && self.pending.any.swap(false, Ordering::Acquire) {
            let list = std::mem::take(&mut *lock(&self.pending.list));
            list.iter().for_each(|(route, found)| self.settings.events.emit(&found.event(route)));
        }
    }

    /// Returns all queries, ordered by total time.
    pub(super) fn query_stats(&self, now: Timestamp) -> Vec<QueryStats> {
        stats(&self.queries, now)
    }

    pub(super) fn upstream_stats(&self, now: Timestamp) -> Vec<QueryStats> {
        stats(&self.upstreams, now)
    }

    pub(super) fn pool_stats(&self, now: Timestamp) -> PoolStats {
        PoolStats { wait: Latency::of(&self.pool()), windows: Windows::of(&self.pool.latencies, now) }
    }

    /// Returns the histograms behind [`query_stats`](Self::query_stats), by name.
    pub(crate) fn queries(&self) -> Vec<(Box<str>, Histogram)> {
        self.queries.sorted(|work| (work.name.clone(), work.latencies.overall()))
    }

    /// Returns the latencies of all queries together, overall and within `window`.
    pub(super) fn all_queries(&self, now: Timestamp, window: Duration) -> (Histogram, Histogram) {
        let (mut overall, mut recent) = (Histogram::default(), Histogram::default());
        for (one, late) in self.queries.sorted(|work| (work.latencies.overall(), work.latencies.recent(now, window))) {
            overall.merge(&one);
            recent.merge(&late);
        }
        (overall, recent)
    }

    pub(crate) fn pool(&self) -> Histogram {
        self.pool.latencies.overall()
    }

    pub(crate) fn findings(&self) -> (Vec<Finding>, Vec<FindingCount>) {
        let findings = lock(&self.findings);
        (findings.recent(), findings.counts())
    }

    pub(super) fn slow(&self) -> MutexGuard<'_, SlowLog> {
        lock(&self.slow)
    }
}

/// Returns what makes the counters of a query.
fn series() -> impl Fn(&str) -> Work + Send + Sync {
    let made = AtomicUsize::new(0);
    move |name| {
        let own = made.fetch_add(1, Ordering::Relaxed) <= MAX_SERIES;
        Work::new(name, Some(Series::queries(if own { name } else { OTHER })))
    }
}

fn stats(table: &RecentNames<Work>, now: Timestamp) -> Vec<QueryStats> {
    let mut all = table.sorted(|work| work.stats(now));
    all.retain(|work| work.latency.count > 0);
    all.sort_by_key(|work| std::cmp::Reverse(work.latency.total));
    all
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// Counters of one query, of one other service, or of the pools.
struct Work {
    name: Box<str>,
    cancelled: AtomicU64,
    rows: AtomicU64,
    latencies: Latencies,
    series: Option<Series>,
}

impl Work {
    fn new(name: &str, series: Option<Series>) -> Self {
        Self {
            name: name.into(),
            cancelled: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            latencies: Latencies::new(),
            series,
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

    /// Adds what `old` counted.
    fn absorb(&self, old: &Self) {
        self.latencies.absorb(&old.latencies);
        self.cancelled.fetch_add(old.cancelled.load(Ordering::Relaxed), Ordering::Relaxed);
        self.rows.fetch_add(old.rows.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn record(&self, took: Duration, now: Timestamp) {
        let took = nanos(took);
        self.latencies.record(now, took);
        if let Some(series) = &self.series {
            series.record(took);
        }
    }

    fn stats(&self, now: Timestamp) -> QueryStats {
        QueryStats {
            name: self.name.clone().into(),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
            latency: Latency::of(&self.latencies.overall()),
            windows: Windows::of(&self.latencies, now),
        }
    }
}
