//! Statistics returned by [`TimingLayer::stats`](crate::timing::TimingLayer::stats): serialisable plain data.
//!
//! In JSON, durations are milliseconds with a fraction, and their names end in `_ms`.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::findings::FindingKind;
use super::histogram::Histogram;
use super::latencies::Latencies;
use crate::base::clock::Timestamp;
use crate::base::json_units::{millis, unix_millis};
use crate::base::mode::Mode;

/// Statistics of a [`TimingLayer`](crate::timing::TimingLayer) since it was built.
///
/// ```
/// use tollgate::timing::TimingLayer;
///
/// let stats = TimingLayer::new().stats();
/// assert_eq!(stats.requests, 0);
/// assert!(serde_json::to_string(&stats).unwrap().contains("\"in_flight\":0"));
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct TimingStats {
    /// Mode of the layer: on, off or shadow.
    pub mode: Mode,
    /// Requests received.
    #[serde(rename = "requests_total")]
    pub requests: u64,
    /// Requests in progress.
    pub in_flight: u64,
    /// Latencies over all routes.
    pub latency: Latency,
    /// Statistics per route with requests, by name; last `other`, if there were too many.
    pub routes: Vec<RouteStats>,
    /// Queries made within requests, by fingerprint or by the name given to [`timed`](crate::timing::timed), ordered
    /// by total time.
    pub queries: Vec<QueryStats>,
    /// Calls by the name given to [`timed_upstream`](crate::timing::timed_upstream), ordered by total time.
    pub upstreams: Vec<QueryStats>,
    /// Waits for database connections.
    pub pool: PoolStats,
    /// Queries made outside of requests, in the whole process.
    pub unattributed: Unattributed,
    /// State of the harvest of sqlx's queries.
    pub harvest: HarvestState,
    /// The last 64 reported findings, newest first.
    pub findings: Vec<Finding>,
    /// Findings by kind and route, reported or not.
    pub finding_counts: Vec<FindingCount>,
    /// The last 64 slow requests, newest first.
    pub slow_recent: Vec<SlowRequest>,
    /// The 16 slowest requests, slowest first.
    pub slowest: Vec<SlowRequest>,
}

impl TimingStats {
    /// Returns the statistics of a route.
    ///
    /// ```
    /// # let stats = tollgate::timing::TimingLayer::new().stats();
    /// assert!(stats.route("/prices/{symbol}").is_none());
    /// ```
    #[must_use]
    pub fn route(&self, name: &str) -> Option<&RouteStats> {
        self.routes.iter().find(|route| route.route == name)
    }

    /// Returns the statistics of a query.
    ///
    /// ```
    /// # let stats = tollgate::timing::TimingLayer::new().stats();
    /// assert!(stats.query("load price").is_none());
    /// ```
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&QueryStats> {
        self.queries.iter().find(|query| query.name == name)
    }

    /// Returns the `n` queries with the largest total time.
    ///
    /// ```
    /// # let stats = tollgate::timing::TimingLayer::new().stats();
    /// for query in stats.top_queries(10) {
    ///     println!("{:?} for {} × {}", query.latency.total, query.latency.count, query.name);
    /// }
    /// ```
    #[must_use]
    pub fn top_queries(&self, n: usize) -> &[QueryStats] {
        &self.queries[..n.min(self.queries.len())]
    }
}

/// Statistics of one route.
///
/// ```
/// fn slow(stats: &tollgate::timing::TimingStats) -> Vec<&str> {
///     stats.routes.iter().filter(|route| route.slow > 0).map(|route| route.route.as_str()).collect()
/// }
/// # let _ = slow;
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RouteStats {
    /// Pattern of the route, `unmatched`, or `other`.
    pub route: String,
    /// Requests received.
    #[serde(rename = "requests_total")]
    pub requests: u64,
    /// Requests in progress.
    pub in_flight: u64,
    /// Requests answered with a 5xx status, or failed with an error of the service.
    #[serde(rename = "errors_total")]
    pub errors: u64,
    /// Requests dropped before a response: client disconnect, outer timeout, or panic.
    #[serde(rename = "cancelled_total")]
    pub cancelled: u64,
    /// Requests that took at least the layer's `slow_after`.
    #[serde(rename = "slow_total")]
    pub slow: u64,
    /// Time to the response head, of answered requests.
    pub latency: Latency,
    /// Queries of these requests, including those of their detached work.
    #[serde(rename = "queries_total")]
    pub queries: u64,
    /// Total time of these queries.
    #[serde(rename = "query_time_ms", serialize_with = "millis")]
    pub query_time: Duration,
    /// Query time ⁄ request time; above 1 if queries ran concurrently.
    pub query_share: f64,
    /// Recent latencies.
    pub windows: Windows,
}

