//! [`TimingState`]: the counters of one timing layer, shared by all its services.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::harvest_health;
use super::request_log::UNATTRIBUTED;
use super::route_stats::Route;
use super::settings::TimingSettings;
use super::shared::TimingShared;
use crate::base::clock::nanos;
use crate::base::event::Once;
use crate::base::mode::{Mode, ModeCell};
use crate::base::request_head::{RequestHead, RouteKind};
use crate::base::route::{RouteSource, UNMATCHED};
use crate::base::route_matcher::RouteMatcher;
use crate::timing::measure::findings::FindingKind;
use crate::timing::measure::histogram::Histogram;
use crate::timing::measure::stats::{Latency, RouteStats, TimingStats};
use crate::timing::measure::table::NamedCounters;

/// Routes by name, and their shared state.
pub(crate) struct TimingState {
    core: Arc<TimingShared>,
    pub(crate) mode: ModeCell,
    routes: NamedCounters<Arc<Route>>,
    /// Counters of each declared route, by its index.
    patterns: Box<[Arc<Route>]>,
    unmatched: Arc<Route>,
    repeated: Once,
}

impl TimingState {
    pub(crate) fn new(settings: TimingSettings) -> Self {
        // One extra place: unmatched requests neither displace a route nor are displaced.
        let limit = settings.max_routes + 1;
        settings.clock.warm_up();
        if settings.request_spans {
            harvest_health::request_spans();
        }
        let core = Arc::new(TimingShared::new(settings));
        let shared = core.clone();
        let routes = NamedCounters::new(limit, move |name: &str| Arc::new(Route::new(name, shared.clone())));
        let unmatched = routes.of(UNMATCHED).clone();
        let patterns = core.settings().patterns.names().iter().map(|name| routes.of(name).clone()).collect();
        Self { core, mode: ModeCell::default(), routes, patterns, unmatched, repeated: Once::new() }
    }

    /// Warns once that a gate is layered around itself.
    #[cold]
    pub(crate) fn warn_of_repeated_gate(&self) {
        let text = "the same Tollgate is layered twice around a service; the inner one passes requests through: remove \
                    one of the two .layer(gate.layer())";
        self.settings().events.warn_once(&self.repeated, "repeated-gate", text);
    }

    /// Whether requests are measured.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.core.settings().enabled && self.mode.get() != Mode::Off
    }

    /// Whether this request is measured.
    #[inline]
    pub(crate) fn measures(&self, head: &RequestHead<'_>) -> bool {
        self.is_on() && !self.settings().except.as_ref().is_some_and(|except| except.contain(head))
    }

    /// Counts a started request; returns its counters and its route.
    #[inline(always)]
    pub(crate) fn begin(&self, head: &RequestHead<'_>) -> (Arc<Route>, RouteKind) {
        let found = self.core.settings().patterns.determine(head);
        let route = match found {
            RouteSource::Declared(route) => self.patterns.get(route).unwrap_or(&self.unmatched),
            RouteSource::Routed(name) => self.routes.of(name),
            RouteSource::Unknown => &self.unmatched,
        };
        route.begin();
        (route.clone(), found.kind())
    }

    pub(crate) fn settings(&self) -> &TimingSettings {
        self.core.settings()
    }

    pub(crate) fn core(&self) -> &TimingShared {
        &self.core
    }

    /// Returns the counters of all routes, by name.
    pub(crate) fn all_routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.sorted().into_iter().map(|route| &**route)
    }

    /// Returns every route with requests, and its statistics.
    fn routes(&self) -> Vec<(&Route, RouteStats)> {
        let now = self.core.now();
        let all = self.routes.sorted().into_iter().map(|route| (&**route, route.stats(now)));
        all.filter(|(_, stats)| stats.requests > 0).collect()
    }

    /// Returns the counts of all routes and queries together; requests and queries beyond these targets are slow.
    pub(crate) fn counts(
        &self,
        latency: Duration,
        query: Duration,
        targets: &[(RouteMatcher, Duration)],
    ) -> TimingCounts {
        let now = self.core.now();
        let mut counts = TimingCounts { targets: vec![(0, 0); targets.len()], ..TimingCounts::default() };
        let (mut all, mut recent) = (Histogram::default(), Histogram::default());
        for route in self.routes.sorted() {
            let own = route.latency();
            for ((routes, target), (fast, slow)) in targets.iter().zip(&mut counts.targets) {
                if routes.selects_route(route.name()) {
                    let within = own.up_to(nanos(*target));
                    (*fast, *slow) = (*fast + within, *slow + own.count() - within);
                }
            }
            all.merge(&own);
            recent.merge(&route.recent(now, RECENT));
            counts.errors += route.errors();
        }
        let (queries, recent_queries) = self.core.all_queries(now, RECENT);
        (counts.requests, counts.slow_requests) = (all.count(), all.count() - all.up_to(nanos(latency)));
        counts.p95 = Duration::from_nanos(recent.percentile(950));
        (counts.queries, counts.slow_queries) = (queries.count(), queries.count() - queries.up_to(nanos(query)));
        counts.query_time = Duration::from_nanos(queries.sum());
        counts.query_p95 = Duration::from_nanos(recent_queries.percentile(950));
        let found = self.core.findings().1.into_iter().filter(|found| found.kind == FindingKind::NPlusOne);
        counts.n_plus_one = found.map(|found| found.count).sum();
        counts
    }

    pub(crate) fn stats(&self) -> TimingStats {
        self.core.report_pending();
        harvest_health::check(self.core.settings());
        let now = self.core.now();
        let mut all = Histogram::default();
        let mut routes = Vec::new();
        for (route, stats) in self.routes() {
            all.merge(&route.latency());
            routes.push(stats);
        }
        let (findings, finding_counts) = self.core.findings();
        let slow = self.core.slow();
        TimingStats {
            mode: if self.settings().enabled { self.mode.get() } else { Mode::Off },
            requests: routes.iter().map(|route| route.requests).sum(),
            in_flight: routes.iter().map(|route| route.in_flight).sum(),
            latency: Latency::of(&all),
            routes,
            queries: self.core.query_stats(now),
            upstreams: self.core.upstream_stats(now),
            pool: self.core.pool_stats(now),
            unattributed: UNATTRIBUTED.reading(),
            harvest: harvest_health::state(),
            findings,
            finding_counts,
            slow_recent: slow.recent(),
            slowest: slow.slowest(),
        }
    }
}

/// Counts of all routes and queries together, since the layer was built. Percentiles are those of five minutes.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimingCounts {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) slow_requests: u64,
    pub(crate) p95: Duration,
    pub(crate) queries: u64,
    pub(crate) slow_queries: u64,
    pub(crate) query_time: Duration,
    pub(crate) query_p95: Duration,
    pub(crate) n_plus_one: u64,
    /// Requests within and beyond the latency of each target.
    pub(crate) targets: Vec<(u64, u64)>,
}

/// Window of recent percentiles.
const RECENT: Duration = Duration::from_secs(300);

impl fmt::Debug for TimingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimingState").field("settings", self.core.settings()).finish_non_exhaustive()
    }
}
