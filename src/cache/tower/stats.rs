//! [`CacheStats`]: what the cache did, counted per route.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::base::clock::nanos;
use crate::base::detached_context::{self, CacheNote};
use crate::base::event::Once;
use crate::base::lock::RwLock;
use crate::base::mode::Switch;
use crate::cache::data::DataStats;
use crate::cache::engine::fetch_times::FetchTimes;
use crate::cache::engine::store::LevelStats;
use crate::cache::http::reason::Reason;

/// Routes counted apart before the rest is "other".
const MOST_ROUTES: usize = 256;
/// The name the rest goes by.
const OTHER: &str = "other";

/// What a cache did since it was built. Serialises to JSON with durations in seconds.
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
    /// Whether it is on, off, or only looks.
    pub switch: Switch,
    /// Per route: the first 256 by name, all others together as `other`.
    pub routes: BTreeMap<String, RouteStats>,
    /// Per level of the store, the nearest first.
    pub levels: Vec<LevelStats>,
    /// Per namespace of [typed values](crate::cache::Cached) that share it.
    pub data: Vec<DataStats>,
    /// How often the inner service was called.
    pub inner_calls: u64,
    /// How often it was not, because the cache answered.
    pub inner_calls_avoided: u64,
    /// The time those calls would have taken, by the fetches that made the entries.
    #[serde(serialize_with = "in_seconds")]
    pub time_saved: Duration,
    /// Fetches in progress that others wait for or read from. Returns to 0.
    pub fetches_in_flight: u64,
    /// Bytes of bodies that are being read, and of those that clients still read while no entry holds them. Returns to
    /// 0.
    pub in_flight_bytes: u64,
    /// Fetches that no client waits for: refreshes, and those whose client has left. Returns to 0.
    pub orphans: u64,
    /// Patterns of rules that no request has matched: typing mistakes, usually.
    pub unmatched_rules: Vec<String>,
}

/// What the cache did for one route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RouteStats {
    /// Answered from the store, fresh.
    pub hits: u64,
    /// Answered from the store, stale: while revalidating, or because the inner service failed.
    pub stale: u64,
    /// Answered from the store after the inner service said that it was still current.
    pub revalidated: u64,
    /// Fetched from the inner service.
    pub misses: u64,
    /// Answered by a fetch that somebody else had begun.
    pub collapsed: u64,
    /// Fetched although the store could have answered: the cache was [only looking](crate::Switch::Shadow).
    pub shadowed: u64,
    /// Responses kept.
    pub stored: u64,
    /// Requests passed by and responses not kept, by [`Reason`]; under `budget` those that were answered, stale, to
    /// spare
    /// one.
    pub bypassed: BTreeMap<&'static str, u64>,
}

fn in_seconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64())
}

/// One route's counters.
#[derive(Debug)]
pub(crate) struct RouteCounters {
    pub(crate) hits: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) revalidated: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) collapsed: AtomicU64,
    pub(crate) shadowed: AtomicU64,
    pub(crate) stored: AtomicU64,
    /// How long whole fetches took.
    pub(crate) took: FetchTimes,
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
            took: FetchTimes::default(),
            bypassed: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// Counts how a request was answered, and leaves word for whoever times it.
pub(crate) fn answered(counter: &AtomicU64, how: CacheNote) {
    count(counter);
    detached_context::note(|notes| notes.cache = Some(how));
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl RouteCounters {
    pub(crate) fn bypass(&self, reason: Reason) {
        count(&self.bypassed[reason.index()]);
    }

    fn snapshot(&self) -> RouteStats {
        let bypassed = Reason::ALL.iter().map(|reason| (reason.as_str(), read(&self.bypassed[reason.index()])));
        RouteStats {
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

/// One rule's counters: has it matched, has it ever served, has it only bypassed.
#[derive(Debug, Default)]
pub(crate) struct RuleCounters {
    pub(crate) matched: AtomicU64,
    pub(crate) useful: AtomicU64,
    pub(crate) warned: Once,
    pub(crate) undeclared: Once,
}

/// All counters of a cache.
#[derive(Debug, Default)]
pub(crate) struct CacheCounters {
    routes: RwLock<HashMap<Box<str>, Arc<RouteCounters>, foldhash::fast::RandomState>>,
    inner_calls: AtomicU64,
    avoided: AtomicU64,
    saved: AtomicU64,
}

impl CacheCounters {
    /// The counters of the route with this name.
    pub(crate) fn route(&self, name: &str) -> Arc<RouteCounters> {
        if let Some(known) = self.routes.read().get(name) {
            return known.clone();
        }
        let mut routes = self.routes.write();
        let name = if routes.len() >= MOST_ROUTES && !routes.contains_key(name) { OTHER } else { name };
        routes.entry(name.into()).or_default().clone()
    }

    pub(crate) fn called(&self) {
        count(&self.inner_calls);
    }

    /// The inner service was spared a call that would have taken this long.
    pub(crate) fn avoided(&self, took: Duration) {
        count(&self.avoided);
        self.saved.fetch_add(nanos(took), Ordering::Relaxed);
    }

    /// Everything but levels, gauges and rules' names.
    pub(crate) fn snapshot(&self) -> CacheStats {
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
        assert_eq!(stats.routes.len(), MOST_ROUTES + 1);
        assert_eq!(stats.routes[OTHER].hits, 1000 - MOST_ROUTES as u64);
    }
}
