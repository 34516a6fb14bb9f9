//! [`State`]: everything one timing layer counts, shared by all its services.

use std::fmt;
use std::sync::Arc;

use super::histogram::Histogram;
use super::layer::Settings;
use super::route::{Core, Route};
use super::scope::UNATTRIBUTED;
use super::stats::{Latency, TimingStats};
use super::table::Table;
use crate::head::RequestHead;
use crate::route::UNMATCHED;

/// The routes by name, and what they share.
pub(super) struct State {
    core: Arc<Core>,
    routes: Table<Arc<Route>>,
    /// The route of each of our own patterns, by the pattern's place among them.
    patterns: Box<[Arc<Route>]>,
    unmatched: Arc<Route>,
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        // One place more than asked for: unmatched requests never push a route out, nor are pushed out.
        let limit = settings.max_routes + 1;
        let core = Arc::new(Core::new(settings));
        let shared = core.clone();
        let routes = Table::new(limit, move |name: &str| Arc::new(Route::new(name, shared.clone())));
        let unmatched = routes.of(UNMATCHED).clone();
        let patterns = core.settings().patterns.names().iter().map(|name| routes.of(name).clone()).collect();
        Self { core, routes, patterns, unmatched }
    }

    /// Counts a request in; its route, or nothing where the layer is not enabled.
    pub(super) fn begin(&self, head: &RequestHead<'_>) -> Option<Arc<Route>> {
        let settings = self.core.settings();
        if !settings.enabled {
            return None;
        }
        let route = match head.matched_path() {
            Some(name) => self.routes.of(name),
            None if self.patterns.is_empty() => &self.unmatched,
            None => {
                let pattern = settings.patterns.at(head.uri().path());
                pattern.and_then(|pattern| self.patterns.get(pattern)).unwrap_or(&self.unmatched)
            }
        };
        route.begin();
        Some(route.clone())
    }

    pub(super) fn stats(&self) -> TimingStats {
        let all = Histogram::new();
        let mut routes = Vec::new();
        for route in self.routes.sorted() {
            all.merge(route.latency());
            routes.push(route.stats());
        }
        routes.retain(|route| route.requests > 0);
        let slow = self.core.slow();
        TimingStats {
            requests: routes.iter().map(|route| route.requests).sum(),
            in_flight: routes.iter().map(|route| route.in_flight).sum(),
            latency: Latency::of(&all),
            routes,
            queries: self.core.query_stats(),
            unattributed: UNATTRIBUTED.reading(),
            slow_recent: slow.recent(),
            slowest: slow.slowest(),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("settings", self.core.settings()).finish_non_exhaustive()
    }
}
