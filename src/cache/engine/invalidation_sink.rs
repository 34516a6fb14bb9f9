//! [`InvalidationSink`]: through which a shared store tells the cache what others have invalidated.

use std::fmt;
use std::sync::Arc;

use super::barrier::{Barriers, InvalidationScope, Validity};
use super::invalidation::Invalidation;
use super::store::CacheStore;
use crate::base::clock::Clock;
use crate::base::event::Events;
use crate::cache::http::key::CacheKey;
use crate::cache::http::stored_head::StoredHead;

/// Receives invalidations from other processes. A store that several processes share is given it by
/// [`CacheStore::listen`](crate::cache::CacheStore::listen), and tells it what other processes took back. Clones are
/// the
/// same ear.
#[derive(Clone)]
pub struct InvalidationSink {
    barriers: Arc<Barriers>,
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "read by remote stores"))]
    clock: Clock,
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "read by remote stores"))]
    events: Events,
    /// Levels nearer than the store that listens: they hold copies.
    level_1: Vec<Arc<dyn CacheStore>>,
}

impl InvalidationSink {
    pub(crate) const fn new(barriers: Arc<Barriers>, clock: Clock, events: Events) -> Self {
        Self { barriers, clock, events, level_1: Vec::new() }
    }

    /// Where the cache reads the time.
    #[cfg(feature = "redis")]
    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Where the cache sends its events.
    #[cfg(feature = "redis")]
    pub(crate) fn events(&self) -> Events {
        self.events.clone()
    }

    /// The same ear, for a store behind this one.
    pub(crate) fn behind(mut self, level_1: Arc<dyn CacheStore>) -> Self {
        self.level_1.push(level_1);
        self
    }

    /// Another process took this back: entries whose fetch began before now are void here, or stale.
    pub fn invalidated(&self, invalidation: &Invalidation) {
        self.barriers.raise(invalidation.about.clone(), invalidation.soft);
    }

    /// Another process removed this key: nearer copies go too.
    pub fn removed(&self, key: &CacheKey) {
        for level in &self.level_1 {
            // Nearer levels are in this process: a failure of theirs is seen at the next look-up.
            drop(level.remove(key));
        }
    }

    /// What others took back meanwhile is not known: nothing that is held from before now is used again.
    pub fn missed_something(&self) {
        self.barriers.raise(InvalidationScope::All, false);
    }

    /// How many invalidations this process has seen.
    pub(crate) fn generation(&self) -> u64 {
        self.barriers.generation()
    }

    /// Whether an entry under this key may still be used.
    pub(crate) fn check(&self, key: &CacheKey, meta: &StoredHead) -> Validity {
        self.barriers.check(key, meta)
    }
}

impl fmt::Debug for InvalidationSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvalidationSink").field("generation", &self.generation()).finish_non_exhaustive()
    }
}
