//! [`CollectedLayers`]: the layers of a gate, and what is read from them.

#[cfg(feature = "jobs")]
use std::sync::Arc;
use std::time::Duration;

use super::settings::HealthBuilder;
use crate::base::clock::Timestamp;
use crate::cache::{CacheLayer, CacheStats, Reason};
use crate::health::observed::{
    CachedState, FindingState, LimitState, Observation, QuotaState, StoreState, TargetedState, UncachedState,
};
use crate::health::slo::{percent, span};
use crate::health::targets::{FAST_SHARE, Targets};
use crate::health::timeline::{HitCounts, Timeline};
use crate::health::totals::Totals;
#[cfg(feature = "jobs")]
use crate::jobs::engine::job_engine::JobEngine;
use crate::limit::{RateLimitLayer, RateLimitStats};
use crate::timing::{TimingCounts, TimingLayer};
use crate::upstream::{UpstreamLayer, UpstreamStats};
use crate::{Mode, UNMATCHED};

/// Layers of a gate, and the upstreams that it shows.
#[derive(Clone)]
pub(crate) struct CollectedLayers {
    pub(crate) timing: TimingLayer,
    pub(crate) limit: RateLimitLayer,
    pub(crate) cache: CacheLayer,
    pub(crate) upstreams: Vec<UpstreamLayer>,
    #[cfg(feature = "jobs")]
    pub(crate) jobs: Arc<JobEngine>,
}

/// What was counted since the gate was built.
pub(super) struct Collected {
    pub(super) totals: Totals,
    pub(super) targeted: Vec<HitCounts>,
    timing: TimingCounts,
    cache: CacheStats,
    limit: RateLimitStats,
    upstreams: Vec<UpstreamStats>,
    /// Whether limits refuse all requests while their store is down.
    fails_closed: bool,
}

impl CollectedLayers {
    /// Reads all counters.
    pub(super) fn collect(&self, targets: &Targets) -> Collected {
        let timing = self.timing.counts(targets.latency, targets.query, &targets.routes);
        let (cache, limit) = (self.cache.stats(), self.limit.stats());
        let upstreams: Vec<UpstreamStats> = self.upstreams.iter().map(UpstreamLayer::stats).collect();
        let mut totals = Totals {
            requests: timing.requests,
            errors: timing.errors,
            slow_requests: timing.slow_requests,
            refused: limit.refused,
            queries: timing.queries,
            slow_queries: timing.slow_queries,
            query_time: timing.query_time,
            n_plus_one: timing.n_plus_one,
            avoided: cache.inner_calls_avoided,
            time_saved: cache.time_saved,
            credits: upstreams.iter().map(|upstream| upstream.credits).sum(),
            ..Totals::default()
        };
        for route in cache.routes.values() {
            totals.hits += route.hits + route.stale + route.revalidated + route.collapsed;
            totals.misses += route.misses;
        }
        for data in &cache.data {
            totals.data_hits += data.avoided;
            totals.data_misses += data.misses;
        }
        let hits = targets.hit_ratios.keys().map(|name| hit_counts(&cache, name));
        let targeted = hits.chain(timing.targets.iter().copied()).collect();
        Collected { totals, targeted, timing, cache, limit, upstreams, fails_closed: self.limit.fails_closed() }
    }
}

/// Returns hits and misses of a route or namespace.
fn hit_counts(cache: &CacheStats, name: &str) -> HitCounts {
    let data = cache.data.iter().find(|data| data.name == name).map(|data| (data.avoided, data.misses));
    let route = || {
        let route = cache.routes.get(name)?;
        Some((route.hits + route.stale + route.revalidated + route.collapsed, route.misses))
    };
    data.or_else(route).unwrap_or_default()
}

/// Returns the objectives of single names, in the order in which they are counted.
fn objectives(targets: &Targets) -> Vec<TargetedState> {
    let hits = targets.hit_ratios.iter().map(|(name, target)| TargetedState {
        objective: format!("hits {name}"),
        text: format!("{} of look-ups of {name} are hits", percent(*target)),
        target: *target,
        ..TargetedState::default()
    });
    let latencies = targets.routes.iter().map(|(routes, latency)| {
        let names = routes.entries().join(", ");
        TargetedState {
            objective: format!("latency {names}"),
            text: format!("{} of requests of {names} within {}", percent(FAST_SHARE), span(*latency)),
            target: FAST_SHARE,
            ..TargetedState::default()
        }
    });
    hits.chain(latencies).collect()
}

impl Collected {
    /// 95th percentile of the time to the response head, of the last five minutes.
    pub(super) const fn p95(&self) -> Duration {
        self.timing.p95
    }

