//! [`CacheStore`]: stores entries.

use std::any::Any;
use std::time::Duration;

use serde::Serialize;

use super::invalidation::Invalidation;
use super::invalidation_sink::InvalidationSink;
use super::lease::{GetOrClaim, Lease, LeaseState};
use super::record::Stored;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::json_units::maybe_millis;
use crate::base::maybe_ready::{self, MaybeReady};
use crate::cache::http::key::CacheKey;

/// Storage backend for entries, in this process or remote.
///
/// The contract is small: the cache compares returned entries with the requested key, checks their deadlines against
/// `now`, and treats any error as a miss. A store may evict entries at any time; it must not return one key's entry for
/// another, and must not return an entry after its removal.
///
/// The first four methods suffice for a store of one process. The others have defaults and serve stores shared by
/// several processes.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
/// use tollgate::cache::{CacheKey, CacheLayer, CacheStore, LevelStats, Stored};
/// use tollgate::{MaybeReady, Error, Timestamp};
///
/// #[derive(Default)]
/// struct Everything(Mutex<HashMap<CacheKey, Stored>>);
///
/// impl CacheStore for Everything {
///     fn get(&self, key: &CacheKey, _now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
///         MaybeReady::Ready(Ok(self.0.lock().unwrap().get(key).cloned()))
///     }
///     fn put(&self, key: &CacheKey, stored: Stored, _now: Timestamp) -> MaybeReady<Result<(), Error>> {
///         self.0.lock().unwrap().insert(key.clone(), stored);
///         MaybeReady::Ready(Ok(()))
///     }
///     fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
///         self.0.lock().unwrap().remove(key);
///         MaybeReady::Ready(Ok(()))
///     }
///     fn stats(&self) -> Vec<LevelStats> {
///         Vec::new()
///     }
/// }
///
/// let layer = CacheLayer::builder().store(Arc::new(Everything::default())).build()?;
/// # let _ = layer;
/// # Ok::<(), Error>(())
/// ```
pub trait CacheStore: Any + Send + Sync {
    /// Returns the value under this key.
    fn get(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>>;

    /// Stores a value under the key, replacing any other.
    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>>;

    /// Whether [`put`](Self::put) keeps a stored value whose fetch began later. Otherwise the cache reads before it puts.
    fn orders_puts(&self) -> bool {
        false
    }

    /// Removes the value under this key.
    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>>;

    /// Returns the statistics of each level, the first level first.
    fn stats(&self) -> Vec<LevelStats>;

    /// Returns the number of values in this process that match, and that of all. Costs a look at each of them. Defaults to
    /// none.
    fn count(&self, _matches: &dyn Fn(&Stored) -> bool) -> (u64, u64) {
        (0, 0)
    }

    /// Returns the values under these keys, in order. A remote store uses one round trip.
    fn get_many(&self, keys: &[CacheKey], now: Timestamp) -> MaybeReady<Result<Vec<Option<Stored>>, Error>> {
        let answers = keys.iter().map(|key| self.get(key, now)).collect();
        maybe_ready::all(answers)
    }

    /// Returns the shared value under this key, bypassing local copies; local levels are updated.
    fn get_shared(&self, _key: &CacheKey, _now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        MaybeReady::Ready(Ok(None))
    }

    /// Asks for a lease: of all processes that ask within its lifetime, one gets it. Best effort: a store without leases
    /// grants all, and so does one that fails.
    fn claim(&self, _lease: &Lease<CacheKey>) -> MaybeReady<LeaseState> {
        MaybeReady::Ready(LeaseState::Granted)
    }

    /// Releases this process's [lease](Self::claim) before it ends. With `uncacheable`, the store answers so to others for
    /// that long.
    fn release(&self, _lease: &Lease<CacheKey>, _uncacheable: Option<Duration>) -> MaybeReady<Result<(), Error>> {
        MaybeReady::Ready(Ok(()))
    }

    /// Returns the shared value under this key; if there is none, asks for the lease in the same round trip, which by
    /// default it does not.
    fn get_or_claim(
        &self,
        key: &CacheKey,
        _lease: &Lease<CacheKey>,
        now: Timestamp,
    ) -> MaybeReady<Result<GetOrClaim<Stored>, Error>> {
        self.get_shared(key, now).map(|found| found.map(GetOrClaim::from))
    }

    /// Stores a value, and releases the lease. A remote store uses one round trip.
    fn put_and_release(
        &self,
        key: &CacheKey,
        stored: Stored,
        lease: &Lease<CacheKey>,
        now: Timestamp,
    ) -> MaybeReady<Result<(), Error>> {
        maybe_ready::both(self.put(key, stored, now), self.release(lease, None), Result::and)
    }

    /// Returns the deadline that the store keeps for each call, if it keeps one. Calls of other stores are dropped after
    /// 250 ms.
    fn deadline(&self) -> Option<Duration> {
        None
    }

    /// Returns how long a level in front may serve a copy of what this store holds without asking it; `None` for as long as
    /// the copy lives, since removals in other processes reach it.
    fn copy_ttl(&self) -> Option<Duration> {
        None
    }

    /// Returns the number of the latest known invalidation, which fetches record when they begin.
    fn generation(&self) -> u64 {
        0
    }

    /// Distributes an invalidation to the processes that share the store. It is effective in this process when the
    /// method returns; the result tells whether the others will receive it.
    fn invalidate(&self, _invalidation: &Invalidation) -> MaybeReady<Result<(), Error>> {
        MaybeReady::Ready(Ok(()))
    }

    /// Removes the entries whose URL matches a pattern (`*`, `?`, `\\`), and returns their number. Scans every entry in
    /// bounded steps: an administrative operation.
    fn sweep(&self, _pattern: &str) -> MaybeReady<Result<u64, Error>> {
        MaybeReady::Ready(Ok(0))
    }

    /// Registers the sink for invalidations of other processes. Called once, when the layer is built.
    fn listen(&self, _listener: InvalidationSink) {}
}

/// Statistics of one level of a store.
///
/// ```
/// use tollgate::cache::LevelStats;
///
/// let mut stats = LevelStats::new("memory");
/// stats.entries = 12;
/// assert!(stats.up);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LevelStats {
    /// Name of the level, such as `memory`; a second one of the same name is `memory-2`.
    pub name: String,
    /// Number of look-ups that it answered.
    #[serde(rename = "hits_total")]
    pub hits: u64,
    /// Number of look-ups that it did not answer; failures included.
    #[serde(rename = "misses_total")]
    pub misses: u64,
    /// Number of calls that failed, timed out, or were not made during an outage.
    #[serde(rename = "errors_total")]
    pub errors: u64,
    /// Median duration of a look-up in a remote level; `None` for fewer than 8 look-ups.
    #[serde(rename = "lookup_p50_ms", serialize_with = "maybe_millis")]
    pub lookup_p50: Option<Duration>,
    /// 99th percentile of these durations.
    #[serde(rename = "lookup_p99_ms", serialize_with = "maybe_millis")]
    pub lookup_p99: Option<Duration>,
    /// Number of values that could not be used: corrupt, foreign, of another version or another key.
    #[serde(rename = "decode_errors_total")]
    pub decode_errors: u64,
    /// Number of values that were not stored because a fetch that began later had been.
    #[serde(rename = "superseded_total")]
    pub superseded: u64,
    /// Number of entries; 0 if unknown.
    pub entries: u64,
    /// Size of the entries in bytes; 0 if unknown.
    pub bytes: u64,
    /// Capacity in bytes; 0 if unbounded or unknown.
    pub capacity_bytes: u64,
    /// Memory in bytes that a level on disk uses for its index.
    pub memory_bytes: u64,
    /// Number of values that were not stored because too many waited to be written.
    #[serde(rename = "dropped_total")]
    pub dropped: u64,
    /// Number of entries evicted to make room, and of entries not admitted because others are requested more often; 0 if
    /// unknown.
    #[serde(rename = "evictions_total")]
    pub evictions: u64,
    /// Whether the level is available. Unavailable levels are skipped.
    pub up: bool,
    /// Number of the latest invalidation received, for shared stores.
    #[serde(rename = "invalidations_received_total")]
    pub invalidations_received: u64,
    /// Number of invalidations not yet delivered to the store.
    pub invalidations_pending: u64,
}

impl LevelStats {
    /// Creates statistics of an available level with all counts zero.
    ///
    /// ```
    /// use tollgate::cache::LevelStats;
    ///
    /// assert_eq!(LevelStats::new("disk").name, "disk");
    /// ```
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), up: true, ..Self::default() }
    }
}
