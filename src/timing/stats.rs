//! What [`TimingLayer::stats`](super::TimingLayer::stats) tells: plain data, serialisable, taken at one moment.
//!
//! In JSON a span of time is a number of milliseconds with a fraction, and its name ends in `_ms`.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::histogram::{Histogram, Reading};

/// Everything a [`TimingLayer`](super::TimingLayer) has measured since it was built.
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
    /// Requests that came in, answered or not.
    pub requests: u64,
    /// Requests that are being answered now.
    pub in_flight: u64,
    /// Latencies over all routes.
    pub latency: Latency,
    /// Each route that was asked for, by name; last the one called `other`, where there were too many.
    pub routes: Vec<RouteStats>,
    /// Each name that was given to [`timed`](super::timed) inside a request.
    pub queries: Vec<QueryStats>,
    /// What [`timed`](super::timed) measured outside every request, in the whole process.
    pub unattributed: Unattributed,
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
}

/// One name given to [`timed`](super::timed).
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct QueryStats {
    /// The name, or `other`.
    pub name: String,
    /// How many of them were dropped before their end; they count in `latency` with the time they had taken.
    pub cancelled: u64,
    /// How many there were, and how long they took.
    pub latency: Latency,
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
    pub(super) fn of(histogram: &Histogram) -> Self {
        Self::read(&histogram.reading())
    }

    fn read(reading: &Reading) -> Self {
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

/// What [`timed`](super::timed) measured where no request was.
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
}

/// The queries of one name in one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueryShare {
    /// The name given to [`timed`](super::timed).
    pub name: String,
    /// How many.
    pub count: u64,
    /// How long, together.
    #[serde(rename = "total_ms", serialize_with = "millis")]
    pub total: Duration,
}

fn millis<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64() * 1e3)
}

fn unix_millis<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
