//! Counters and statistics of the limits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::concurrency::ConcurrencyStats;
use super::store::{LimitStoreStats, RemoteStats};
use crate::base::lock::Mutex;
use crate::base::mode::Mode;
use crate::base::sharded_counter::ShardedCounter;
use crate::limit::policy::compiled::CompiledLimits;
use crate::limit::policy::decision::LimitLabel;

/// Routes counted by name; further routes share `"other"`.
const ROUTES: usize = 256;

/// Statistics of a rate-limit layer since it was built.
///
/// ```
/// use tollgate::limit::{Quota, RateLimitLayer, RateLimitStats};
///
/// let stats: RateLimitStats = RateLimitLayer::per_ip(Quota::per_minute(20)).stats();
/// assert_eq!((stats.admitted, stats.limits[0].quota.as_str()), (0, "20/min"));
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RateLimitStats {
    /// Mode of the layer: on, off or shadow.
    pub mode: Mode,
    /// Admitted requests.
    #[serde(rename = "admitted_total")]
    pub admitted: u64,
    /// Rejected requests.
    #[serde(rename = "refused_total")]
    pub refused: u64,
    /// Requests refused by the deny list or by bans; part of `refused`.
    #[serde(rename = "denied_total")]
    pub denied: u64,
    /// Decisions made locally while the shared store was unavailable.
    #[serde(rename = "degraded_total")]
    pub degraded: u64,
    /// Statistics per limit and tier, in configuration order.
    pub limits: Vec<LimitStats>,
    /// Statistics per limit on requests in progress, in configuration order.
    pub concurrency: Vec<ConcurrencyStats>,
    /// Limits whose route no request has matched.
    pub unmatched_limits: Vec<String>,
    /// Rejections per matched route.
    pub routes: Vec<RouteRefusals>,
    /// Statistics of the store.
    pub store: LimitStoreStats,
    /// Statistics of the shared store, if there is one.
    pub remote: Option<RemoteStats>,
}

/// Statistics of one limit, or of one of its tiers.
///
/// ```
/// use tollgate::limit::{Quota, RateLimitLayer};
///
/// let layer = RateLimitLayer::per_ip(Quota::per_minute(100));
/// assert_eq!((layer.stats().limits[0].quota.as_str(), layer.stats().limits[0].refused), ("100/min", 0));
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct LimitStats {
    /// Name of the limit or tier.
    pub name: String,
    /// Quota, such as `100/min`.
    pub quota: String,
    /// Whether the limit rejects ([`Mode::On`]), counts only, or is off.
    pub mode: Mode,
    /// Requests that this limit counted and admitted.
    #[serde(rename = "admitted_total")]
    pub admitted: u64,
    /// Requests that this limit rejected.
    #[serde(rename = "refused_total")]
    pub refused: u64,
    /// Requests that this limit would have rejected if it were enforced.
    #[serde(rename = "would_refuse_total")]
    pub would_refuse: u64,
}

/// Rejections on one route.
///
/// ```
/// fn most_refused(stats: &tollgate::limit::RateLimitStats) -> Option<&str> {
///     stats.routes.iter().max_by_key(|route| route.refused).map(|route| route.route.as_str())
/// }
/// # let _ = most_refused;
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RouteRefusals {
    /// Matched route, `"unmatched"` or `"other"`.
    pub route: String,
    /// Requests rejected on this route.
    #[serde(rename = "refused_total")]
    pub refused: u64,
}

const ADMITTED: usize = 0;
const REFUSED: usize = 1;
const DEGRADED: usize = 2;
const DENIED: usize = 3;

#[derive(Debug)]
pub(crate) struct LimitCounters {
    /// Indexed by [`ADMITTED`], [`REFUSED`] and [`DEGRADED`].
    requests: ShardedCounter<4>,
    parts: Vec<(LimitLabel, OutcomeCounters)>,
    /// Index of the first part of each limit; none if there is one part, whose admissions are those of the layer.
    first_parts: Vec<usize>,
    routes: Mutex<HashMap<Box<str>, u64, foldhash::fast::RandomState>>,
}