/// Statistics of one query, or of one other service.
///
/// ```
/// fn costliest(stats: &tollgate::timing::TimingStats) -> Option<&str> {
///     stats.queries.iter().max_by_key(|query| query.latency.total).map(|query| query.name.as_str())
/// }
/// # let _ = costliest;
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct QueryStats {
    /// Fingerprint, or name given to [`timed`](crate::timing::timed), or `other`.
    pub name: String,
    /// Rows returned or changed, if known.
    #[serde(rename = "rows_total")]
    pub rows: u64,
    /// Queries dropped before their end; their time until then counts in `latency`.
    #[serde(rename = "cancelled_total")]
    pub cancelled: u64,
    /// Count and durations.
    pub latency: Latency,
    /// Recent latencies.
    pub windows: Windows,
}

/// Waits for database connections.
///
/// ```
/// use tollgate::timing::TimingLayer;
///
/// assert_eq!(TimingLayer::new().stats().pool.wait.count, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PoolStats {
    /// Count and durations.
    pub wait: Latency,
    /// Recent latencies.
    pub windows: Windows,
}

/// Recent latencies. Total, mean and percentiles are within 1⁄16 (6.3 %); each window ends now and may reach up to a
/// sixth further back than its name says.
///
/// ```
/// use tollgate::timing::TimingLayer;
///
/// assert_eq!(TimingLayer::new().stats().pool.windows.minute.count, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Windows {
    /// The last minute.
    pub minute: Latency,
    /// The last five minutes.
    pub five_minutes: Latency,
    /// The last hour.
    pub hour: Latency,
}

impl Windows {
    pub(crate) fn of(latencies: &Latencies, now: Timestamp) -> Self {
        let [minute, five_minutes, hour] =
            [60, 300, 3_600].map(|seconds| Latency::of(&latencies.recent(now, Duration::from_secs(seconds))));
        Self { minute, five_minutes, hour }
    }
}

/// State of [`Harvest`](https://docs.rs/tollgate/latest/tollgate/timing/).
///
/// ```
/// use tollgate::timing::HarvestState;
///
/// assert_eq!(HarvestState::default(), HarvestState::Off);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HarvestState {
    /// No harvest is installed.
    #[default]
    Off,
    /// Installed, but no query event has arrived.
    NoEvents,
    /// Query events arrive.
    Active,
}

/// Reported finding.
///
/// ```
/// fn print(stats: &tollgate::timing::TimingStats) {
///     for finding in &stats.findings {
///         println!("{} on {}: {} times", finding.kind.as_str(), finding.route, finding.count);
///     }
/// }
/// # let _ = print;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// Kind of the finding.
    pub kind: FindingKind,
    /// Route of the request.
    pub route: String,
    /// Fingerprint or name of the query, if the finding concerns one.
    pub query: Option<String>,
    /// Number of queries or waits.
    pub count: u64,
    /// Total duration.
    #[serde(rename = "total_ms", serialize_with = "millis")]
    pub total: Duration,
    /// File, line and column of the call site, if known.
    pub at: Option<String>,
}

/// Number of findings of one kind on one route.
///
/// ```
/// fn total(stats: &tollgate::timing::TimingStats) -> u64 {
///     stats.finding_counts.iter().map(|finding| finding.count).sum()
/// }
/// # let _ = total;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FindingCount {
    /// Kind of the finding.
    pub kind: FindingKind,
    /// Route of the requests.
    pub route: String,
    /// Number of findings.
    #[serde(rename = "count_total")]
    pub count: u64,
}

