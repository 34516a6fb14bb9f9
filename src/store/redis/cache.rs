//! Cache engine in Redis, shared by several processes behind the memory of each.
//!
//! | operation | command | while Redis is unavailable |
//! |---|---|---|
//! | look-up | `GET`, or `MGET` for several | a miss |
//! | storing | `SET … PX` with the remaining lifetime | an error; `Levels` keeps the entry in memory |
//! | removal | `UNLINK`, then `PUBLISH` | effective in this process |
//! | lease of a refresh | `SET … NX PX` | granted: each process refreshes by itself |
//! | release of a lease | `UNLINK` | expires |
//!
//! Keys are keyed hashes; values carry a checksum and the full key. Entries are compared with the invalidations since
//! their fetch began, in whichever process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::cmd;

use super::backplane::Backplane;
use super::connect::Conn;
use super::settings::Redis;
use super::sweep;
use crate::base::clock::{Timestamp, nanos};
use crate::base::error::Error;
use crate::base::event::{Event, Events};
use crate::base::maybe_ready::MaybeReady;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::codec::{self, DecodeError};
use crate::cache::{CacheKey, CacheStore, Invalidation, InvalidationSink, LevelStats, Stored};

/// Lifetime of a variant index after the last update.
const INDEX_TTL: Duration = Duration::from_secs(86_400);
/// Upper bound of a lifetime.
const MAX_TTL: Duration = Duration::from_secs(365 * 86_400);
const MIB: usize = 1 << 20;

/// Cache store in a Redis shared by a fleet, to be used behind a local memory.
/// [`TollgateBuilder::redis`](crate::TollgateBuilder::redis) configures it; manually:
///
/// ```
/// use std::sync::Arc;
/// use tollgate::cache::{CacheLayer, Levels};
/// use tollgate::store::memory::MemoryCache;
/// use tollgate::store::redis::{Redis, RedisCache};
///
/// let redis = RedisCache::new(Redis::new("redis://127.0.0.1")?)?;
/// let levels = Levels::new(Arc::new(MemoryCache::new(64 << 20)), Arc::new(redis));
/// let layer = CacheLayer::builder().store(Arc::new(levels)).build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
///
/// A store serves one layer, to which it passes the invalidations of other processes.
pub struct RedisCache {
    shared: Arc<Shared>,
}

struct Shared {
    backplane: Arc<Backplane>,
    max_entry: usize,
    compress_over: usize,
    hits: AtomicU64,
    decode_errors: AtomicU64,
}

impl RedisCache {
    /// Creates a store; connects on first use.
    ///
    /// # Errors
    /// If a setting is invalid: see [`Redis`].
    ///
    /// # Examples
    /// ```
    /// use tollgate::store::redis::{Redis, RedisCache};
    ///
    /// let store = RedisCache::new(Redis::new("redis://127.0.0.1")?)?.max_entry(1 << 20);
    /// # let _ = store;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn new(redis: Redis) -> Result<Self, Error> {
        redis.check()?;
        let guard = redis.guard_cache(Events::default());
        let shared = Shared {
            backplane: Backplane::new(redis, guard),
            max_entry: 8 * MIB,
            compress_over: usize::MAX,
            hits: AtomicU64::new(0),
            decode_errors: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sets the maximum size of an entry in bytes; larger ones stay in memory. Defaults to 8 MiB.
    ///
    /// ```
    /// use tollgate::store::redis::{Redis, RedisCache};
    ///
    /// let store = RedisCache::new(Redis::new("redis://127.0.0.1")?)?.max_entry(1 << 20);
    /// # let _ = store;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn max_entry(self, bytes: usize) -> Self {
        self.with(|shared| Shared { max_entry: bytes, ..shared })
    }

    /// Compresses entries of more than this many bytes. They are misses for processes without the feature `lz4`.
    #[cfg(feature = "lz4")]
    #[must_use]
    pub fn compress_over(self, bytes: usize) -> Self {
        self.with(|shared| Shared { compress_over: bytes, ..shared })
    }

    fn with(self, f: impl FnOnce(Shared) -> Shared) -> Self {
        match Arc::try_unwrap(self.shared) {
            Ok(shared) => Self { shared: Arc::new(f(shared)) },
            // Setters run before the store is shared.
            Err(shared) => Self { shared },
        }
    }
}

