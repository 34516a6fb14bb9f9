//! The cache engine in Redis: what several processes share, behind the memory of each.
//!
//! | asked for | one command | where Redis is away |
//! |---|---|---|
//! | an entry | `GET`, or `MGET` for several | a miss |
//! | to keep one | `SET … PX` with what is left of its life | it is kept in memory only |
//! | to remove one | `UNLINK`, then `PUBLISH` | it is forgotten here |
//! | leave to refresh one | `SET … NX PX` | granted: each process refreshes by itself |
//! | to give that up | `UNLINK` | it ends by itself |
//!
//! Entries are named by a keyed hash and lie in an envelope with a checksum and their own full key; they are compared
//! with what was invalidated since their fetch began, wherever it began.

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

/// How long a list of variants is kept after the last was stored.
const INDEX_LIFE: Duration = Duration::from_secs(86_400);
/// No life is longer.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);
const MIB: usize = 1 << 20;

/// Responses in a Redis that a fleet shares, to be put behind a memory of one's own.
/// [`TollgateBuilder::redis`](crate::TollgateBuilder::redis) does so; by hand:
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
/// One store serves one layer: it tells one cache what others invalidated.
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
    /// A cache in this Redis. Nothing is connected before it is used.
    ///
    /// # Errors
    /// Where a setting is wrong: see [`Redis`].
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

    /// Entries of more bytes stay in memory: 8 MiB unless set.
    #[must_use]
    pub fn max_entry(self, bytes: usize) -> Self {
        self.with(|shared| Shared { max_entry: bytes, ..shared })
    }

    /// Entries of more bytes are compressed. A process without the feature `lz4` misses them.
    #[cfg(feature = "lz4")]
    #[must_use]
    pub fn compress_over(self, bytes: usize) -> Self {
        self.with(|shared| Shared { compress_over: bytes, ..shared })
    }

    fn with(self, f: impl FnOnce(Shared) -> Shared) -> Self {
        match Arc::try_unwrap(self.shared) {
            Ok(shared) => Self { shared: Arc::new(f(shared)) },
            // Settings come before use: nobody shares it yet.
            Err(shared) => Self { shared },
        }
    }
}

impl Shared {
    fn name(&self, kind: &str, key: &CacheKey) -> Option<String> {
        let names = self.backplane.names()?;
        Some(format!("{}:{kind}:{}", self.backplane.redis.prefix, names.of(key.as_bytes())))
    }

