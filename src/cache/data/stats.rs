//! [`DataStats`]: statistics of a namespace.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::base::clock::nanos;
use crate::base::json_units::millis;
use crate::base::sharded_counter::ShardedCounter;

/// Statistics of one namespace of typed values since it was built. Serializes to JSON with durations in milliseconds.
///
/// ```
/// use std::time::Duration;
/// use tollgate::cache::{Cached, DataCache};
///
/// let repositories: Cached<String> = DataCache::in_memory(1 << 20)
///     .cached("github").ttl(Duration::from_secs(900)).target_hit_ratio(0.95).build()?;
/// let stats = repositories.stats();
/// assert_eq!((stats.hits, stats.target_hit_ratio), (0, Some(0.95)));
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DataStats {
    /// Name of the namespace.
    pub name: String,
    /// Look-ups served by a fresh value.
    #[serde(rename = "hits_total")]
    pub hits: u64,
    /// Look-ups served by a stale value: during a refresh, after a failed or slow load, or to save a budget.
    #[serde(rename = "stale_total")]
    pub stale: u64,
    /// Those of `stale` that saved a budget.
    #[serde(rename = "budget_stretched_total")]
    pub budget_stretched: u64,
    /// Look-ups served by another caller's load.
    #[serde(rename = "collapsed_total")]
    pub collapsed: u64,
    /// Look-ups that loaded, or found nothing without loading.
    #[serde(rename = "misses_total")]
    pub misses: u64,
    /// Loads, including background refreshes.
    #[serde(rename = "loads_total")]
    pub loads: u64,
    /// Loads that failed or panicked.
    #[serde(rename = "errors_total")]
    pub errors: u64,
    /// Callers that exceeded the hard timeout without a stale value to serve.
    #[serde(rename = "timed_out_total")]
    pub timed_out: u64,
    /// Values that could not be encoded for other processes, and stay in this one.
    #[serde(rename = "encode_errors_total")]
    pub encode_errors: u64,
    /// Values of other processes that could not be decoded: another version or type, or corrupt.
    #[serde(rename = "decode_errors_total")]
    pub decode_errors: u64,
    /// Loads avoided: hits, stale and collapsed look-ups.
    #[serde(rename = "avoided_total")]
    pub avoided: u64,
    /// Share of look-ups without a load, 0 to 1; 0 before the first.
    pub hit_ratio: f64,
    /// Configured target of `hit_ratio`.
    pub target_hit_ratio: Option<f64>,
    /// Mean duration of loads.
    #[serde(rename = "mean_load_ms", serialize_with = "millis")]
    pub mean_load: Duration,
    /// Estimated duration of the avoided loads.
    #[serde(rename = "time_saved_ms", serialize_with = "millis")]
    pub time_saved: Duration,
    /// Shared loads in progress. Returns to 0.
    pub fetches_in_flight: u64,
}

impl DataStats {
    /// Whether the hit ratio is below its target; `false` for fewer than a hundred look-ups.
    ///
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// let users: Cached<String> =
    ///     DataCache::in_memory(1 << 20).cached("users").target_hit_ratio(0.95).build()?;
    /// assert!(!users.stats().is_below_target());
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn is_below_target(&self) -> bool {
        let lookups = self.avoided + self.misses;
        lookups >= 100 && self.target_hit_ratio.is_some_and(|target| self.hit_ratio < target)
    }
}

/// Counters that every hit increments.
#[derive(Clone, Copy)]
enum HitCounters {
    Hits,
    Stale,
    Collapsed,
    Saved,
}

/// Counters of a namespace.
#[derive(Debug, Default)]
pub(super) struct NamespaceCounters {
    often: ShardedCounter<4>,
    budget_stretched: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) encode_errors: AtomicU64,
    pub(super) decode_errors: AtomicU64,
    loads: AtomicU64,
    loading: AtomicU64,
}

impl NamespaceCounters {
    /// Counts a look-up served by a fresh value that took this long to load.
    #[inline]
    pub(super) fn hit(&self, took: Duration) {
        self.avoided(HitCounters::Hits, took);
    }

    /// Counts a look-up served by a stale value.
    pub(super) fn stale(&self, took: Duration) {
        self.avoided(HitCounters::Stale, took);
    }

    /// Counts a look-up served by an expired value, to save a budget.
    pub(super) fn budget_stretched(&self, took: Duration) {
        count(&self.budget_stretched);
        self.stale(took);
    }

    /// Counts a look-up served by another caller's load.
    pub(super) fn collapsed(&self, took: Duration) {
        self.avoided(HitCounters::Collapsed, took);
    }

    #[inline]
    fn avoided(&self, how: HitCounters, took: Duration) {
        self.often.add(how as usize, 1);
        self.often.add(HitCounters::Saved as usize, nanos(took));
    }

    /// Records the duration of a load.
    pub(super) fn loaded(&self, took: Duration) {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.loading.fetch_add(nanos(took), Ordering::Relaxed);
    }

    /// Returns all counts; names and gauges are left to the caller.
    pub(super) fn snapshot(&self) -> DataStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let often = |how: HitCounters| self.often.sum(how as usize);
        let (hits, stale, collapsed) =
            (often(HitCounters::Hits), often(HitCounters::Stale), often(HitCounters::Collapsed));
        let (avoided, misses, loads) = (hits + stale + collapsed, read(&self.misses), read(&self.loads));
        DataStats {
            hits,
            stale,
            budget_stretched: read(&self.budget_stretched),
            collapsed,
            misses,
            loads,
            errors: read(&self.errors),
            timed_out: read(&self.timed_out),
            encode_errors: read(&self.encode_errors),
            decode_errors: read(&self.decode_errors),
            avoided,
            hit_ratio: if avoided == 0 { 0.0 } else { avoided as f64 / (avoided + misses) as f64 },
            mean_load: Duration::from_nanos(read(&self.loading).checked_div(loads).unwrap_or_default()),
            time_saved: Duration::from_nanos(often(HitCounters::Saved)),
            ..DataStats::default()
        }
    }
}

/// Increments a counter.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