#[derive(Debug, Default)]
struct OutcomeCounters {
    admitted: ShardedCounter<1>,
    refused: AtomicU64,
    would_refuse: AtomicU64,
}

impl LimitCounters {
    pub(crate) fn new(limits: &CompiledLimits) -> Self {
        let parts: Vec<_> = limits.quotas().map(|(label, _)| (label, OutcomeCounters::default())).collect();
        let firsts = parts.iter().enumerate().filter(|(_, (label, _))| label.is_first()).map(|(index, _)| index);
        let first_parts = if limits.is_single() { Vec::new() } else { firsts.collect() };
        Self { requests: ShardedCounter::default(), parts, first_parts, routes: Mutex::default() }
    }

    pub(crate) fn count(&self, admits: bool, degraded: bool) {
        self.requests.add(if admits { ADMITTED } else { REFUSED }, 1);
        if degraded {
            self.requests.add(DEGRADED, 1);
        }
    }

    pub(super) fn count_denial(&self) {
        self.requests.add(DENIED, 1);
    }

    /// Counts an admission by one limit.
    #[inline]
    pub(super) fn count_admission(&self, label: LimitLabel) {
        let Some(first) = self.first_parts.get(usize::from(label.rule)) else { return };
        if let Some((_, counters)) = self.parts.get(first + label.tier()) {
            counters.admitted.add(0, 1);
        }
    }

    pub(super) fn count_refusal(&self, label: LimitLabel) {
        if let Some(counters) = self.part(label) {
            counters.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count_shadowed(&self, label: LimitLabel) {
        if let Some(counters) = self.part(label) {
            counters.would_refuse.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count_route(&self, route: &str) {
        let mut routes = self.routes.lock();
        if let Some(count) = routes.get_mut(route) {
            *count += 1;
            return;
        }
        let name = if routes.len() < ROUTES { route } else { "other" };
        *routes.entry(name.into()).or_default() += 1;
    }

    pub(super) fn snapshot(&self, limits: &CompiledLimits, store: LimitStoreStats) -> RateLimitStats {
        let single = if self.first_parts.is_empty() { Some(self.requests.sum(ADMITTED)) } else { None };
        let unmatched_limits = limits.unmatched().map(|(name, _)| name.to_owned()).collect();
        let configured_mode = |label| limits.configured_mode(label);
        let limits = limits.quotas().zip(&self.parts).map(|((label, compiled), (_, counters))| LimitStats {
            name: compiled.name.to_string(),
            quota: compiled.quota.to_string(),
            mode: configured_mode(label),
            admitted: single.map_or_else(
                || counters.admitted.sum(0),
                |admitted| admitted.saturating_sub(counters.would_refuse.load(Ordering::Relaxed)),
            ),
            refused: counters.refused.load(Ordering::Relaxed),
            would_refuse: counters.would_refuse.load(Ordering::Relaxed),
        });
        let routes = self.routes.lock();
        let mut routes: Vec<RouteRefusals> = routes
            .iter()
            .map(|(route, refused)| RouteRefusals { route: route.to_string(), refused: *refused })
            .collect();
        routes.sort_by(|a, b| a.route.cmp(&b.route));
        RateLimitStats {
            mode: Mode::On,
            admitted: self.requests.sum(ADMITTED),
            refused: self.requests.sum(REFUSED),
            denied: self.requests.sum(DENIED),
            degraded: self.requests.sum(DEGRADED),
            limits: limits.collect(),
            concurrency: Vec::new(),
            unmatched_limits,
            routes,
            store,
            remote: None,
        }
    }

    fn part(&self, label: LimitLabel) -> Option<&OutcomeCounters> {
        self.parts.iter().find(|(known, _)| *known == label).map(|(_, counters)| counters)
    }
}
