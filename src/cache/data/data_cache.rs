//! [`DataCache`]: store and settings shared by namespaces of typed values.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, Weak};

use super::builder::CachedBuilder;
use super::namespace::Namespace;
use super::stats::DataStats;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Event, Hook};
use crate::base::lock::Mutex;
use crate::cache::engine::cache_engine::{CacheLevels, Engine, LevelOne};
use crate::cache::engine::store::{CacheStore, LevelStats};
use crate::store::RemoteStore;
use crate::store::file::FileLevel;
use crate::store::levels::level_chain::{LevelChain, check_directories};
#[cfg(feature = "memcached")]
use crate::store::memcached::Memcached;
use crate::store::memory::MemoryCache;
#[cfg(feature = "postgres")]
use crate::store::postgres::Postgres;
#[cfg(feature = "redis")]
use crate::store::redis::Redis;

/// Memory, with an optional shared store behind it, for namespaces of typed values. Clones share state.
///
/// ```
/// use std::time::Duration;
/// use tollgate::cache::{Cached, DataCache};
///
/// let minutes = |n: u64| Duration::from_secs(60 * n);
/// let data = DataCache::in_memory(64 << 20);
/// let github: Cached<String> = data.cached("github").ttl(minutes(15)).target_hit_ratio(0.95).build()?;
/// let sessions: Cached<u64> = data.cached("session").ttl(minutes(24 * 60)).build()?;
/// assert_eq!(data.stats().iter().map(|namespace| &*namespace.name).collect::<Vec<_>>(), ["github", "session"]);
/// # let _ = (github, sessions);
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone)]
pub struct DataCache {
    shared: Arc<DataShared>,
}

struct DataShared {
    engine: Engine,
    /// Namespaces still in use.
    namespaces: Mutex<Vec<Weak<Namespace>>>,
}

impl DataCache {
    /// Creates a cache in this process's memory for at most `bytes` bytes of values.
    ///
    /// ```
    /// use tollgate::cache::DataCache;
    ///
    /// let data = DataCache::in_memory(64 << 20);
    /// assert_eq!(data.levels().len(), 1);
    /// ```
    #[must_use]
    pub fn in_memory(bytes: u64) -> Self {
        Self::builder().memory(bytes).build()
    }

    /// Returns a builder with all settings.
    ///
    /// ```
    /// use tollgate::cache::DataCache;
    ///
    /// let data = DataCache::builder().memory(8 << 20).build();
    /// # let _ = data;
    /// ```
    pub fn builder() -> DataBuilder {
        DataBuilder { memory: 64 << 20, store: None, levels: Vec::new(), clock: Clock::System, hook: None }
    }

    /// Creates a cache over an engine shared with other caches.
    pub(crate) fn over(engine: Engine) -> Self {
        Self { shared: Arc::new(DataShared { engine, namespaces: Mutex::default() }) }
    }

    /// Returns the builder of a namespace for values of one type. Its name is part of every key, which keeps namespaces
    /// apart.
    ///
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// # let _ = users;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn cached<V>(&self, name: impl Into<Box<str>>) -> CachedBuilder<V> {
        CachedBuilder::new(self.clone(), name.into())
    }

    /// Returns the statistics of each namespace, in the order they were built.
    ///
    /// ```
    /// use tollgate::cache::DataCache;
    ///
    /// assert!(DataCache::in_memory(1 << 20).stats().is_empty());
    /// ```
    #[must_use]
    pub fn stats(&self) -> Vec<DataStats> {
        self.namespaces().iter().filter_map(Weak::upgrade).map(|namespace| namespace.stats()).collect()
    }

    /// Returns the statistics of each level, level 1 first.
    ///
    /// ```
    /// use tollgate::cache::DataCache;
    ///
    /// assert_eq!(DataCache::in_memory(1 << 20).levels()[0].capacity_bytes, 1 << 20);
    /// ```
    #[must_use]
    pub fn levels(&self) -> Vec<LevelStats> {
        self.shared.engine.store.stats()
    }

    /// Returns the number of loads under way.
    pub(crate) fn fetches(&self) -> u64 {
        self.namespaces().iter().filter_map(Weak::upgrade).map(|namespace| namespace.fetches.count()).sum()
    }

    pub(super) fn engine(&self) -> Engine {
        self.shared.engine.clone()
    }

    /// Registers a namespace.
    ///
    /// # Errors
    /// If a namespace of this name exists.
    pub(super) fn add(&self, namespace: Namespace) -> Result<Arc<Namespace>, Error> {
        let mut namespaces = self.namespaces();
        namespaces.retain(|namespace| namespace.strong_count() > 0);
        if namespaces.iter().filter_map(Weak::upgrade).any(|other| other.name == namespace.name) {
            return Err(Error::config(format!("duplicate namespace {:?}; clone its handle instead", namespace.name)));
        }
        let namespace = Arc::new(namespace);
        namespaces.push(Arc::downgrade(&namespace));
        Ok(namespace)
    }

    fn namespaces(&self) -> MutexGuard<'_, Vec<Weak<Namespace>>> {
        self.shared.namespaces.lock()
    }
}

impl fmt::Debug for DataCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataCache").field("spaces", &self.namespaces().len()).finish_non_exhaustive()
    }
}