    /// What was found under a key, if it may be used. `here` is the number of invalidations seen when it was asked for.
    fn opened(&self, key: &CacheKey, sealed: Option<Vec<u8>>, here: u64) -> Option<Stored> {
        let sealed = Bytes::from(sealed?);
        let clock = self.backplane.fleet_clock()?;
        let found = match codec::decode(&sealed, key, clock, here) {
            Ok(found) => found,
            Err(decode_errors) => {
                // Said ever more rarely: a fleet of another version would fill the log.
                if (self.decode_errors.fetch_add(1, Ordering::Relaxed) + 1).is_power_of_two() {
                    self.say(decode_errors);
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

    fn say(&self, decode_errors: DecodeError) {
        if let Some(listener) = self.backplane.listener() {
            let error = Error::store(format!("redis: an entry is {}", decode_errors.as_str()), decode_errors.as_str());
            listener.events().emit(&Event::StoreFailed { store: "redis cache", error: &error });
        }
    }

    fn here(&self) -> u64 {
        self.backplane.listener().map_or(0, InvalidationSink::generation)
    }
}

impl CacheStore for RedisCache {
    fn get(&self, key: &CacheKey, _now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        self.shared.backplane.start();
        let (shared, key, here) = (self.shared.clone(), key.clone(), self.shared.here());
        let Some(name) = shared.name("entry", &key) else { return MaybeReady::Ready(Ok(None)) };
        MaybeReady::Pending(Box::pin(async move {
            let command = cmd("GET").arg(name).take();
            let guard = &shared.backplane.guard;
            let found = guard.call(async |mut connection: Conn| connection.query(&command).await).await;
            // An outage is a miss; the guard has told of it.
            Ok(shared.opened(&key, found.unwrap_or_default(), here))
        }))
    }

    fn get_many(&self, keys: &[CacheKey], _now: Timestamp) -> MaybeReady<Result<Vec<Option<Stored>>, Error>> {
        self.shared.backplane.start();
        let (shared, keys, here) = (self.shared.clone(), keys.to_vec(), self.shared.here());
        let names: Option<Vec<String>> = keys.iter().map(|key| shared.name("entry", key)).collect();
        let Some(names) = names.filter(|names| !names.is_empty()) else {
            return MaybeReady::Ready(Ok(vec![None; keys.len()]));
        };
        MaybeReady::Pending(Box::pin(async move {
            let command = cmd("MGET").arg(names).take();
            let guard = &shared.backplane.guard;
            let found = guard.call(async |mut connection: Conn| connection.query(&command).await).await;
            let mut found: Vec<Option<Vec<u8>>> = found.unwrap_or_default();
            found.resize(keys.len(), None);
            Ok(keys.iter().zip(found).map(|(key, found)| shared.opened(key, found, here)).collect())
        }))
    }

    fn get_shared(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        self.get(key, now)
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>> {
        self.shared.backplane.start();
        let (life, known) = match &stored {
            Stored::Entry(entry) => (entry.retain_until().since(now), entry.meta.began.fleet > 0),
            Stored::Vary(_) => (INDEX_LIFE, true),
        };
        let millis = nanos(life.min(LONGEST)) / 1_000_000;
        let (Some(name), Some(clock)) = (self.shared.name("entry", key), self.shared.backplane.fleet_clock()) else {
            return MaybeReady::Ready(Ok(()));
        };
        // Without a number nobody could say later whether it was invalidated meanwhile.
        if millis == 0 || !known || self.shared.backplane.guard.check().is_err() {
            return MaybeReady::Ready(Ok(()));
        }
        let sealed = codec::encode(&stored, clock, self.shared.compress_over);
        if sealed.len() > self.shared.max_entry {
            return MaybeReady::Ready(Ok(()));
        }
        let shared = self.shared.clone();
        MaybeReady::Pending(Box::pin(async move {
            let command = cmd("SET").arg(name).arg(sealed).arg("PX").arg(millis).take();
            let guard = &shared.backplane.guard;
            // A store may lose what it is given.
            let _ = guard.call(async |mut connection: Conn| connection.query::<()>(&command).await).await;
            Ok(())
        }))
    }

    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        let (shared, key) = (self.shared.clone(), key.clone());
        let Some(name) = shared.name("entry", &key) else { return MaybeReady::Ready(Ok(())) };
        MaybeReady::Pending(Box::pin(async move {
            let command = cmd("UNLINK").arg(name).take();
            let guard = &shared.backplane.guard;
            let _ = guard.call(async |mut connection: Conn| connection.query::<i64>(&command).await).await;
            shared.backplane.publish_removal(&key).await;
            Ok(())
        }))
    }

    fn claim(&self, key: &CacheKey, lease: Duration) -> MaybeReady<bool> {
        let shared = self.shared.clone();
        let Some(name) = shared.name("lease", key) else { return MaybeReady::Ready(true) };
        MaybeReady::Pending(Box::pin(async move {
            let millis = (nanos(lease) / 1_000_000).max(1);
            let command = cmd("SET").arg(name).arg(1).arg("NX").arg("PX").arg(millis).take();
            let guard = &shared.backplane.guard;
            let granted =
                guard.call(async |mut connection: Conn| connection.query::<Option<String>>(&command).await).await;
            granted.map_or(true, |granted| granted.is_some())
        }))
    }

    fn release(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        let shared = self.shared.clone();
        let Some(name) = shared.name("lease", key) else { return MaybeReady::Ready(Ok(())) };
        MaybeReady::Pending(Box::pin(async move {
            let command = cmd("UNLINK").arg(name).take();
            let guard = &shared.backplane.guard;
            // A lease that is not given up ends by itself.
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

    fn listen(&self, listener: InvalidationSink) {
        self.shared.backplane.listen(listener);
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
