//! [`CacheStats`]: statistics of a cache, by route.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;

use crate::base::clock::nanos;
use crate::base::detached_context::{self, CacheNote};
use crate::base::event::Once;
use crate::base::json_units::millis;
use crate::base::lock::RwLock;
use crate::base::mode::Mode;
use crate::base::route::UNMATCHED;
use crate::cache::data::DataStats;
use crate::cache::engine::fetch_times::FetchTimes;
use crate::cache::engine::storable_routes::StorableUntil;
use crate::cache::engine::store::LevelStats;
use crate::cache::http::reason::Reason;

/// Maximum number of routes with separate counts.
const MAX_ROUTES: usize = 256;
/// Name of the counts of all other routes.
const OTHER: &str = "other";

/// Statistics of a cache since it was built. Serializes to JSON with units in its keys.
///
/// ```
/// use tollgate::cache::CacheLayer;
///
/// let stats = CacheLayer::in_memory(1 << 20).stats();
/// assert_eq!(stats.inner_calls, 0);
/// assert_eq!(stats.levels[0].capacity_bytes, 1 << 20);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CacheStats {
    /// Mode: on, off or shadow.
    pub mode: Mode,
    /// By route: the first 256 by name, all others together as `other`.
    pub routes: BTreeMap<String, CacheRouteStats>,
    /// By level of the store, the first level first.
    pub levels: Vec<LevelStats>,
    /// By namespace of [typed values](crate::cache::Cached) in the same store.
    pub data: Vec<DataStats>,
    /// Number of calls of the inner service.
    #[serde(rename = "inner_calls_total")]
    pub inner_calls: u64,
    /// Number of calls avoided by serving from the cache.
    #[serde(rename = "inner_calls_avoided_total")]
    pub inner_calls_avoided: u64,
    /// Estimated duration of the avoided calls, from the fetches that created the entries.
    #[serde(rename = "time_saved_ms", serialize_with = "millis")]
    pub time_saved: Duration,
    /// Shared fetches in progress. Returns to 0.
    pub fetches_in_flight: u64,
    /// Bytes of bodies being read, and of evicted bodies that clients still read. Returns to 0.
    pub in_flight_bytes: u64,
    /// Fetches without a client: refreshes, and those whose client has left. Returns to 0.
    pub background_fetches: u64,
    /// Patterns of rules that no request has matched, which usually indicates a typing mistake.
    pub unmatched_rules: Vec<String>,
}

/// Statistics of one route.
///
/// ```
/// use tollgate::cache::CacheLayer;
///
/// let stats = CacheLayer::in_memory(1 << 20).stats();
/// assert!(stats.routes.get("/prices/{symbol}").is_none_or(|route| route.hits == 0));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheRouteStats {
    /// Served from the store, fresh.
    #[serde(rename = "hits_total")]
    pub hits: u64,
    /// Served from the store, stale: during a revalidation, or because the inner service failed.
    #[serde(rename = "stale_total")]
    pub stale: u64,
    /// Served from the store after a successful revalidation.
    #[serde(rename = "revalidated_total")]
    pub revalidated: u64,
    /// Fetched from the inner service: a rule covers the request, or the response could be stored.
    #[serde(rename = "misses_total")]
    pub misses: u64,
    /// Served by another request's fetch.
    #[serde(rename = "collapsed_total")]
    pub collapsed: u64,
    /// Fetched although the store had a usable entry, in [shadow mode](crate::Mode::Shadow).
    #[serde(rename = "shadowed_total")]
    pub shadowed: u64,
    /// Responses stored.
    #[serde(rename = "stored_total")]
    pub stored: u64,
    /// Requests that bypassed the cache and responses not stored, by [`Reason`]; `budget` counts stale responses served
    /// to save one.
    #[serde(rename = "bypassed_total")]
    pub bypassed: BTreeMap<&'static str, u64>,
}

/// Counters of one route.
#[derive(Debug)]
pub(super) struct RouteCounters {
    pub(super) hits: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) revalidated: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) collapsed: AtomicU64,
    pub(super) shadowed: AtomicU64,
    pub(super) stored: AtomicU64,
    /// Durations of whole fetches.
    pub(super) fetch_times: FetchTimes,
    /// Whether several routes share these counters.
    is_collective: bool,
    storable_until: StorableUntil,
    bypassed: [AtomicU64; Reason::COUNT],
}

