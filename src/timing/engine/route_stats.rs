//! [`Route`]: the counters of one route.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;

use super::request_log::RequestLog;
use super::request_series::RequestSeries;
use super::shared::TimingShared;
use crate::base::clock::{Timestamp, nanos};
use crate::base::detached_context::{CacheNote, LimitNote, Notes, RequestScope, ScopeOwner};
use crate::base::metrics::duration_counts::BucketCounts;
use crate::base::metrics::http_labels::RequestLabels;
use crate::base::sharded_counter::ShardedCounter;
use crate::timing::measure::findings::{FindingKind, RequestFinding};
use crate::timing::measure::histogram::Histogram;
use crate::timing::measure::latencies::Latencies;
use crate::timing::measure::n_plus_one::Repeats;
use crate::timing::measure::stats::{Latency, RouteStats, SlowRequest, Windows};

/// Status from which a response of a server is an error.
const SERVER_ERROR: u16 = 500;

/// Outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestOutcome {
    /// Answered with this status.
    Answered(StatusCode),
    /// Failed with an error of the inner service.
    Failed,
    /// Dropped before it was ready.
    Cancelled,
}

/// Source of a query's measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuerySource {
    /// Code of the program.
    Program,
    /// An event inside the subscriber, where logging is not allowed: findings are reported later.
    #[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "only events come from a subscriber"))]
    Subscriber,
}

/// Summary of a slow request.
pub(crate) struct RequestSummary<'a> {
    pub(crate) now: Timestamp,
    /// Duration in nanoseconds.
    pub(crate) took: u64,
    pub(crate) outcome: RequestOutcome,
    pub(crate) log: Option<&'a RequestLog>,
    pub(crate) notes: Notes,
}

/// Values of the counters of a route.
pub(crate) struct RouteCounts {
    pub(crate) requests: u64,
    pub(crate) in_flight: u64,
    pub(crate) answered: u64,
    pub(crate) errors: u64,
    pub(crate) cancelled: u64,
    pub(crate) slow: u64,
    pub(crate) queries: u64,
    pub(crate) query_time: Duration,
}

/// Counters of one route. Requests in flight are those started and neither answered nor cancelled, so that a request
/// updates one counter at its start and one at its end.
pub(crate) struct Route {
    name: Arc<str>,
    core: Arc<TimingShared>,
    repeats: Repeats,
    started: ShardedCounter<1>,
    cancelled: AtomicU64,
    errors: AtomicU64,
    slow: AtomicU64,
    queries: AtomicU64,
    query_nanos: AtomicU64,
    latencies: Latencies,
    series: RequestSeries,
    /// Requests answered without an error, as reported last.
    answered: AtomicU64,
}

impl Route {
    pub(crate) fn new(name: &str, core: Arc<TimingShared>) -> Self {
        let settings = core.settings();
        let own = settings.repeats_on.iter().find(|(route, _)| **route == *name).map(|(_, repeats)| repeats);
        let repeats = own.unwrap_or(&settings.repeats).clone();
        Self {
            name: name.into(),
            repeats,
            started: ShardedCounter::default(),
            cancelled: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            queries: AtomicU64::new(0),
            query_nanos: AtomicU64::new(0),
            latencies: Latencies::exported(core.buckets().clone()),
            series: RequestSeries::default(),
            core,
        }
    }

    pub(crate) fn core(&self) -> &TimingShared {
        &self.core
    }

    pub(crate) const fn repeats(&self) -> &Repeats {
        &self.repeats
    }

    pub(crate) fn latency(&self) -> Histogram {
        self.latencies.overall()
    }

    /// Returns the latencies of the last `window`, at most an hour.
    pub(super) fn recent(&self, now: Timestamp, window: Duration) -> Histogram {
        self.latencies.recent(now, window)
    }

    pub(super) fn errors(&self) -> u64 {
        read(&self.errors)
    }

    /// Counts a started request.
    pub(super) fn begin(&self) {
        self.started.add(0, 1);
    }

    /// Records the time of a statement of a request on this route, and whether it is a query.
    pub(crate) fn query(&self, took: Duration, query: bool) {
        add(&self.queries, u64::from(query));
        add(&self.query_nanos, nanos(took));
    }

