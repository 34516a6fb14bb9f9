//! [`Engine`]: the dependencies of a cache. Responses and typed values may share one.

use std::sync::Arc;

use super::barrier::{Barriers, InvalidationScope};
use super::fetch_bounds::FetchBounds;
use super::invalidation::Invalidation;
use super::invalidation_sink::InvalidationSink;
use super::isolated_store::IsolatedStore;
use super::store::CacheStore;
use super::tiered::Levels;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::event::{Event, Events, Hook};
use crate::base::maybe_ready::{MaybeReady, both};
use crate::base::random::random;
use crate::cache::http::key::CacheKey;
use crate::cache::http::record_meta::LogPosition;

/// Store, barriers, clock and events of a cache. Clones share it.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) store: Arc<dyn CacheStore>,
    pub(crate) barriers: Arc<Barriers>,
    pub(crate) clock: Clock,
    pub(crate) events: Events,
    /// Whether no other process reads the store.
    pub(crate) in_process: bool,
    /// Tells this process's leases from those of others.
    pub(crate) token: u64,
    pub(crate) bounds: Arc<FetchBounds>,
}

/// Configured levels of a cache.
pub(crate) struct CacheLevels {
    /// First level.
    pub(crate) level_1: LevelOne,
    /// Second level.
    pub(crate) level_2: Option<Arc<dyn CacheStore>>,
}

/// First level of a cache.
pub(crate) enum LevelOne {
    /// In-process memory.
    Memory(Arc<dyn CacheStore>),
    /// A user-supplied store.
    Custom(Arc<dyn CacheStore>),
}

impl Engine {
    pub(crate) fn new(levels: CacheLevels, clock: Clock, hook: Option<Hook>) -> Self {
        clock.warm_up();
        let in_process = matches!(levels.level_1, LevelOne::Memory(_)) && levels.level_2.is_none();
        let level_1 = match levels.level_1 {
            LevelOne::Memory(memory) => memory,
            LevelOne::Custom(store) => Arc::new(IsolatedStore::new(store)) as Arc<dyn CacheStore>,
        };
        let store = match levels.level_2 {
            Some(level_2) => Arc::new(Levels::new(level_1, Arc::new(IsolatedStore::new(level_2)))),
            None => level_1,
        };
        let (barriers, events) = (Arc::new(Barriers::default()), Events::new(hook));
        store.listen(InvalidationSink::new(barriers.clone(), clock.clone(), events.clone()));
        Self { store, barriers, clock, events, in_process, token: random(), bounds: Arc::default() }
    }

    /// Returns the log position to record at the start of a fetch.
    pub(crate) fn log_position(&self) -> LogPosition {
        LogPosition { local: self.barriers.generation(), fleet: self.store.generation() }
    }
}

/// Invalidates entries in this process; the result tells whether other processes will receive it.
pub(crate) fn invalidate(
    store: &dyn CacheStore,
    barriers: &Barriers,
    what: &Invalidation,
) -> MaybeReady<Result<(), Error>> {
    // The store first: its reads are compared from then on, so no old entry arrives after the barrier.
    let result = store.invalidate(what);
    barriers.insert(what.scope.clone(), what.effect);
    result
}

/// Invalidates the resource of a key, and removes the value under the key.
///
/// A store without a log cannot tell other processes of the invalidation. The removal itself reaches them, so that it alone
/// decides the result, if the resource has no value under another key (`sole`).
pub(crate) fn invalidate_and_remove(
    store: &dyn CacheStore,
    barriers: &Barriers,
    key: &CacheKey,
    sole: bool,
) -> MaybeReady<Result<(), Error>> {
    let scope = InvalidationScope::Resource(key.resource().into());
    let logged = invalidate(store, barriers, &Invalidation::new(scope, false));
    let join = match sole {
        true => |removed: Result<(), Error>, logged: Result<(), Error>| match logged {
            Err(error) if error.is_unlogged() => removed,
            logged => logged.and(removed),
        },
        false => |removed, logged: Result<(), Error>| logged.and(removed),
    };
    both(store.remove(key), logged, join)
}

/// Emits a store error. An outage is logged only when it begins and ends, by the guard.
pub(crate) fn emit_store_error(events: &Events, error: &Error) {
    let event = Event::StoreFailed { store: "cache", error };
    if error.is_outage() { events.emit_unlogged(&event) } else { events.emit(&event) }
}
