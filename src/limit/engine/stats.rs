//! Counters, and what `stats()` makes of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::store::{LimitStoreStats, RemoteStats};
use crate::base::lock::Mutex;
use crate::base::mode::Switch;
use crate::base::sharded_counter::ShardedCounter;
use crate::limit::policy::compiled::CompiledLimits;
use crate::limit::policy::decision::LimitLabel;

/// Routes counted by name; those beyond share `"other"`.
const ROUTES: usize = 256;

/// Statistics of a rate-limit layer since it was built.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RateLimitStats {
    /// Whether they are on, off, or only look.
    pub switch: Switch,
    /// Requests admitted.
    pub admitted: u64,
    /// Requests refused.
    pub refused: u64,
    /// Decisions made without the store that should have made them.
    pub degraded: u64,
    /// Per limit and tier, in the order they were given.
    pub limits: Vec<LimitStats>,
    /// Refusals per matched route.
    pub routes: Vec<RouteRefusals>,
    /// Statistics of the store.
    pub store: LimitStoreStats,
    /// How the store that a fleet shares is doing, where there is one.
    pub remote: Option<RemoteStats>,
}

/// Statistics of one limit, or of one of its tiers.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct LimitStats {
    /// The limit's name; for tiers, the tier's.
    pub name: String,
    /// Its quota, such as `100/min`.
    pub quota: String,
    /// Requests it refused.
    pub refused: u64,
    /// Requests it would have refused, were it not in dry-run.
    pub would_refuse: u64,
}

/// Refusals on one route.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RouteRefusals {
    /// The matched route, `"unmatched"`, or `"other"`.
    pub route: String,
    /// Requests refused there.
    pub refused: u64,
}

const ADMITTED: usize = 0;
const REFUSED: usize = 1;
const DEGRADED: usize = 2;

#[derive(Debug)]
pub(crate) struct LimitCounters {
    /// By [`ADMITTED`], [`REFUSED`] and [`DEGRADED`].
    requests: ShardedCounter<3>,
    terms: Vec<(LimitLabel, TermCounters)>,
    routes: Mutex<HashMap<Box<str>, u64, foldhash::fast::RandomState>>,
}

#[derive(Debug, Default)]
struct TermCounters {
    refused: AtomicU64,
    would_refuse: AtomicU64,
}

impl LimitCounters {
    pub(crate) fn new(plan: &CompiledLimits) -> Self {
        let terms = plan.offers().map(|(label, _)| (label, TermCounters::default())).collect();
        Self { requests: ShardedCounter::default(), terms, routes: Mutex::default() }
    }

    pub(crate) fn count(&self, admits: bool, degraded: bool) {
        self.requests.add(if admits { ADMITTED } else { REFUSED }, 1);
        if degraded {
            self.requests.add(DEGRADED, 1);
        }
    }

    pub(crate) fn count_refusal(&self, label: LimitLabel) {
        if let Some(counters) = self.term(label) {
            counters.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_dry(&self, label: LimitLabel) {
        if let Some(counters) = self.term(label) {
            counters.would_refuse.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_route(&self, route: &str) {
        let mut routes = self.routes.lock();
        if let Some(count) = routes.get_mut(route) {
            *count += 1;
            return;
        }
        let name = if routes.len() < ROUTES { route } else { "other" };
        *routes.entry(name.into()).or_default() += 1;
    }

    pub(crate) fn snapshot(&self, plan: &CompiledLimits, store: LimitStoreStats) -> RateLimitStats {
        let limits = plan.offers().zip(&self.terms).map(|((_, offer), (_, counters))| LimitStats {
            name: offer.name.to_string(),
            quota: offer.quota.to_string(),
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
            switch: Switch::On,
            admitted: self.requests.sum(ADMITTED),
            refused: self.requests.sum(REFUSED),
            degraded: self.requests.sum(DEGRADED),
            limits: limits.collect(),
            routes,
            store,
            remote: None,
        }
    }

    fn term(&self, label: LimitLabel) -> Option<&TermCounters> {
        self.terms.iter().find(|(known, _)| *known == label).map(|(_, counters)| counters)
    }
}
