//! [`DataStats`]: what a namespace did.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::base::clock::nanos;
use crate::base::sharded_counter::ShardedCounter;

/// What one namespace of typed values did since it was built. Serialises to JSON with durations in milliseconds.
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
    /// The namespace.
    pub name: String,
    /// Look-ups answered by a fresh value.
    pub hits: u64,
    /// Look-ups answered by a stale one: while it was refreshed, because a load failed or took long, or to spare a
    /// budget.
    pub stale: u64,
    /// Of these, to spare a budget.
    pub spared: u64,
    /// Look-ups answered by the load of somebody else.
    pub collapsed: u64,
    /// Look-ups that had to load, or found nothing where nothing was to be loaded.
    pub misses: u64,
    /// Loads, also those in the background.
    pub loads: u64,
    /// Loads that failed or panicked.
    pub errors: u64,
    /// Callers whose load took longer than the hard time-out, with nothing stale to stand in.
    pub timed_out: u64,
    /// Values that could not be read or written: of another version or type, damaged, or not for postcard.
    pub decode_errors: u64,
    /// Loads that look-ups did not need: hits, stale and collapsed ones.
    pub avoided: u64,
    /// The share of look-ups that needed no load, 0 to 1; 0 where there were none.
    pub hit_ratio: f64,
    /// What that share is meant to be.
    pub target_hit_ratio: Option<f64>,
    /// How long loads took, in the mean.
    #[serde(rename = "mean_load_ms", serialize_with = "millis")]
    pub mean_load: Duration,
    /// The time that avoided loads would have taken.
    #[serde(rename = "time_saved_ms", serialize_with = "millis")]
    pub time_saved: Duration,
    /// Loads in progress that others wait for. Returns to 0.
    pub fetches_in_flight: u64,
}

impl DataStats {
    /// Whether fewer look-ups than meant are answered without a load; `false` before a hundred were made.
    #[must_use]
    pub fn is_below_target(&self) -> bool {
        let asked = self.avoided + self.misses;
        asked >= 100 && self.target_hit_ratio.is_some_and(|target| self.hit_ratio < target)
    }
}

fn millis<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64() * 1e3)
}

/// What every hit counts.
#[derive(Clone, Copy)]
enum HitCounters {
    Hits,
    Stale,
    Collapsed,
    Saved,
}

/// A namespace's counters.
#[derive(Debug, Default)]
pub(crate) struct NamespaceCounters {
    often: ShardedCounter<4>,
    spared: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) decode_errors: AtomicU64,
    loads: AtomicU64,
    loading: AtomicU64,
}

impl NamespaceCounters {
    /// A look-up was answered by a fresh value that took this long to load.
    #[inline]
    pub(crate) fn hit(&self, took: Duration) {
        self.avoided(HitCounters::Hits, took);
    }

    /// By a stale one.
    pub(crate) fn stale(&self, took: Duration) {
        self.avoided(HitCounters::Stale, took);
    }

    /// By an expired one, to spare a budget.
    pub(crate) fn spared(&self, took: Duration) {
        count(&self.spared);
        self.stale(took);
    }

    /// By somebody else's load.
    pub(crate) fn collapsed(&self, took: Duration) {
        self.avoided(HitCounters::Collapsed, took);
    }

    #[inline]
    fn avoided(&self, how: HitCounters, took: Duration) {
        self.often.add(how as usize, 1);
        self.often.add(HitCounters::Saved as usize, nanos(took));
    }

    /// A load took this long.
    pub(crate) fn loaded(&self, took: Duration) {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.loading.fetch_add(nanos(took), Ordering::Relaxed);
    }

    /// Everything but names and gauges.
    pub(crate) fn snapshot(&self) -> DataStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let often = |how: HitCounters| self.often.sum(how as usize);
        let (hits, stale, collapsed) =
            (often(HitCounters::Hits), often(HitCounters::Stale), often(HitCounters::Collapsed));
        let (avoided, misses, loads) = (hits + stale + collapsed, read(&self.misses), read(&self.loads));
        DataStats {
            hits,
            stale,
            spared: read(&self.spared),
            collapsed,
            misses,
            loads,
            errors: read(&self.errors),
            timed_out: read(&self.timed_out),
            decode_errors: read(&self.decode_errors),
            avoided,
            hit_ratio: if avoided == 0 { 0.0 } else { avoided as f64 / (avoided + misses) as f64 },
            mean_load: Duration::from_nanos(read(&self.loading).checked_div(loads).unwrap_or_default()),
            time_saved: Duration::from_nanos(often(HitCounters::Saved)),
            ..DataStats::default()
        }
    }
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
