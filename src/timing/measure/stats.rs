//! What [`TimingLayer::stats`](crate::timing::TimingLayer::stats) tells: plain data, serialisable, taken at one moment.
//!
//! In JSON a span of time is a number of milliseconds with a fraction, and its name ends in `_ms`.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::findings::FindingKind;
use super::histogram::Histogram;
use super::latencies::Latencies;
use crate::base::clock::Timestamp;
use crate::base::mode::Switch;

/// Everything a [`TimingLayer`](crate::timing::TimingLayer) has measured since it was built.
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
    /// Whether it is on, off, or only measures.
    pub switch: Switch,
    /// Requests that came in, answered or not.
    pub requests: u64,
    /// Requests that are being answered now.
    pub in_flight: u64,
    /// Latencies over all routes.
    pub latency: Latency,
    /// Each route that was asked for, by name; last the one called `other`, where there were too many.
    pub routes: Vec<RouteStats>,
    /// Each query made inside a request, by fingerprint or by the name given to [`timed`](crate::timing::timed); those
    /// first
    /// that took longest together.
    pub queries: Vec<QueryStats>,
    /// Each name given to [`timed_upstream`](crate::timing::timed_upstream), in the same order.
    pub upstreams: Vec<QueryStats>,
    /// The waits for database connections.
    pub pool: PoolStats,
    /// Queries made outside every request, in the whole process.
    pub unattributed: Unattributed,
    /// State of the harvest of sqlx's queries.
    pub harvest: HarvestState,
    /// The last 64 findings that were reported, newest first.
    pub findings: Vec<Finding>,
    /// How often each kind of thing was found on each route, reported or not.
    pub finding_counts: Vec<FindingCount>,
    /// The last 64 slow requests, newest first.
    pub slow_recent: Vec<SlowRequest>,
    /// The 16 slowest requests, slowest first.
    pub slowest: Vec<SlowRequest>,
}

impl TimingStats {
    /// The route of that name.
    ///
    /// ```
    /// # let stats = tollgate::timing::TimingLayer::new().stats();
    /// assert!(stats.route("/prices/{symbol}").is_none());
    /// ```
    #[must_use]
    pub fn route(&self, name: &str) -> Option<&RouteStats> {
        self.routes.iter().find(|route| route.route == name)
    }

    /// The query of that name.
    ///
    /// ```
    /// # let stats = tollgate::timing::TimingLayer::new().stats();
    /// assert!(stats.query("load price").is_none());
    /// ```
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&QueryStats> {
        self.queries.iter().find(|query| query.name == name)
    }

    /// The `n` queries that took longest together.
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

/// One route.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RouteStats {
    /// The route's pattern, `unmatched`, or `other`.
    pub route: String,
    /// Requests that came in, answered or not.
    pub requests: u64,
    /// Requests that are being answered now.
    pub in_flight: u64,
    /// Requests answered with a 5xx status, and those whose service failed with an error of its own.
    pub errors: u64,
    /// Requests dropped before there was an answer: the client left, a timeout fired, or the handler panicked.
    pub cancelled: u64,
    /// Requests that took at least as long as the layer's `slow_after`.
    pub slow: u64,
    /// Time until the response head was there, of requests that were answered.
    pub latency: Latency,
    /// Queries of these requests, those of work they left behind included.
    pub queries: u64,
    /// The time these queries took together.
    #[serde(rename = "query_time_ms", serialize_with = "millis")]
    pub query_time: Duration,
    /// The share of the requests' time that these queries took: 0.5 is half. More than 1 where they ran side by side.
    pub query_share: f64,
    /// The same latencies, of late.
    pub windows: Windows,
}

/// One query, or one other service.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct QueryStats {
    /// The fingerprint, or the name given to [`timed`](crate::timing::timed), or `other`.
    pub name: String,
    /// How many rows they returned or changed, where that is known.
    pub rows: u64,
    /// How many of them were dropped before their end; they count in `latency` with the time they had taken.
    pub cancelled: u64,
    /// How many there were, and how long they took.
    pub latency: Latency,
    /// The same, of late.
    pub windows: Windows,
}

/// The waits for database connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PoolStats {
    /// How many there were, and how long they took.
    pub wait: Latency,
    /// The same, of late.
    pub windows: Windows,
}

/// Latencies of late. Total, mean and percentiles are within 1⁄16 (6.3 %) of the exact value; each window ends now and
/// may reach up to
/// a sixth further back than its name says.
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
            [60, 300, 3_600].map(|seconds| Latency::of(&latencies.late(now, Duration::from_secs(seconds))));
        Self { minute, five_minutes, hour }
    }
}