    /// Joins the counters with their timeline.
    pub(super) fn observe(
        &self,
        layers: &CollectedLayers,
        settings: &HealthBuilder,
        timeline: &Timeline,
        now: Timestamp,
    ) -> Observation {
        let targets = &settings.targets;
        let targeted = objectives(targets).into_iter().enumerate().map(|(at, objective)| TargetedState {
            recent: timeline.targeted(now, 5, at),
            hour: timeline.targeted(now, 60, at),
            ..objective
        });
        let timing = layers.timing.stats();
        let findings = timing.finding_counts.iter().map(|found| FindingState {
            kind: found.kind.as_str(),
            route: found.route.clone(),
            count: found.count,
            query: timing
                .findings
                .iter()
                .find(|last| last.kind == found.kind && last.route == found.route)
                .and_then(|last| last.query.clone()),
        });
        let cached = self.cached(targets);
        let uncached = timing.routes.iter().filter(|route| {
            let has_rule = cached.iter().any(|known| known.name == route.route);
            !has_rule && route.route != UNMATCHED && route.route != "other"
        });
        let uncached = uncached.map(|route| UncachedState {
            route: route.route.clone(),
            requests: route.requests,
            mean: route.latency.mean,
        });
        Observation {
            recent: timeline.window(now, 5),
            hour: timeline.window(now, 60),
            p95: self.timing.p95,
            query_p95: self.timing.query_p95,
            stores: self.stores(),
            quotas: self.quotas(),
            pools: settings.pools.iter().filter_map(super::probes::PoolProbe::look).collect(),
            targeted: targeted.collect(),
            limits: self.limits(),
            uncached: uncached.collect(),
            unmatched_rules: self.cache.unmatched_rules.clone(),
            findings: findings.collect(),
            #[cfg(feature = "jobs")]
            jobs: layers.jobs.observed(),
            #[cfg(not(feature = "jobs"))]
            jobs: Vec::new(),
            cached,
        }
    }

    fn stores(&self) -> Vec<StoreState> {
        let levels = self.cache.levels.iter().filter(|level| level.name != "memory");
        let levels = levels.map(|level| StoreState {
            name: format!("{} cache", level.name),
            is_up: level.up,
            fails_closed: false,
        });
        let limits = self.limit.remote.iter().map(|remote| StoreState {
            name: remote.store.clone(),
            is_up: remote.up,
            fails_closed: self.fails_closed,
        });
        let credits = self.upstreams.iter().filter_map(|upstream| {
            let name = format!("credits of {}", upstream.upstream);
            Some(StoreState { name, is_up: upstream.store_up?, fails_closed: false })
        });
        levels.chain(limits).chain(credits).collect()
    }

    fn quotas(&self) -> Vec<QuotaState> {
        let windows = self.upstreams.iter().flat_map(|upstream| {
            upstream.windows.iter().chain(&upstream.learned).map(move |window| (&upstream.upstream, window))
        });
        let state = |(upstream, window): (&String, &crate::upstream::WindowStats)| QuotaState {
            upstream: upstream.clone(),
            window: window.window.clone(),
            spent: window.spent,
            limit: window.limit,
            resets_in: window.resets_in,
            exhausted_in: window.exhausted_in,
        };
        windows.map(state).collect()
    }

    fn limits(&self) -> Vec<LimitState> {
        let state = |limit: &crate::limit::LimitStats| LimitState {
            name: limit.name.clone(),
            quota: limit.quota.clone(),
            is_shadow: limit.mode == Mode::Shadow,
            admitted: limit.admitted,
            refused: limit.refused,
            would_refuse: limit.would_refuse,
        };
        self.limit.limits.iter().map(state).collect()
    }

    /// Routes with look-ups that a rule covers, and namespaces.
    fn cached(&self, targets: &Targets) -> Vec<CachedState> {
        let routes = self.cache.routes.iter().map(|(name, route)| {
            let (hits, misses) = hit_counts(&self.cache, name);
            let reason = route.bypassed.iter().max_by_key(|(_, count)| **count);
            let reason = reason.and_then(|(token, count)| {
                let reason = Reason::ALL.iter().find(|reason| reason.as_str() == *token)?;
                Some((*token, reason.remedy(), *count))
            });
            CachedState { name: name.clone(), is_data: false, hits, misses, target: targets.hit_ratio(name), reason }
        });
        let data = self.cache.data.iter().map(|data| CachedState {
            name: data.name.clone(),
            is_data: true,
            hits: data.avoided,
            misses: data.misses,
            target: targets
                .hit_ratios
                .get(&data.name)
                .copied()
                .or(data.target_hit_ratio)
                .unwrap_or_else(|| targets.hit_ratio("")),
            reason: None,
        });
        routes.chain(data).filter(|cached| cached.hits + cached.misses > 0).collect()
    }
}