impl Shared {
    fn key_name(&self, kind: &str, key: &CacheKey) -> Option<String> {
        let names = self.backplane.names()?;
        Some(format!("{}:{kind}:{}", self.backplane.redis.prefix, names.of(key.as_bytes())))
    }

    /// Decodes a value, if it may be used. `local_generation` is the number of invalidations known when it was requested.
    fn decode(&self, key: &CacheKey, encoded: Option<Vec<u8>>, local_generation: u64) -> Option<Stored> {
        let encoded = Bytes::from(encoded?);
        let clock = self.backplane.fleet_clock()?;
        let found = match codec::decode(&encoded, key, clock, local_generation) {
            Ok(found) => found,
            Err(decode_errors) => {
                // Reported at powers of two: a fleet of mixed versions would flood the log.
                if (self.decode_errors.fetch_add(1, Ordering::Relaxed) + 1).is_power_of_two() {
                    self.emit_decode_error(decode_errors);
                }
                return None;
            }
        };
        let found = match &found {
            Stored::Vary(_) => return Some(found),
            Stored::Entry(entry) => match self.backplane.invalidation_log.check(key, &entry.meta) {
                Validity::Void => return None,
                Validity::Stale => Stored::Entry(Arc::new(entry.marked_stale(self.backplane.clock().now()))),
                Validity::Valid => found,
            },
        };
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(found)
    }

    fn emit_decode_error(&self, decode_errors: DecodeError) {
        if let Some(sink) = self.backplane.sink() {
            let error = Error::store(format!("redis: entry is {}", decode_errors.as_str()), decode_errors.as_str());
            sink.events().emit(&Event::StoreFailed { store: "redis cache", error: &error });
        }
    }

    fn local_generation(&self) -> u64 {
        self.backplane.sink().map_or(0, InvalidationSink::generation)
    }
}

impl CacheStore for RedisCache {
    fn get(&self, key: &CacheKey, _now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        self.shared.backplane.start();
        let (shared, key, local_generation) = (self.shared.clone(), key.clone(), self.shared.local_generation());
        let Some(key_name) = shared.key_name("entry", &key) else { return MaybeReady::Ready(Ok(None)) };
        MaybeReady::Pending(Box::pin(async move {
            let command = cmd("GET").arg(key_name).take();
            let guard = &shared.backplane.guard;
            let found = guard.call(async |mut connection: Conn| connection.query(&command).await).await;
            // An outage is a miss, reported by the guard.
            Ok(shared.decode(&key, found.unwrap_or_default(), local_generation))
        }))
    }

    fn get_many(&self, keys: &[CacheKey], _now: Timestamp) -> MaybeReady<Result<Vec<Option<Stored>>, Error>> {
        self.shared.backplane.start();
        let (shared, keys, local_generation) = (self.shared.clone(), keys.to_vec(), self.shared.local_generation());
        let names: Option<Vec<String>> = keys.iter().map(|key| shared.key_name("entry", key)).collect();
        let Some(names) = names.filter(|names| !names.is_empty()) else {
            return MaybeReady::Ready(Ok(vec![None; keys.len()]));
        };
        MaybeReady::Pending(Box::pin(async move {
            let command = cmd("MGET").arg(names).take();
            let guard = &shared.backplane.guard;
            let found = guard.call(async |mut connection: Conn| connection.query(&command).await).await;
            let mut found: Vec<Option<Vec<u8>>> = found.unwrap_or_default();
            found.resize(keys.len(), None);
            Ok(keys.iter().zip(found).map(|(key, found)| shared.decode(key, found, local_generation)).collect())
        }))
    }