/// Whether [`Harvest`](https://docs.rs/tollgate/latest/tollgate/timing/) hears sqlx.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HarvestState {
    /// No harvest is installed.
    #[default]
    Off,
    /// One is installed, and no query of sqlx has reached it.
    NeverHeard,
    /// It hears sqlx.
    Heard,
}

/// Something that was found and reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// Kind of the finding.
    pub kind: FindingKind,
    /// The route of the request.
    pub route: String,
    /// The query's fingerprint or name, where it is about one.
    pub query: Option<String>,
    /// How many queries or waits.
    pub count: u64,
    /// How long, together.
    #[serde(rename = "total_ms", serialize_with = "millis")]
    pub total: Duration,
    /// File, line and column where the program makes the query, where that is known.
    pub at: Option<String>,
}

/// How often something was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FindingCount {
    /// Kind of the finding.
    pub kind: FindingKind,
    /// On which route.
    pub route: String,
    /// How often.
    pub count: u64,
}

/// A distribution of times. Percentiles are within 1⁄64 (1.6 %) of the exact value; count, total, mean and maximum are
/// exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Latency {
    /// How many times were counted.
    pub count: u64,
    /// All of them together.
    #[serde(rename = "total_ms", serialize_with = "millis")]
    pub total: Duration,
    /// Their mean.
    #[serde(rename = "mean_ms", serialize_with = "millis")]
    pub mean: Duration,
    /// Half of them were no longer.
    #[serde(rename = "p50_ms", serialize_with = "millis")]
    pub p50: Duration,
    /// 90 % of them were no longer.
    #[serde(rename = "p90_ms", serialize_with = "millis")]
    pub p90: Duration,
    /// 95 % of them were no longer.
    #[serde(rename = "p95_ms", serialize_with = "millis")]
    pub p95: Duration,
    /// 99 % of them were no longer.
    #[serde(rename = "p99_ms", serialize_with = "millis")]
    pub p99: Duration,
    /// The longest.
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

/// Queries made where no request was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unattributed {
    /// How many.
    pub count: u64,
    /// How long, together.
    #[serde(rename = "total_ms", serialize_with = "millis")]
    pub total: Duration,
}

/// One slow request.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SlowRequest {
    /// The route it matched.
    pub route: String,
    /// How long until the response head was there, or until the request was dropped.
    #[serde(rename = "took_ms", serialize_with = "millis")]
    pub took: Duration,
    /// The status it was answered with; nothing where the service failed or the request was dropped.
    pub status: Option<u16>,
    /// Whether it was dropped before there was an answer.
    pub cancelled: bool,
    /// When it ended.
    #[serde(rename = "at_unix_ms", serialize_with = "unix_millis")]
    pub at: SystemTime,
    /// Its queries by name, the one that took longest together first.
    pub queries: Vec<QueryShare>,
    /// How many times it waited for a database connection.
    pub pool_waits: u64,
    /// How long, together.
    #[serde(rename = "pool_wait_ms", serialize_with = "millis")]
    pub pool_wait: Duration,
    /// How many calls of other services it made.
    pub upstream_calls: u64,
    /// How long they took, together.
    #[serde(rename = "upstream_time_ms", serialize_with = "millis")]
    pub upstream_time: Duration,
    /// How a cache of this crate answered, in one word: `hit`, `stale`, `revalidated`, `miss`, `collapsed`, `pass`.
    pub cache: Option<&'static str>,
    /// What a limit of this crate decided: `allowed` or `refused`.
    pub limit: Option<&'static str>,
}

/// The queries of one name in one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueryShare {
    /// The fingerprint, or the name given to [`timed`](crate::timing::timed), or `other`.
    pub name: String,
    /// How many.
    pub count: u64,
    /// How long, together.
    #[serde(rename = "total_ms", serialize_with = "millis")]
    pub total: Duration,
    /// The longest of them.
    #[serde(rename = "slowest_ms", serialize_with = "millis")]
    pub slowest: Duration,
    /// How many rows they returned or changed, where that is known.
    pub rows: u64,
    /// How many of them asked for what another had asked for, as far as is known.
    pub duplicates: u64,
    /// File, line and column where the program makes the first, where that is known.
    pub at: Option<String>,
}

fn millis<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64() * 1e3)
}

fn unix_millis<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
