//! [`Engine`]: what a cache is built over, whatever it keeps. Responses and typed values may share one.

use std::sync::Arc;

use super::barrier::Barriers;
use super::invalidation::Invalidation;
use super::invalidation_sink::InvalidationSink;
use super::isolated_store::IsolatedStore;
use super::record::LogPosition;
use super::store::CacheStore;
use super::tiered::Levels;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Events, Hook};
use crate::base::maybe_ready::MaybeReady;
use crate::store::memory::MemoryCache;

/// Where entries lie, what was taken back of them, and the time. Clones share it.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) store: Arc<dyn CacheStore>,
    pub(crate) barriers: Arc<Barriers>,
    pub(crate) clock: Clock,
    pub(crate) events: Events,
    /// Whether no other process ever reads what is stored.
    pub(crate) in_process: bool,
}

/// Where entries are to lie.
pub(crate) struct StorePlan {
    /// How many bytes of this process's memory, where `store` is not given.
    pub(crate) memory: u64,
    /// In place of this process's memory.
    pub(crate) store: Option<Arc<dyn CacheStore>>,
    /// Behind it.
    pub(crate) level_2: Option<Arc<dyn CacheStore>>,
}

impl Engine {
    pub(crate) fn new(places: StorePlan, clock: Clock, hook: Option<Hook>) -> Self {
        clock.wind();
        let in_process = places.store.is_none() && places.level_2.is_none();
        let level_1 = match places.store {
            Some(store) => Arc::new(IsolatedStore(store)),
            None => Arc::new(MemoryCache::new(places.memory)) as Arc<dyn CacheStore>,
        };
        let store = match places.level_2 {
            Some(level_2) => Arc::new(Levels::new(level_1, Arc::new(IsolatedStore(level_2)))),
            None => level_1,
        };
        let (barriers, events) = (Arc::new(Barriers::default()), Events::new(hook));
        store.listen(InvalidationSink::new(barriers.clone(), clock.clone(), events.clone()));
        Self { store, barriers, clock, events, in_process }
    }

    /// What a load that begins now remembers.
    pub(crate) fn begin(&self) -> LogPosition {
        LogPosition { here: self.barriers.generation(), fleet: self.store.generation() }
    }
}

/// Voids entries here and now; the answer says whether other processes will hear of it.
pub(crate) fn take_back(
    store: &dyn CacheStore,
    barriers: &Barriers,
    what: &Invalidation,
) -> MaybeReady<Result<(), Error>> {
    // The store first: what it reads from now on is compared, so nothing old comes after the barrier.
    let told = store.invalidate(what);
    barriers.raise(what.about.clone(), what.soft);
    told
}