/// Distribution of durations. Percentiles are within 1⁄64 (1.6 %); count, total, mean and maximum are exact.
///
/// ```
/// use tollgate::timing::TimingLayer;
///
/// let latency = TimingLayer::new().stats().latency;
/// assert!(latency.p50 <= latency.p99);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Latency {
    /// Number of durations.
    pub count: u64,
    /// Sum.
    #[serde(rename = "total_ms", serialize_with = "millis")]
    pub total: Duration,
    /// Mean.
    #[serde(rename = "mean_ms", serialize_with = "millis")]
    pub mean: Duration,
    /// 50th percentile.
    #[serde(rename = "p50_ms", serialize_with = "millis")]
    pub p50: Duration,
    /// 90th percentile.
    #[serde(rename = "p90_ms", serialize_with = "millis")]
    pub p90: Duration,
    /// 95th percentile.
    #[serde(rename = "p95_ms", serialize_with = "millis")]
    pub p95: Duration,
    /// 99th percentile.
    #[serde(rename = "p99_ms", serialize_with = "millis")]
    pub p99: Duration,
    /// Maximum.
    #[serde(rename = "max_ms", serialize_with = "millis")]
    pub max: Duration,
}

impl Latency {
    pub(crate) fn of(reading: &Histogram) -> Self {
        let at = |permille| Duration::from_nanos(reading.percentile(permille));
        Self {
            count: reading.count(),
            total: Duration::from_nanos(reading.sum()),
            mean: Duration::from_nanos(reading.mean()),
            p50: at(500),
            p90: at(900),
            p95: at(950),
            p99: at(990),
            max: Duration::from_nanos(reading.max()),
        }
    }
}

/// Queries made outside of requests.
///
/// ```
/// fn outside(stats: &tollgate::timing::TimingStats) -> u64 {
///     stats.unattributed.count
/// }
/// # let _ = outside;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unattributed {
    /// Number of queries.
    pub count: u64,
    /// Total duration.
    #[serde(rename = "total_ms", serialize_with = "millis")]
    pub total: Duration,
}

/// One slow request.
///
/// ```
/// fn slowest(stats: &tollgate::timing::TimingStats) -> Option<std::time::Duration> {
///     stats.slowest.first().map(|request| request.took)
/// }
/// # let _ = slowest;
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SlowRequest {
    /// Matched route.
    pub route: String,
    /// Time to the response head, or until the request was dropped.
    #[serde(rename = "took_ms", serialize_with = "millis")]
    pub took: Duration,
    /// Status; `None` if the service failed or the request was dropped.
    pub status: Option<u16>,
    /// Whether it was dropped before a response.
    pub cancelled: bool,
    /// Time of its end.
    #[serde(rename = "at_unix_ms", serialize_with = "unix_millis")]
    pub at: SystemTime,
    /// Queries by name, ordered by total time.
    pub queries: Vec<QueryShare>,
    /// Number of waits for a database connection.
    pub pool_waits: u64,
    /// Total duration of these waits.
    #[serde(rename = "pool_wait_ms", serialize_with = "millis")]
    pub pool_wait: Duration,
    /// Number of calls of other services.
    pub upstream_calls: u64,
    /// Total duration of these calls.
    #[serde(rename = "upstream_time_ms", serialize_with = "millis")]
    pub upstream_time: Duration,
    /// Outcome of the cache: `hit`, `stale`, `revalidated`, `miss`, `collapsed`, `pass`.
    pub cache: Option<&'static str>,
    /// Outcome of the limits: `allowed` or `refused`.
    pub limit: Option<&'static str>,
}

/// Queries of one name within one request.
///
/// ```
/// fn repeated(request: &tollgate::timing::SlowRequest) -> u64 {
///     request.queries.iter().map(|query| query.duplicates).sum()
/// }
/// # let _ = repeated;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueryShare {
    /// Fingerprint, or name given to [`timed`](crate::timing::timed), or `other`.
    pub name: String,
    /// Number of queries.
    pub count: u64,
    /// Total duration.
    #[serde(rename = "total_ms", serialize_with = "millis")]
    pub total: Duration,
    /// Longest duration.
    #[serde(rename = "slowest_ms", serialize_with = "millis")]
    pub slowest: Duration,
    /// Rows returned or changed, if known.
    pub rows: u64,
    /// Exact repetitions, as far as known.
    pub duplicates: u64,
    /// File, line and column of the first call site, if known.
    pub at: Option<String>,
}
