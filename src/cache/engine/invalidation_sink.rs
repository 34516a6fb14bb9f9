//! [`InvalidationSink`]: receives invalidations of other processes from a shared store.

use std::fmt;
use std::sync::Arc;

use super::barrier::{Barriers, InvalidationEffect, InvalidationScope, Validity};
use super::invalidation::Invalidation;
use super::store::CacheStore;
use crate::base::clock::Clock;
use crate::base::event::Events;
use crate::base::maybe_ready::MaybeReady;
use crate::cache::http::key::CacheKey;
use crate::cache::http::record_meta::RecordMeta;

/// Receives invalidations from other processes. A store shared by several processes gets it from
/// [`CacheStore::listen`] and passes on the invalidations of the others. Clones share
/// state.
///
/// ```
/// use std::sync::Mutex;
/// use tollgate::cache::{CacheKey, CacheStore, Invalidation, InvalidationSink, LevelStats, Stored};
/// use tollgate::{Error, MaybeReady, Timestamp};
///
/// #[derive(Default)]
/// struct Shared(Mutex<Option<InvalidationSink>>);
///
/// impl Shared {
///     fn on_message(&self, message: &[u8]) {
///         if let (Some(sink), Some(invalidation)) = (&*self.0.lock().unwrap(), Invalidation::from_bytes(message)) {
///             sink.invalidated(&invalidation);
///         }
///     }
/// }
///
/// impl CacheStore for Shared {
/// #    fn get(&self, _: &CacheKey, _: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
/// #        MaybeReady::Ready(Ok(None))
/// #    }
/// #    fn put(&self, _: &CacheKey, _: Stored, _: Timestamp) -> MaybeReady<Result<(), Error>> {
/// #        MaybeReady::Ready(Ok(()))
/// #    }
/// #    fn remove(&self, _: &CacheKey) -> MaybeReady<Result<(), Error>> {
/// #        MaybeReady::Ready(Ok(()))
/// #    }
/// #    fn stats(&self) -> Vec<LevelStats> {
/// #        Vec::new()
/// #    }
///     fn listen(&self, sink: InvalidationSink) {
///         *self.0.lock().unwrap() = Some(sink);
///     }
///     // …
/// }
/// # let store = Shared::default();
/// # store.on_message(&Invalidation::all().to_bytes());
/// ```
#[derive(Clone)]
pub struct InvalidationSink {
    barriers: Arc<Barriers>,
    clock: Clock,
    events: Events,
    /// Levels in front of the subscribed store, which hold copies.
    level_1: Vec<Arc<dyn CacheStore>>,
}

impl InvalidationSink {
    pub(super) const fn new(barriers: Arc<Barriers>, clock: Clock, events: Events) -> Self {
        Self { barriers, clock, events, level_1: Vec::new() }
    }

    /// Returns the clock of the cache.
    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the event sink of the cache.
    pub(crate) fn events(&self) -> Events {
        self.events.clone()
    }

    /// Returns a sink for a store behind `level_1`.
    pub(crate) fn behind(mut self, level_1: Arc<dyn CacheStore>) -> Self {
        self.level_1.push(level_1);
        self
    }

    /// Applies an invalidation of another process: entries whose fetch began before are void in this process, or stale.
    ///
    /// ```
    /// use tollgate::cache::{Invalidation, InvalidationSink};
    ///
    /// fn on_message(sink: &InvalidationSink, message: &[u8]) {
    ///     if let Some(invalidation) = Invalidation::from_bytes(message) {
    ///         sink.invalidated(&invalidation);
    ///     }
    /// }
    /// # let _ = on_message;
    /// ```
    pub fn invalidated(&self, invalidation: &Invalidation) {
        self.barriers.insert(invalidation.scope.clone(), invalidation.effect);
    }

    /// Removes the copies of a key that another process removed.
    ///
    /// ```
    /// use tollgate::cache::{CacheKey, InvalidationSink};
    ///
    /// fn on_removal(sink: &InvalidationSink, key: &CacheKey) {
    ///     sink.removed(key);
    /// }
    /// # let _ = on_removal;
    /// ```
    pub fn removed(&self, key: &CacheKey) {
        for level in &self.level_1 {
            // These levels are on this host: an error is observed at the next look-up.
            if let MaybeReady::Pending(removal) = level.remove(key)
                && let Ok(runtime) = tokio::runtime::Handle::try_current()
            {
                drop(runtime.spawn(removal));
            }
        }
    }

    /// Invalidates everything held so far, after invalidations of other processes may have been lost.
    ///
    /// ```
    /// use tollgate::cache::InvalidationSink;
    ///
    /// fn on_reconnect(sink: &InvalidationSink) {
    ///     sink.updates_lost();
    /// }
    /// # let _ = on_reconnect;
    /// ```
    pub fn updates_lost(&self) {
        self.barriers.insert(InvalidationScope::All, InvalidationEffect::Void);
    }

    /// Returns the number of invalidations in this process.
    pub(crate) fn generation(&self) -> u64 {
        self.barriers.generation()
    }

    /// Checks an entry under this key.
    pub(super) fn check(&self, key: &CacheKey, meta: &RecordMeta) -> Validity {
        self.barriers.check(key, meta)
    }
}

impl fmt::Debug for InvalidationSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvalidationSink").field("generation", &self.generation()).finish_non_exhaustive()
    }
}
