//! [`DataCache`]: what namespaces of typed values share.

use std::fmt;
use std::sync::{Arc, MutexGuard, Weak};

use super::builder::CachedBuilder;
use super::namespace::Namespace;
use super::stats::DataStats;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Event, Hook};
use crate::base::lock::Mutex;
use crate::cache::engine::engine_parts::{Engine, LevelOne, StorePlan};
use crate::cache::engine::store::{CacheStore, LevelStats};
use crate::store::memory::MemoryCache;

/// Memory, and perhaps a shared store behind it, for namespaces of typed values. Clones share it.
///
/// ```
/// use std::time::Duration;
/// use tollgate::cache::{Cached, DataCache};
///
/// let minutes = |n: u64| Duration::from_secs(60 * n);
/// let data = DataCache::in_memory(64 << 20);
/// let github: Cached<String> = data.cached("github").ttl(minutes(15)).target_hit_ratio(0.95).build()?;
/// let sessions: Cached<u64> = data.cached("session").ttl(minutes(24 * 60)).build()?;
/// assert_eq!(data.stats().iter().map(|space| &*space.name).collect::<Vec<_>>(), ["github", "session"]);
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
    spaces: Mutex<Vec<Weak<Namespace>>>,
}

impl DataCache {
    /// Values that together weigh at most so many bytes in this process's memory.
    #[must_use]
    pub fn in_memory(bytes: u64) -> Self {
        Self::builder().memory(bytes).build()
    }

    /// Everything that can be set.
    pub fn builder() -> DataBuilder {
        DataBuilder { memory: 64 << 20, store: None, level_2: None, clock: Clock::System, hook: None }
    }

    /// Shares this engine with other caches.
    pub(crate) fn over(engine: Engine) -> Self {
        Self { shared: Arc::new(DataShared { engine, spaces: Mutex::default() }) }
    }

    /// A namespace for values of one type. Its name is part of every key: namespaces never see each other's values.
    pub fn cached<V>(&self, name: impl Into<Box<str>>) -> CachedBuilder<V> {
        CachedBuilder::new(self.clone(), name.into())
    }

    /// Returns the statistics of each namespace, in the order they were built.
    #[must_use]
    pub fn stats(&self) -> Vec<DataStats> {
        self.spaces().iter().filter_map(Weak::upgrade).map(|space| space.stats()).collect()
    }

    /// Returns the statistics of each level, level 1 first.
    #[must_use]
    pub fn levels(&self) -> Vec<LevelStats> {
        self.shared.engine.store.stats()
    }

    /// Loads in progress: detached work that outlives its caller.
    pub(crate) fn fetches(&self) -> u64 {
        self.spaces().iter().filter_map(Weak::upgrade).map(|space| space.fetches.count()).sum()
    }

    pub(super) fn engine(&self) -> Engine {
        self.shared.engine.clone()
    }

    /// Takes up a namespace.
    ///
    /// # Errors
    /// Where there is one of that name.
    pub(super) fn add(&self, space: Namespace) -> Result<Arc<Namespace>, Error> {
        let mut spaces = self.spaces();
        spaces.retain(|space| space.strong_count() > 0);
        if spaces.iter().filter_map(Weak::upgrade).any(|other| other.name == space.name) {
            return Err(Error::config(format!("duplicate namespace {:?}; clone its handle instead", space.name)));
        }
        let space = Arc::new(space);
        spaces.push(Arc::downgrade(&space));
        Ok(space)
    }

    fn spaces(&self) -> MutexGuard<'_, Vec<Weak<Namespace>>> {
        self.shared.spaces.lock()
    }
}

impl fmt::Debug for DataCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataCache").field("spaces", &self.spaces().len()).finish_non_exhaustive()
    }
}

/// Sets up a [`DataCache`].
///
/// ```
/// use std::sync::Arc;
/// use tollgate::cache::DataCache;
/// use tollgate::store::memory::MemoryCache;
///
/// let data = DataCache::builder()
///     .memory(8 << 20)
///     .level_2(Arc::new(MemoryCache::new(64 << 20))) // a `RedisCache`, in earnest
///     .build();
/// assert_eq!(data.levels().len(), 2);
/// ```
#[must_use]
pub struct DataBuilder {
    memory: u64,
    store: Option<Arc<dyn CacheStore>>,
    level_2: Option<Arc<dyn CacheStore>>,
    clock: Clock,
    hook: Option<Hook>,
}

impl DataBuilder {
    /// How many bytes values may weigh together, with their keys. 64 MiB unless set.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Keeps values elsewhere than in this process's memory. Where the store errs, panics, or has not answered within
    /// 250 ms, callers go on without it.
    pub fn store(mut self, store: Arc<dyn CacheStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Puts a store that several processes share behind this one's memory: see [`Levels`](crate::cache::Levels). One
    /// store serves one cache.
    pub fn level_2(mut self, store: Arc<dyn CacheStore>) -> Self {
        self.level_2 = Some(store);
        self
    }

    /// Where the time is read. The operating system's clocks unless set.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Is called with every event.
    pub fn hook(mut self, hook: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.hook = Some(Arc::new(hook));
        self
    }

    /// The cache, without namespaces yet.
    #[must_use]
    pub fn build(self) -> DataCache {
        let level_1 = match self.store {
            Some(store) => LevelOne::Custom(store),
            None => LevelOne::Memory(Arc::new(MemoryCache::new(self.memory))),
        };
        let places = StorePlan { level_1, level_2: self.level_2 };
        DataCache::over(Engine::new(places, self.clock, self.hook))
    }
}

impl fmt::Debug for DataBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataBuilder").field("memory", &self.memory).finish_non_exhaustive()
    }
}
