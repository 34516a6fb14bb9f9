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
use crate::resilience::isolate::{isolate, isolate_now};

/// Calls the store with panics caught and a timeout.
pub(super) struct IsolatedStore(pub(super) Arc<dyn CacheStore>);

impl CacheStore for IsolatedStore {
    fn get(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        isolate("cache", || self.0.get(key, now))
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>> {
        isolate("cache", || self.0.put(key, stored, now))
    }

    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        isolate("cache", || self.0.remove(key))
    }

    fn stats(&self) -> Vec<LevelStats> {
        isolate_now(|| self.0.stats())
    }

    fn get_many(&self, keys: &[CacheKey], now: Timestamp) -> MaybeReady<Result<Vec<Option<Stored>>, Error>> {
        isolate("cache", || self.0.get_many(keys, now))
    }

    fn get_shared(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        isolate("cache", || self.0.get_shared(key, now))
    }

    fn claim(&self, key: &CacheKey, lease: Duration) -> MaybeReady<bool> {
        let granted = isolate("cache", || self.0.claim(key, lease).map(Ok));
        granted.map(|granted| granted.unwrap_or(true))
    }

    fn release(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        isolate("cache", || self.0.release(key))
    }

    fn copy_ttl(&self) -> Option<Duration> {
        isolate_now(|| self.0.copy_ttl())
    }

    fn generation(&self) -> u64 {
        isolate_now(|| self.0.generation())
    }

    fn invalidate(&self, invalidation: &Invalidation) -> MaybeReady<Result<(), Error>> {
        isolate("cache", || self.0.invalidate(invalidation))
    }

    /// Without a timeout: it scans every entry.
    fn sweep(&self, pattern: &str) -> MaybeReady<Result<u64, Error>> {
        self.0.sweep(pattern)
    }

    fn listen(&self, listener: InvalidationSink) {
        isolate_now(|| self.0.listen(listener));
    }
}
