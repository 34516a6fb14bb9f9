//! [`IsolatedStore`]: isolates a user-supplied store, so that its panics and timeouts become errors.

use std::sync::Arc;
use std::time::Duration;

use super::invalidation::Invalidation;
use super::invalidation_sink::InvalidationSink;
use super::record::Stored;
use super::store::{CacheStore, LevelStats};
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::cache::http::key::CacheKey;
use crate::resilience::isolate::{TIMEOUT, isolate_now, isolate_within};

/// Calls the store with panics caught and a timeout.
pub(super) struct IsolatedStore {
    store: Arc<dyn CacheStore>,
    timeout: Duration,
}

impl IsolatedStore {
    /// Isolates a store. One with deadlines of its own is given the time to meet them.
    pub(super) fn new(store: Arc<dyn CacheStore>) -> Self {
        let own = isolate_now(|| store.deadline());
        Self { store, timeout: own.map_or(TIMEOUT, |own| own.saturating_add(TIMEOUT)) }
    }
}

impl CacheStore for IsolatedStore {
    fn get(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        isolate_within(self.timeout, "cache", || self.store.get(key, now))
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>> {
        isolate_within(self.timeout, "cache", || self.store.put(key, stored, now))
    }

    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        isolate_within(self.timeout, "cache", || self.store.remove(key))
    }

    fn stats(&self) -> Vec<LevelStats> {
        isolate_now(|| self.store.stats())
    }

    fn get_many(&self, keys: &[CacheKey], now: Timestamp) -> MaybeReady<Result<Vec<Option<Stored>>, Error>> {
        isolate_within(self.timeout, "cache", || self.store.get_many(keys, now))
    }

    fn get_shared(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        isolate_within(self.timeout, "cache", || self.store.get_shared(key, now))
    }

    fn claim(&self, key: &CacheKey, lease: Duration) -> MaybeReady<bool> {
        let granted = isolate_within(self.timeout, "cache", || self.store.claim(key, lease).map(Ok));
        granted.map(|granted| granted.unwrap_or(true))
    }

    fn release(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        isolate_within(self.timeout, "cache", || self.store.release(key))
    }

    fn deadline(&self) -> Option<Duration> {
        Some(self.timeout)
    }

    fn copy_ttl(&self) -> Option<Duration> {
        isolate_now(|| self.store.copy_ttl())
    }

    fn generation(&self) -> u64 {
        isolate_now(|| self.store.generation())
    }

    fn invalidate(&self, invalidation: &Invalidation) -> MaybeReady<Result<(), Error>> {
        isolate_within(self.timeout, "cache", || self.store.invalidate(invalidation))
    }

    /// Without a timeout: it scans every entry.
    fn sweep(&self, pattern: &str) -> MaybeReady<Result<u64, Error>> {
        self.store.sweep(pattern)
    }

    fn listen(&self, listener: InvalidationSink) {
        isolate_now(|| self.store.listen(listener));
    }
}