impl Default for RouteCounters {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            hits: zero(),
            stale: zero(),
            revalidated: zero(),
            misses: zero(),
            collapsed: zero(),
            shadowed: zero(),
            stored: zero(),
            fetch_times: FetchTimes::default(),
            is_collective: false,
            storable_until: StorableUntil::default(),
            bypassed: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// Counts the outcome of a request, and annotates it for the timing layer.
pub(super) fn record_outcome(counter: &AtomicU64, how: CacheNote) {
    count(counter);
    detached_context::note(|notes| notes.cache = Some(how));
}

/// Increments a counter.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl RouteCounters {
    /// Creates the counters of the route or routes with this name.
    fn of(name: &str) -> Self {
        Self { is_collective: name == UNMATCHED || name == OTHER, ..Self::default() }
    }

    /// Returns until when responses of the route count as storable; `None` for several routes.
    pub(super) fn storable_until(&self) -> Option<&StorableUntil> {
        (!self.is_collective).then_some(&self.storable_until)
    }

    pub(super) fn bypass(&self, reason: Reason) {
        count(&self.bypassed[reason.index()]);
    }

    fn snapshot(&self) -> CacheRouteStats {
        let bypassed = Reason::ALL.iter().map(|reason| (reason.as_str(), read(&self.bypassed[reason.index()])));
        CacheRouteStats {
            hits: read(&self.hits),
            stale: read(&self.stale),
            revalidated: read(&self.revalidated),
            misses: read(&self.misses),
            collapsed: read(&self.collapsed),
            shadowed: read(&self.shadowed),
            stored: read(&self.stored),
            bypassed: bypassed.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

/// Counters of one rule: whether it has matched, has served, and how often it bypassed.
#[derive(Debug, Default)]
pub(super) struct RuleCounters {
    pub(super) matched: AtomicU64,
    pub(super) mark_useful: AtomicU64,
    pub(super) warned: Once,
    pub(super) undeclared: Once,
    /// The counters of the route that the rule names, once a request has matched it.
    pub(super) route: OnceLock<Arc<RouteCounters>>,
}

/// Counters of a cache.
#[derive(Debug, Default)]
pub(super) struct CacheCounters {
    routes: RwLock<HashMap<Box<str>, Arc<RouteCounters>, foldhash::fast::RandomState>>,
    inner_calls: AtomicU64,
    avoided: AtomicU64,
    saved: AtomicU64,
}

impl CacheCounters {
    /// Returns the counters of the route with this name.
    pub(super) fn route(&self, name: &str) -> Arc<RouteCounters> {
        if let Some(known) = self.routes.read().get(name) {
            return known.clone();
        }
        let mut routes = self.routes.write();
        let name = if routes.len() >= MAX_ROUTES && !routes.contains_key(name) { OTHER } else { name };
        routes.entry(name.into()).or_insert_with(|| Arc::new(RouteCounters::of(name))).clone()
    }

    pub(super) fn called(&self) {
        count(&self.inner_calls);
    }

    /// Counts an avoided call of the inner service and its estimated duration.
    pub(super) fn avoided(&self, took: Duration) {
        count(&self.avoided);
        self.saved.fetch_add(nanos(took), Ordering::Relaxed);
    }

    /// Returns all counts; levels, gauges and rule names are left to the caller.
    pub(super) fn snapshot(&self) -> CacheStats {
        let routes = self.routes.read();
        CacheStats {
            routes: routes.iter().map(|(name, route)| (name.to_string(), route.snapshot())).collect(),
            inner_calls: read(&self.inner_calls),
            inner_calls_avoided: read(&self.avoided),
            time_saved: Duration::from_nanos(read(&self.saved)),
            ..CacheStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_beyond_the_bound_share_one_name() {
        let counters = CacheCounters::default();
        for n in 0..1000 {
            count(&counters.route(&format!("/{n}")).hits);
        }
        let stats = counters.snapshot();
        assert_eq!(stats.routes.len(), MAX_ROUTES + 1);
        assert_eq!(stats.routes[OTHER].hits, 1000 - MAX_ROUTES as u64);
    }
}
