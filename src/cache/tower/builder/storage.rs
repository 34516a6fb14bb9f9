//! Levels of a cache: methods of [`CacheBuilder`].

use std::path::PathBuf;
use std::sync::Arc;

use super::CacheBuilder;
#[cfg(any(feature = "postgres", feature = "redis"))]
use crate::base::error::Error;
use crate::cache::engine::store::CacheStore;
#[cfg(feature = "memcached")]
use crate::store::memcached::Memcached;
#[cfg(feature = "postgres")]
use crate::store::postgres::Postgres;
#[cfg(feature = "redis")]
use crate::store::redis::Redis;

impl CacheBuilder {
    /// Replaces this process's memory by another store. [`memory`](Self::memory) then bounds only the bodies being
    /// read.
    ///
    /// If the store fails, panics, or does not answer within 250 ms, the request continues without it.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tollgate::cache::CacheLayer;
    /// use tollgate::store::memory::MemoryCache;
    ///
    /// let layer = CacheLayer::builder().store(Arc::new(MemoryCache::new(64 << 20))).build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn store(mut self, store: Arc<dyn CacheStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Puts a store shared by several processes behind this process's memory: see [`Levels`](crate::cache::Levels).
    /// Errors, panics and delays beyond 250 ms are misses. Called again, it adds a level behind: levels are asked in the
    /// order of the calls, those of [`file`](Self::file) and its siblings included.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tollgate::cache::CacheLayer;
    /// use tollgate::store::memory::MemoryCache;
    ///
    /// let level_2 = Arc::new(MemoryCache::new(64 << 20)); // a `RemoteStore` in production
    /// let layer = CacheLayer::builder().level_2(level_2).build()?;
    /// assert_eq!(layer.stats().levels.len(), 2);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn level_2(mut self, store: Arc<dyn CacheStore>) -> Self {
        self.levels.store(store);
        self
    }

    /// Keeps responses in a directory as well, behind this process's memory, so that they survive a restart: at most `bytes`
    /// on disk, 16 MiB or more. The directory serves this cache alone: see [`store::file`](crate::store::file).
    ///
    /// A directory that cannot be used is not an error: requests continue without it, one warning says why, and it is
    /// tried again every 5 s.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// let layer = CacheLayer::builder().file("/var/cache/app", 2 << 30).build()?;
    /// assert_eq!(layer.stats().levels[1].capacity_bytes, 2 << 30);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn file(mut self, directory: impl Into<PathBuf>, bytes: u64) -> Self {
        self.levels.file(directory, bytes);
        self
    }

    /// Keeps responses in Redis as well, shared by a fleet: its URL, or a [`Redis`] with settings. Several levels are asked
    /// in the order of the calls.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    ///
    /// let layer = CacheLayer::builder().redis("redis://127.0.0.1").postgres("postgres://app@127.0.0.1/app").build()?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[cfg(feature = "redis")]
    pub fn redis<R>(mut self, redis: R) -> Self
    where
        R: TryInto<Redis>,
        R::Error: Into<Error>,
    {
        self.levels.redis(redis);
        self
    }

    /// Keeps responses in PostgreSQL as well, shared by a fleet: its URL, or a [`Postgres`] with settings. Its log of
    /// invalidations is then that of all levels.
    #[cfg(feature = "postgres")]
    pub fn postgres<P>(mut self, postgres: P) -> Self
    where
        P: TryInto<Postgres>,
        P::Error: Into<Error>,
    {
        self.levels.postgres(postgres);
        self
    }

    /// Keeps responses in memcached as well, shared by a fleet. Beside a level with a log it is invalidated by that log;
    /// alone, tags, prefixes and soft purges stay in their process.
    #[cfg(feature = "memcached")]
    pub fn memcached(mut self, memcached: Memcached) -> Self {
        self.levels.memcached(memcached);
        self
    }
}
