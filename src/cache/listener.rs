//! [`Listener`]: through which a shared store tells the cache what others have invalidated.

use std::fmt;
use std::sync::Arc;

use super::barrier::{About, Barriers, Validity};
use super::entry::Meta;
use super::invalidation::Invalidation;
use super::key::CacheKey;
use super::store::CacheStore;
use crate::clock::Clock;
use crate::event::Events;

/// The ear of one cache. A store that several processes share is given it by
/// [`CacheStore::listen`](crate::cache::CacheStore::listen), and tells it what other processes took back. Clones are the
/// same ear.
#[derive(Clone)]
pub struct Listener {
    barriers: Arc<Barriers>,
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "read by remote stores"))]
    clock: Clock,
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "read by remote stores"))]
    events: Events,
    /// Levels nearer than the store that listens: they hold copies.
    near: Vec<Arc<dyn CacheStore>>,
}

impl Listener {
    pub(crate) const fn new(barriers: Arc<Barriers>, clock: Clock, events: Events) -> Self {
        Self { barriers, clock, events, near: Vec::new() }
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
    pub(crate) fn behind(mut self, near: Arc<dyn CacheStore>) -> Self {
        self.near.push(near);
        self
    }

    /// Another process took this back: entries whose fetch began before now are void here, or stale.
    pub fn invalidated(&self, invalidation: &Invalidation) {
        self.barriers.raise(invalidation.about.clone(), invalidation.soft);
    }

    /// Another process removed this key: nearer copies go too.
    pub fn removed(&self, key: &CacheKey) {
        for level in &self.near {
            // Nearer levels are in this process: a failure of theirs is seen at the next look-up.
            drop(level.remove(key));
        }
    }

    /// What others took back meanwhile is not known: nothing that is held from before now is used again.
    pub fn missed_something(&self) {
        self.barriers.raise(About::All, false);
    }

    /// How many invalidations this process has seen.
    pub(crate) fn generation(&self) -> u64 {
        self.barriers.generation()
    }

    /// Whether an entry under this key may still be used.
    pub(crate) fn check(&self, key: &CacheKey, meta: &Meta) -> Validity {
        self.barriers.check(key, meta)
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("generation", &self.generation()).finish_non_exhaustive()
    }
}