    /// Counts a finished request; without labels, it was cancelled.
    #[inline]
    pub(crate) fn count(&self, now: Timestamp, took: u64, labels: Option<RequestLabels>) {
        let Some(labels) = labels else { return add(&self.cancelled, 1) };
        if labels.failed(SERVER_ERROR) {
            add(&self.errors, 1);
        }
        if self.series.count(self.core.request_series(), &self.name, labels, took) {
            self.latencies.record(now, took);
        } else {
            self.latencies.record_other(now, took);
        }
    }

    /// Counts and reports what was found in a request.
    pub(crate) fn report_findings(&self, log: &RequestLog, now: Timestamp) {
        log.findings().iter().for_each(|found| self.found(found, now, QuerySource::Program));
    }

    /// Counts a finding, and reports it if it is due.
    pub(super) fn found(&self, found: &RequestFinding, now: Timestamp, source: QuerySource) {
        self.core.found(&self.name, found, now, source);
    }

    /// Records a slow request.
    #[cold]
    pub(crate) fn record_slow(&self, ended: &RequestSummary<'_>) {
        add(&self.slow, 1);
        let took = Duration::from_nanos(ended.took);
        let status = match ended.outcome {
            RequestOutcome::Answered(status) => Some(status.as_u16()),
            RequestOutcome::Failed | RequestOutcome::Cancelled => None,
        };
        let work = ended.log.map(RequestLog::reading).unwrap_or_default();
        self.core.slow().push(SlowRequest {
            route: (*self.name).to_owned(),
            took,
            status,
            cancelled: ended.outcome == RequestOutcome::Cancelled,
            at: self.core.settings().clock.wall(),
            queries: work.shares(),
            pool_waits: work.pool.count,
            pool_wait: work.pool.total,
            upstream_calls: work.upstream.count,
            upstream_time: work.upstream.total,
            cache: ended.notes.cache.map(CacheNote::as_str),
            limit: ended.notes.limit.map(LimitNote::as_str),
        });
        let found = RequestFinding { kind: FindingKind::SlowRequest, query: None, count: 1, total: took, at: None };
        self.found(&found, ended.now, QuerySource::Program);
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Calls `each` with the labels and counts of each exported series.
    pub(crate) fn series(&self, each: impl FnMut(RequestLabels, &BucketCounts)) {
        self.series.each(&self.latencies.first(), each);
    }

    /// Returns the counts, without durations.
    pub(crate) fn counts(&self) -> RouteCounts {
        // Ends are read before starts, so that concurrent requests never make the difference negative.
        let (ended, cancelled) = (self.latencies.count(), read(&self.cancelled));
        let (requests, errors) = (self.started.sum(0), read(&self.errors));
        RouteCounts {
            requests,
            in_flight: requests.saturating_sub(ended + cancelled),
            answered: highest(&self.answered, ended.saturating_sub(errors)),
            errors,
            cancelled,
            slow: read(&self.slow),
            queries: read(&self.queries),
            query_time: Duration::from_nanos(read(&self.query_nanos)),
        }
    }

    pub(crate) fn stats(&self, now: Timestamp) -> RouteStats {
        // Ends are read before starts, so that concurrent requests never make the difference negative.
        let (latency, cancelled) = (Latency::of(&self.latency()), read(&self.cancelled));
        let requests = self.started.sum(0);
        let query_time = Duration::from_nanos(read(&self.query_nanos));
        RouteStats {
            route: (*self.name).to_owned(),
            requests,
            in_flight: requests.saturating_sub(latency.count + cancelled),
            errors: read(&self.errors),
            cancelled,
            slow: read(&self.slow),
            queries: read(&self.queries),
            query_time,
            query_share: share(query_time, latency.total),
            latency,
            windows: Windows::of(&self.latencies, now),
        }
    }
}

/// Returns `part` ⁄ `whole`; 0 if `whole` is zero.
fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { part.as_secs_f64() / whole.as_secs_f64() }
}

impl ScopeOwner for Route {
    fn open(self: Arc<Self>) -> RequestScope {
        Arc::new(RequestLog::new(self, None))
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Returns the highest value that was read so far: the difference of two counters may fall while both rise.
fn highest(last: &AtomicU64, value: u64) -> u64 {
    last.fetch_max(value, Ordering::Relaxed).max(value)
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
