//! [`IsolatedStore`]: isolates a user-supplied store, so that its panics and timeouts become errors.

use std::sync::Arc;
use std::time::Duration;

use super::invalidation::Invalidation;
use super::invalidation_sink::InvalidationSink;
use super::lease::{GetOrClaim, Lease, LeaseState};
use super::record::Stored;
use super::store::{CacheStore, LevelStats};
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::cache::http::key::CacheKey;
use crate::resilience::isolate::{TIMEOUT, isolate_now, isolate_within};

/// Calls the store with panics caught and a timeout.
pub(crate) struct IsolatedStore {
    store: Arc<dyn CacheStore>,
    /// Whether the store compares what it replaces.
    orders_puts: bool,
    timeout: Duration,
}

impl IsolatedStore {
    /// Isolates a store. One with deadlines of its own is given the time to meet them.
    pub(crate) fn new(store: Arc<dyn CacheStore>) -> Self {
        let own = isolate_now(|| store.deadline());
        let orders_puts = isolate_now(|| store.orders_puts());
        Self { store, orders_puts, timeout: own.map_or(TIMEOUT, |own| own.saturating_add(TIMEOUT)) }
    }
}

impl CacheStore for IsolatedStore {
    fn get(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        isolate_within(self.timeout, "cache", || self.store.get(key, now))
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>> {
        if self.orders_puts {
            return isolate_within(self.timeout, "cache", || self.store.put(key, stored, now));
        }
        let (old, store, timeout, key) = (self.get(key, now), self.store.clone(), self.timeout, key.clone());
        let put = move |old: Result<Option<Stored>, Error>| match old {
            Ok(Some(old)) if old.key() == &key && !stored.may_replace(&old) => {
                MaybeReady::Ready(Err(Error::superseded("cache")))
            }
            _ => isolate_within(timeout, "cache", || store.put(&key, stored, now)),
        };
        match old {
            MaybeReady::Ready(old) => put(old),
            MaybeReady::Pending(old) => MaybeReady::Pending(Box::pin(async move { put(old.await).await })),
        }
    }

    fn orders_puts(&self) -> bool {
        true
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

    fn claim(&self, lease: &Lease<CacheKey>) -> MaybeReady<LeaseState> {
        let state = isolate_within(self.timeout, "cache", || self.store.claim(lease).map(Ok));
        state.map(|state| state.unwrap_or(LeaseState::Granted))
    }

    fn release(&self, lease: &Lease<CacheKey>, uncacheable: Option<Duration>) -> MaybeReady<Result<(), Error>> {
        isolate_within(self.timeout, "cache", || self.store.release(lease, uncacheable))
    }

    fn get_or_claim(
        &self,
        key: &CacheKey,
        lease: &Lease<CacheKey>,
        now: Timestamp,
    ) -> MaybeReady<Result<GetOrClaim<Stored>, Error>> {
        isolate_within(self.timeout, "cache", || self.store.get_or_claim(key, lease, now))
    }

    fn put_and_release(
        &self,
        key: &CacheKey,
        stored: Stored,
        lease: &Lease<CacheKey>,
        now: Timestamp,
    ) -> MaybeReady<Result<(), Error>> {
        isolate_within(self.timeout, "cache", || self.store.put_and_release(key, stored, lease, now))
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

    fn count(&self, matches: &dyn Fn(&Stored) -> bool) -> (u64, u64) {
        isolate_now(|| self.store.count(matches))
    }

    /// Without a timeout: it scans every entry.
    fn sweep(&self, pattern: &str) -> MaybeReady<Result<u64, Error>> {
        self.store.sweep(pattern)
    }

    fn listen(&self, listener: InvalidationSink) {
        isolate_now(|| self.store.listen(listener));
    }
}
