//! [`Engine`]: what a cache is built over, whatever it keeps. Responses and typed values may share one.

use std::sync::Arc;

use super::barrier::Barriers;
use super::contained::Contained;
use super::entry::Began;
use super::invalidation::Invalidation;
use super::levels::Levels;
use super::listener::Listener;
use super::store::CacheStore;
use crate::answer::Answer;
use crate::clock::Clock;
use crate::error::Error;
use crate::event::{Events, Hook};
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
pub(crate) struct Places {
    /// How many bytes of this process's memory, where `store` is not given.
    pub(crate) memory: u64,
    /// In place of this process's memory.
    pub(crate) store: Option<Arc<dyn CacheStore>>,
    /// Behind it.
    pub(crate) far: Option<Arc<dyn CacheStore>>,
}

impl Engine {
    pub(crate) fn new(places: Places, clock: Clock, hook: Option<Hook>) -> Self {
        clock.wind();
        let in_process = places.store.is_none() && places.far.is_none();
        let near = match places.store {
            Some(store) => Arc::new(Contained(store)),
            None => Arc::new(MemoryCache::new(places.memory)) as Arc<dyn CacheStore>,
        };
        let store = match places.far {
            Some(far) => Arc::new(Levels::new(near, Arc::new(Contained(far)))),
            None => near,
        };
        let (barriers, events) = (Arc::new(Barriers::default()), Events::new(hook));
        store.listen(Listener::new(barriers.clone(), clock.clone(), events.clone()));
        Self { store, barriers, clock, events, in_process }
    }

    /// What a load that begins now remembers.
    pub(crate) fn begin(&self) -> Began {
        Began { here: self.barriers.generation(), fleet: self.store.generation() }
    }
}

/// Voids entries here and now; the answer says whether other processes will hear of it.
pub(crate) fn take_back(store: &dyn CacheStore, barriers: &Barriers, what: &Invalidation) -> Answer<Result<(), Error>> {
    // The store first: what it reads from now on is compared, so nothing old comes after the barrier.
    let told = store.invalidate(what);
    barriers.raise(what.about.clone(), what.soft);
    told
}
