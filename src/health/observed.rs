//! [`Observation`]: what a gate has counted, and the state that it is in.

use std::time::Duration;

use super::totals::{Totals, share};

/// Counts and state of a gate at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observation {
    /// The last five minutes.
    pub(crate) recent: Totals,
    /// The last hour.
    pub(crate) hour: Totals,
    /// 95th percentile of the time to the response head, of the last five minutes.
    pub(crate) p95: Duration,
    /// 95th percentile of the queries of the last five minutes.
    pub(crate) query_p95: Duration,
    pub(crate) stores: Vec<StoreState>,
    pub(crate) quotas: Vec<QuotaState>,
    pub(crate) pools: Vec<PoolState>,
    /// Routes that a cache rule covers, and namespaces of typed values.
    pub(crate) cached: Vec<CachedState>,
    /// Names with an objective of their own.
    pub(crate) targeted: Vec<TargetedState>,
    pub(crate) limits: Vec<LimitState>,
    /// Routes of GET requests that nothing caches.
    pub(crate) uncached: Vec<UncachedState>,
    /// Cache rules without a matching request.
    pub(crate) unmatched_rules: Vec<String>,
    /// Routes with findings.
    pub(crate) findings: Vec<FindingState>,
    pub(crate) jobs: Vec<ObservedJob>,
}

/// A job.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObservedJob {
    pub(crate) name: String,
    /// Attempts that failed since the last success.
    pub(crate) failed_in_a_row: u64,
    /// Result or error of the last attempt.
    pub(crate) text: String,
}

impl ObservedJob {
    /// Whether it fails repeatedly.
    pub(crate) const fn fails(&self) -> bool {
        self.failed_in_a_row >= super::targets::JOB_FAILURES
    }
}

/// Shared store, of limits, credits or a level of the cache.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreState {
    pub(crate) name: String,
    pub(crate) is_up: bool,
    /// Whether requests are refused while it is down.
    pub(crate) fails_closed: bool,
}

impl StoreState {
    /// Says what its outage means.
    pub(crate) const fn outage(&self) -> &'static str {
        if self.fails_closed { "unavailable: requests are refused" } else { "unavailable: failing open" }
    }
}

/// Window of an upstream's quota.
#[derive(Clone, Debug, Default)]
pub(crate) struct QuotaState {
    pub(crate) upstream: String,
    pub(crate) window: String,
    pub(crate) spent: u64,
    pub(crate) limit: u64,
    pub(crate) resets_in: Duration,
    pub(crate) exhausted_in: Option<Duration>,
}

impl QuotaState {
    /// Used share; 0 of an unlimited quota.
    pub(crate) fn used(&self) -> f64 {
        share(self.spent, self.limit).unwrap_or(0.0)
    }
}

/// Pool of database connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolState {
    pub(crate) name: String,
    pub(crate) in_use: u32,
    pub(crate) size: u32,
}

impl PoolState {
    pub(crate) fn used(&self) -> f64 {
        share(u64::from(self.in_use), u64::from(self.size)).unwrap_or(0.0)
    }
}

/// Route with a cache rule, or namespace of typed values, since the gate was built.
#[derive(Clone, Debug, Default)]
pub(crate) struct CachedState {
    pub(crate) name: String,
    pub(crate) is_data: bool,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) target: f64,
    /// The most frequent reason of responses that were not served from the cache, its remedy, and its count.
    pub(crate) reason: Option<(&'static str, &'static str, u64)>,
}

impl CachedState {
    pub(crate) fn hit_ratio(&self) -> Option<f64> {
        share(self.hits, self.hits + self.misses)
    }
}

/// Name with an objective of its own: a hit ratio, or the time of its requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct TargetedState {
    /// Name of the objective.
    pub(crate) objective: String,
    pub(crate) text: String,
    /// Share that must be good.
    pub(crate) target: f64,
    /// Good and bad samples of the last five minutes.
    pub(crate) recent: (u64, u64),
    /// Good and bad samples of the last hour.
    pub(crate) hour: (u64, u64),
}

/// Limit or tier, since the gate was built.
#[derive(Clone, Debug, Default)]
pub(crate) struct LimitState {
    pub(crate) name: String,
    pub(crate) quota: String,
    pub(crate) is_shadow: bool,
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    pub(crate) would_refuse: u64,
}

/// Route that nothing caches.
#[derive(Clone, Debug, Default)]
pub(crate) struct UncachedState {
    pub(crate) route: String,
    pub(crate) requests: u64,
    pub(crate) mean: Duration,
}

/// Findings of one kind on one route.
#[derive(Clone, Debug, Default)]
pub(crate) struct FindingState {
    pub(crate) kind: &'static str,
    pub(crate) route: String,
    pub(crate) count: u64,
    /// The query of the last one.
    pub(crate) query: Option<String>,
}
