//! [`Stats`]: what all layers have done, joined by route.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::base::mode::Switch;
use crate::cache::{CacheStats, DataStats, LevelStats};
use crate::limit::{LimitStats, LimitStoreStats, RateLimitStats, RemoteStats};
use crate::timing::{Latency, TimingStats};

/// What a [`Tollgate`](crate::Tollgate) has done since it was built. Serialises to JSON.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Which layers are on.
    pub switches: Switches,
    /// Requests that came in.
    pub requests: u64,
    /// Requests that are being answered now.
    pub in_flight: u64,
    /// By route: axum's matched path, a configured pattern, `unmatched`, or `other`.
    pub routes: BTreeMap<String, RouteReport>,
    /// Per limit and tier.
    pub limits: Vec<LimitStats>,
    /// Keys the limits hold, and their bound.
    pub keys: LimitStoreStats,
    /// How the store of the limits is doing, where a fleet shares one.
    pub remote: Option<RemoteStats>,
    /// The cache's levels, nearest first.
    pub cache: Vec<LevelStats>,
    /// Per namespace of [typed values](crate::cache::Cached) in that cache.
    pub data: Vec<DataStats>,
    /// Fetches in progress: work that may outlive its request.
    pub fetches: u64,
    /// Bytes held for bodies that are being fetched.
    pub fetching_bytes: u64,
    /// Cache rules that no request has matched: typing mistakes, usually.
    pub unmatched_rules: Vec<String>,
    /// Calls of the service behind the cache.
    pub inner_calls: u64,
    /// Calls the cache made unnecessary.
    pub inner_calls_avoided: u64,
    /// The time those calls would have taken.
    #[serde(rename = "time_saved_ms", serialize_with = "millis")]
    pub time_saved: Duration,
    /// What those calls would have cost, where
    /// [`TollgateBuilder::cost_per_call`](crate::TollgateBuilder::cost_per_call) says what one costs.
    pub money_saved: Option<f64>,
    /// Everything the timing layer knows: queries, slow requests, percentiles over all routes.
    pub timing: TimingStats,
}

/// Which layers of a [`Tollgate`](crate::Tollgate) are on, off, or only look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Switches {
    /// The limits: see [`RateLimitLayer::switch`](crate::limit::RateLimitLayer::switch).
    pub limits: Switch,
    /// The cache: see [`CacheLayer::switch`](crate::cache::CacheLayer::switch).
    pub cache: Switch,
    /// Timing: see [`TimingLayer::switch`](crate::timing::TimingLayer::switch).
    pub timing: Switch,
}

/// What happened on one route.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RouteReport {
    /// Requests that came in.
    pub requests: u64,
    /// Requests refused by a limit.
    pub limited: u64,
    /// Answered from the cache, fresh.
    pub hits: u64,
    /// Answered from the cache, stale.
    pub stale: u64,
    /// Answered from the cache after the service confirmed the entry.
    pub revalidated: u64,
    /// Fetched from the service.
    pub misses: u64,
    /// Answered by another request's fetch.
    pub collapsed: u64,
    /// Fetched although the cache could have answered, while it only looked.
    pub shadowed: u64,
    /// Passed by the cache or not kept, by reason.
    pub bypassed: BTreeMap<&'static str, u64>,
    /// How long requests took until their response head.
    #[serde(flatten)]
    pub latency: Latency,
}

impl Stats {
    /// The layers' own figures, joined by route.
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
            switches: Switches { limits: limit.switch, cache: cache.switch, timing: timing.switch },
            requests: timing.requests,
            in_flight: timing.in_flight,
            routes,
            limits: limit.limits,
            keys: limit.store,
            remote: limit.remote,
            cache: cache.levels,
            data: cache.data,
            fetches: cache.fetches_in_flight,
            fetching_bytes: cache.in_flight_bytes,
            unmatched_rules: cache.unmatched_rules,
            inner_calls: cache.inner_calls,
            inner_calls_avoided: cache.inner_calls_avoided,
            time_saved: cache.time_saved,
            money_saved: cost_per_call.map(|cost| cost * cache.inner_calls_avoided as f64),
            timing,
        }
    }
}

fn millis<S: serde::Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64() * 1e3)
}
