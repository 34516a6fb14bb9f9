//! [`Contained`]: a store that others wrote, kept from taking requests down.

use std::sync::Arc;
use std::time::Duration;

use super::entry::Stored;
use super::invalidation::Invalidation;
use super::key::CacheKey;
use super::listener::Listener;
use super::store::{CacheStore, LevelStats};
use crate::answer::Answer;
use crate::clock::Timestamp;
use crate::contain::{contain, contain_now};
use crate::error::Error;

/// Every method of the store, its panics and delays turned into errors.
pub(super) struct Contained(pub(super) Arc<dyn CacheStore>);

impl CacheStore for Contained {
    fn get(&self, key: &CacheKey, now: Timestamp) -> Answer<Result<Option<Stored>, Error>> {
        contain("cache", || self.0.get(key, now))
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> Answer<Result<(), Error>> {
        contain("cache", || self.0.put(key, stored, now))
    }

    fn remove(&self, key: &CacheKey) -> Answer<Result<(), Error>> {
        contain("cache", || self.0.remove(key))
    }

    fn stats(&self) -> Vec<LevelStats> {
        contain_now(|| self.0.stats())
    }

    fn get_many(&self, keys: &[CacheKey], now: Timestamp) -> Answer<Result<Vec<Option<Stored>>, Error>> {
        contain("cache", || self.0.get_many(keys, now))
    }

    fn get_shared(&self, key: &CacheKey, now: Timestamp) -> Answer<Result<Option<Stored>, Error>> {
        contain("cache", || self.0.get_shared(key, now))
    }

    fn claim(&self, key: &CacheKey, lease: Duration) -> Answer<bool> {
        let granted = contain("cache", || self.0.claim(key, lease).map(Ok));
        granted.map(|granted| granted.unwrap_or(true))
    }

    fn release(&self, key: &CacheKey) -> Answer<Result<(), Error>> {
        contain("cache", || self.0.release(key))
    }

    fn generation(&self) -> u64 {
        contain_now(|| self.0.generation())
    }

    fn invalidate(&self, invalidation: &Invalidation) -> Answer<Result<(), Error>> {
        contain("cache", || self.0.invalidate(invalidation))
    }

    /// Not held to a time: it looks at everything.
    fn sweep(&self, pattern: &str) -> Answer<Result<u64, Error>> {
        self.0.sweep(pattern)
    }

    fn listen(&self, listener: Listener) {
        contain_now(|| self.0.listen(listener));
    }
}
