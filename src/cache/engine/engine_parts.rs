//! [`Engine`]: what a cache is built over, whatever it keeps. Responses and typed values may share one.

use crate::base::event::Event;
use std::sync::Arc;

use super::barrier::Barriers;
use super::invalidation::Invalidation;
use super::invalidation_sink::InvalidationSink;
use super::isolated_store::IsolatedStore;
use super::store::CacheStore;
use super::tiered::Levels;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Events, Hook};
use crate::base::maybe_ready::MaybeReady;
use crate::cache::http::stored_head::LogPosition;

/// Store, barriers, clock and events of a cache. Clones share it.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) store: Arc<dyn CacheStore>,
    pub(crate) barriers: Arc<Barriers>,
    pub(crate) clock: Clock,
    pub(crate) events: Events,
    /// Whether no other process ever reads what is stored.
    pub(crate) in_process: bool,
}

/// Levels of a cache.
pub(crate) struct StorePlan {
    /// The level asked first.
    pub(crate) level_1: LevelOne,
    /// The level behind it.
    pub(crate) level_2: Option<Arc<dyn CacheStore>>,
}

/// The level asked first.
pub(crate) enum LevelOne {
    /// This process's memory.
    Memory(Arc<dyn CacheStore>),
    /// A store given by the user in its place.
    Custom(Arc<dyn CacheStore>),
}

impl Engine {
    pub(crate) fn new(places: StorePlan, clock: Clock, hook: Option<Hook>) -> Self {
        clock.warm_up();
        let in_process = matches!(places.level_1, LevelOne::Memory(_)) && places.level_2.is_none();
        let level_1 = match places.level_1 {
            LevelOne::Memory(memory) => memory,
            LevelOne::Custom(store) => Arc::new(IsolatedStore(store)) as Arc<dyn CacheStore>,
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

/// An outage is an event each time, and a line of the log only when it begins and ends: the guard writes that.
pub(crate) fn tell(events: &Events, error: &Error) {
    let event = Event::StoreFailed { store: "cache", error };
    if error.is_outage() { events.emit_unlogged(&event) } else { events.emit(&event) }
}
