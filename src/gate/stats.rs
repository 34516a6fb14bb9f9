//! [`Stats`]: statistics of all layers, joined by route.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::base::json_units::millis;
use crate::base::mode::Mode;
use crate::cache::{CacheStats, DataStats, LevelStats};
use crate::limit::{ConcurrencyStats, LimitStats, LimitStoreStats, RateLimitStats, RemoteStats};
use crate::timing::{Latency, TimingStats};

/// Statistics of a [`Tollgate`](crate::Tollgate) since it was built. Serialises to JSON.
///
/// ```
/// use tollgate::Tollgate;
///
/// let gate = Tollgate::builder().build()?;
/// assert_eq!((gate.stats().requests, gate.stats().in_flight), (0, 0));
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Mode of each layer.
    pub modes: LayerModes,
    /// Requests received.
    #[serde(rename = "requests_total")]
    pub requests: u64,
    /// Requests in progress.
    pub in_flight: u64,
    /// Statistics by route: axum's matched path, a configured pattern, `unmatched`, or `other`.
    pub routes: BTreeMap<String, RouteReport>,
    /// Statistics per limit and tier.
    pub limits: Vec<LimitStats>,
    /// Statistics per limit on requests in progress.
    pub concurrency: Vec<ConcurrencyStats>,
    /// Number of keys in the limit store, and its capacity.
    pub keys: LimitStoreStats,
    /// State of the shared limit store, if there is one.
    pub remote: Option<RemoteStats>,
    /// Levels of the cache, first the one in process.
    pub cache: Vec<LevelStats>,
    /// Statistics per namespace of [typed values](crate::cache::Cached).
    pub data: Vec<DataStats>,
    /// Fetches in progress, including detached ones.
    pub fetches_in_flight: u64,
    /// Bytes held for bodies in transfer.
    pub in_flight_bytes: u64,
    /// Cache rules without a matching request, which usually indicates a typing mistake.
    pub unmatched_rules: Vec<String>,
    /// Calls of the inner service.
    #[serde(rename = "inner_calls_total")]
    pub inner_calls: u64,
    /// Requests answered without a call of the inner service.
    #[serde(rename = "inner_calls_avoided_total")]
    pub inner_calls_avoided: u64,
    /// Estimated duration of the avoided calls.
    #[serde(rename = "time_saved_ms", serialize_with = "millis")]
    pub time_saved: Duration,
    /// Cost of the avoided calls, if [`TollgateBuilder::cost_per_call`](crate::TollgateBuilder::cost_per_call) is
    /// set.
    pub money_saved: Option<f64>,
    /// Statistics of timing: queries, slow requests, percentiles over all routes.
    pub timing: TimingStats,
    /// Jobs.
    #[cfg(feature = "jobs")]
    pub jobs: Vec<crate::JobStatus>,
}

/// Modes of the layers of a [`Tollgate`](crate::Tollgate): on, off or shadow.
///
/// ```
/// use tollgate::{Mode, Tollgate};
///
/// let gate = Tollgate::builder().build()?;
/// gate.set_timing_mode(Mode::Shadow);
/// assert_eq!(gate.stats().modes.timing, Mode::Shadow);
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LayerModes {
    /// Mode of the limits: see [`RateLimitLayer::set_mode`](crate::limit::RateLimitLayer::set_mode).
    pub limits: Mode,
    /// Mode of the cache: see [`CacheLayer::set_mode`](crate::cache::CacheLayer::set_mode).
    pub cache: Mode,
    /// Mode of timing: see [`TimingLayer::set_mode`](crate::timing::TimingLayer::set_mode).
    pub timing: Mode,
}

/// Statistics of one route.
///
/// ```
/// fn hit_ratio(stats: &tollgate::Stats, route: &str) -> Option<f64> {
///     let route = stats.routes.get(route)?;
///     Some(route.hits as f64 / route.requests.max(1) as f64)
/// }
/// # let _ = hit_ratio;
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RouteReport {
    /// Requests received.
    #[serde(rename = "requests_total")]
    pub requests: u64,
    /// Requests rejected by a limit.
    #[serde(rename = "limited_total")]
    pub limited: u64,
    /// Fresh hits.
    #[serde(rename = "hits_total")]
    pub hits: u64,
    /// Stale hits.
    #[serde(rename = "stale_total")]
    pub stale: u64,
    /// Hits after a successful revalidation.
    #[serde(rename = "revalidated_total")]
    pub revalidated: u64,
    /// Misses, fetched from the service: a rule covers the route, or the response could be stored.
    #[serde(rename = "misses_total")]
    pub misses: u64,
    /// Requests coalesced with another request's fetch.
    #[serde(rename = "collapsed_total")]
    pub collapsed: u64,
    /// Requests fetched although the cache could have answered, in shadow mode.
    #[serde(rename = "shadowed_total")]
    pub shadowed: u64,
    /// Requests that bypassed the cache or were not stored, by reason.
    #[serde(rename = "bypassed_total")]
    pub bypassed: BTreeMap<&'static str, u64>,
    /// Time to the response head.
    #[serde(flatten)]
    pub latency: Latency,
}

impl Stats {
    /// Joins the layers' statistics by route.
    pub(crate) fn of(
        timing: TimingStats,
        limit: RateLimitStats,
        cache: CacheStats,
        cost_per_call: Option<f64>,
    ) -> Self {
        let mut routes: BTreeMap<String, RouteReport> = BTreeMap::new();
        for route in &timing.routes {
            let report = routes.entry(route.route.clone()).or_default();
            (report.requests, report.latency) = (route.requests, route.latency);
        }
        for route in limit.routes {
            routes.entry(route.route).or_default().limited = route.refused;
        }
        for (name, route) in cache.routes {
            let report = routes.entry(name).or_default();
            (report.hits, report.stale, report.revalidated) = (route.hits, route.stale, route.revalidated);
            (report.misses, report.collapsed, report.bypassed) = (route.misses, route.collapsed, route.bypassed);
            report.shadowed = route.shadowed;
        }
        Self {
            modes: LayerModes { limits: limit.mode, cache: cache.mode, timing: timing.mode },
            requests: timing.requests,
            in_flight: timing.in_flight,
            routes,
            limits: limit.limits,
            concurrency: limit.concurrency,
            keys: limit.store,
            remote: limit.remote,
            cache: cache.levels,
            data: cache.data,
            fetches_in_flight: cache.fetches_in_flight,
            in_flight_bytes: cache.in_flight_bytes,
            unmatched_rules: cache.unmatched_rules,
            inner_calls: cache.inner_calls,
            inner_calls_avoided: cache.inner_calls_avoided,
            time_saved: cache.time_saved,
            money_saved: cost_per_call.map(|cost| cost * cache.inner_calls_avoided as f64),
            timing,
            #[cfg(feature = "jobs")]
            jobs: Vec::new(),
        }
    }
}