    fn get_shared(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        self.get(key, now)
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>> {
        self.shared.backplane.start();
        let (ttl, known) = match &stored {
            Stored::Entry(entry) => {
                (entry.retain_until().since(now), entry.meta.began.fleet > 0 && !entry.stays_in_process())
            }
            Stored::Vary(_) => (INDEX_TTL, true),
        };
        let millis = nanos(ttl.min(MAX_TTL)) / 1_000_000;
        // Without a log position the validity could not be checked later.
        if millis == 0 || !known {
            return MaybeReady::Ready(Ok(()));
        }
        if let Err(outage) = self.shared.backplane.guard.check() {
            return MaybeReady::Ready(Err(Error::outage("redis cache", outage)));
        }
        let (Some(key_name), Some(clock)) = (self.shared.key_name("entry", key), self.shared.backplane.fleet_clock())
        else {
            return MaybeReady::Ready(Ok(()));
        };
        let encoded = codec::encode(&stored, clock, self.shared.compress_over);
        if encoded.len() > self.shared.max_entry {
            let error = Error::too_large("redis cache", encoded.len() as u64, self.shared.max_entry as u64);
            return MaybeReady::Ready(Err(error));
        }
        let shared = self.shared.clone();
        MaybeReady::Pending(Box::pin(async move {
            let command = cmd("SET").arg(key_name).arg(encoded).arg("PX").arg(millis).take();
            let guard = &shared.backplane.guard;
            let stored = guard.call(async |mut connection: Conn| connection.query::<()>(&command).await).await;
            stored.map_err(|outage| Error::outage("redis cache", outage))
        }))
    }

    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        let (shared, key) = (self.shared.clone(), key.clone());
        let Some(key_name) = shared.key_name("entry", &key) else { return MaybeReady::Ready(Ok(())) };
        MaybeReady::Pending(Box::pin(async move {
            let command = cmd("UNLINK").arg(key_name).take();
            let guard = &shared.backplane.guard;
            let _ = guard.call(async |mut connection: Conn| connection.query::<i64>(&command).await).await;
            shared.backplane.publish_removal(&key).await;
            Ok(())
        }))
    }

    fn claim(&self, key: &CacheKey, lease: Duration) -> MaybeReady<bool> {
        let shared = self.shared.clone();
        let Some(key_name) = shared.key_name("lease", key) else { return MaybeReady::Ready(true) };
        MaybeReady::Pending(Box::pin(async move {
            let millis = (nanos(lease) / 1_000_000).max(1);
            let command = cmd("SET").arg(key_name).arg(1).arg("NX").arg("PX").arg(millis).take();
            let guard = &shared.backplane.guard;
            let granted =
                guard.call(async |mut connection: Conn| connection.query::<Option<String>>(&command).await).await;
            granted.map_or(true, |granted| granted.is_some())
        }))
    }

    fn release(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        let shared = self.shared.clone();
        let Some(key_name) = shared.key_name("lease", key) else { return MaybeReady::Ready(Ok(())) };
        MaybeReady::Pending(Box::pin(async move {
            let command = cmd("UNLINK").arg(key_name).take();
            let guard = &shared.backplane.guard;
            // Without a release the lease expires.
            let _ = guard.call(async |mut connection: Conn| connection.query::<i64>(&command).await).await;
            Ok(())
        }))
    }

    fn generation(&self) -> u64 {
        self.shared.backplane.invalidation_log.number()
    }

    fn invalidate(&self, invalidation: &Invalidation) -> MaybeReady<Result<(), Error>> {
        MaybeReady::Pending(Box::pin(self.shared.backplane.invalidate(invalidation)))
    }

    fn sweep(&self, pattern: &str) -> MaybeReady<Result<u64, Error>> {
        let (backplane, pattern) = (self.shared.backplane.clone(), pattern.to_owned());
        MaybeReady::Pending(Box::pin(async move { sweep::sweep(&backplane, &pattern).await }))
    }

    fn listen(&self, sink: InvalidationSink) {
        self.shared.backplane.listen(sink);
    }

    fn stats(&self) -> Vec<LevelStats> {
        let mut level = LevelStats::new("redis");
        level.hits = self.shared.hits.load(Ordering::Relaxed);
        level.decode_errors = self.shared.decode_errors.load(Ordering::Relaxed);
        level.up = self.shared.backplane.guard.stats().up && self.generation() > 0;
        level.invalidations_received = self.generation();
        level.invalidations_pending = self.shared.backplane.invalidation_log.pending_count();
        vec![level]
    }
}

impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCache").field("redis", &self.shared.backplane.redis).finish_non_exhaustive()
    }
}