/// Builder for [`DataCache`].
///
/// ```
/// use std::sync::Arc;
/// use tollgate::cache::DataCache;
/// use tollgate::store::memory::MemoryCache;
///
/// let data = DataCache::builder()
///     .memory(8 << 20)
/// .level_2(Arc::new(MemoryCache::new(64 << 20))) // a `RemoteStore` in production
///     .build();
/// assert_eq!(data.levels().len(), 2);
/// ```
#[must_use]
pub struct DataBuilder {
    memory: u64,
    store: Option<Arc<dyn CacheStore>>,
    levels: Vec<Arc<dyn CacheStore>>,
    clock: Clock,
    hook: Option<Hook>,
}

impl DataBuilder {
    /// Sets the capacity in bytes, including keys. Defaults to 64 MiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Replaces this process's memory by another store. If it fails, panics, or does not answer within 250 ms, callers
    /// continue without it.
    pub fn store(mut self, store: Arc<dyn CacheStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Puts a store shared by several processes behind this process's memory: see [`Levels`](crate::cache::Levels). A
    /// store serves one cache. Called again, it adds a level behind: levels are asked in the order of the calls, those of
    /// [`file`](Self::file) and its siblings included.
    pub fn level_2(mut self, store: Arc<dyn CacheStore>) -> Self {
        self.levels.push(store);
        self
    }

    /// Keeps values in a directory as well, behind this process's memory, so that they survive a restart: at most `bytes` on
    /// disk, 16 MiB or more. The directory serves this cache alone: see [`store::file`](crate::store::file).
    ///
    /// # Errors
    /// If the path is empty or that of another level, or the bound is too small. A directory that cannot be used is not an error: callers continue
    /// without it.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::DataCache;
    ///
    /// let data = DataCache::builder().file("/var/cache/app", 2 << 30)?.build();
    /// assert_eq!(data.levels()[1].name, "file");
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn file(mut self, directory: impl Into<PathBuf>, bytes: u64) -> Result<Self, Error> {
        self.levels.push(Arc::new(RemoteStore::file(FileLevel::new(directory, bytes))?));
        check_directories(&self.levels)?;
        Ok(self)
    }

    /// Keeps values in Redis as well, shared by a fleet: its URL, or a [`Redis`] with settings. Several levels are asked in
    /// the order of the calls.
    ///
    /// # Errors
    /// If a setting is invalid. An unavailable server is not an error.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::DataCache;
    ///
    /// let data = DataCache::builder().redis("redis://127.0.0.1")?.postgres("postgres://app@127.0.0.1/app")?.build();
    /// assert_eq!(data.levels().iter().map(|level| &*level.name).collect::<Vec<_>>(), ["memory", "redis", "postgres"]);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[cfg(feature = "redis")]
    pub fn redis<R>(mut self, redis: R) -> Result<Self, Error>
    where
        R: TryInto<Redis>,
        R::Error: Into<Error>,
    {
        self.levels.push(Arc::new(RemoteStore::redis(redis.try_into().map_err(Into::into)?)?));
        Ok(self)
    }

    /// Keeps values in PostgreSQL as well, shared by a fleet: its URL, or a [`Postgres`] with settings. Its log of
    /// invalidations is then that of all levels.
    ///
    /// # Errors
    /// If a setting is invalid. An unavailable server is not an error.
    #[cfg(feature = "postgres")]
    pub fn postgres<P>(mut self, postgres: P) -> Result<Self, Error>
    where
        P: TryInto<Postgres>,
        P::Error: Into<Error>,
    {
        self.levels.push(Arc::new(RemoteStore::postgres(postgres.try_into().map_err(Into::into)?)?));
        Ok(self)
    }

    /// Keeps values in memcached as well, shared by a fleet. Beside a level with a log it is invalidated by that log; alone,
    /// tags, prefixes and soft purges stay in their process.
    ///
    /// # Errors
    /// If a setting is invalid. An unavailable server is not an error.
    #[cfg(feature = "memcached")]
    pub fn memcached(mut self, memcached: Memcached) -> Result<Self, Error> {
        self.levels.push(Arc::new(RemoteStore::memcached(memcached)?));
        Ok(self)
    }

    /// Sets the clock. Defaults to the operating system's clocks.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Registers a hook that is called with every event.
    pub fn hook(mut self, hook: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.hook = Some(Arc::new(hook));
        self
    }

    /// Builds the cache, without namespaces.
    ///
    /// ```
    /// use tollgate::cache::DataCache;
    ///
    /// let data = DataCache::builder().memory(8 << 20).build();
    /// assert_eq!(data.levels()[0].capacity_bytes, 8 << 20);
    /// ```
    #[must_use]
    pub fn build(self) -> DataCache {
        let level_1 = match self.store {
            Some(store) => LevelOne::Custom(store),
            None => LevelOne::Memory(Arc::new(MemoryCache::new(self.memory))),
        };
        let levels = CacheLevels { level_1, level_2: LevelChain::of(self.levels) };
        DataCache::over(Engine::new(levels, self.clock, self.hook))
    }
}

impl fmt::Debug for DataBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataBuilder").field("memory", &self.memory).finish_non_exhaustive()
    }
}
