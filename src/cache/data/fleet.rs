//! Load leases: one load per fleet, best effort. A process acquires a lease from the shared store before it loads.
//!
//! | state of another process | this process |
//! |---|---|
//! | has loaded the value | uses that |
//! | is loading it | polls until the value is stored, the lease is released, or it expires |
//! | neither | loads |
//!
//! A store without leases, or an unavailable one, grants every lease: then each process loads by itself.

use std::sync::Arc;
use std::time::Duration;

use super::namespace::Namespace;
use crate::base::clock::runtime_now;
use crate::cache::engine::record::Entry;
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::Freshness;

/// First and longest interval between polls; the interval doubles each time.
const POLL_INTERVALS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(160));

/// Permit of a process to load a value.
pub(super) enum LoadPermit {
    /// Granted without a lease.
    Free,
    /// Granted with a lease under this key, for which other processes wait.
    Granted(CacheKey),
    /// Another process has loaded the value.
    Loaded(Arc<Entry>),
    /// Another process holds the lease.
    Denied,
}

/// Upper bound of the wait for a lease.
const LONGEST_LEASE: Duration = Duration::from_secs(86_400);

impl Namespace {
    /// Acquires a permit to load a missing value. Waits for another process's load, at most as long as a lease.
    pub(super) async fn acquire_load_permit(&self, key: &CacheKey) -> LoadPermit {
        if self.engine.in_process || self.settings.lease.is_zero() {
            return LoadPermit::Free;
        }
        let deadline = runtime_now() + self.settings.lease.min(LONGEST_LEASE);
        let mut pause = POLL_INTERVALS.0;
        loop {
            let permit = self.claim(key).await;
            // Another process may have completed its load just before.
            if let Some(entry) = self.loaded_elsewhere(key).await {
                self.release_permit(permit).await;
                return LoadPermit::Loaded(entry);
            }
            if !matches!(permit, LoadPermit::Denied) {
                return permit;
            }
            if runtime_now() >= deadline {
                return LoadPermit::Free;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_INTERVALS.1);
        }
    }

    /// Acquires a permit to refresh a value that is being served, without waiting.
    pub(super) async fn acquire_refresh_permit(&self, key: &CacheKey, old: &Entry) -> LoadPermit {
        if self.engine.in_process || self.settings.lease.is_zero() {
            return LoadPermit::Free;
        }
        let permit = self.claim(key).await;
        match self.loaded_elsewhere(key).await.filter(|entry| entry.meta.stored_at > old.meta.stored_at) {
            Some(entry) => {
                self.release_permit(permit).await;
                LoadPermit::Loaded(entry)
            }
            None => permit,
        }
    }

    async fn claim(&self, key: &CacheKey) -> LoadPermit {
        // A load after an invalidation has a lease of its own.
        let name = key.variant(&self.engine.store.generation().to_be_bytes());
        match self.engine.store.claim(&name, self.settings.lease).await {
            true => LoadPermit::Granted(name),
            false => LoadPermit::Denied,
        }
    }

    async fn loaded_elsewhere(&self, key: &CacheKey) -> Option<Arc<Entry>> {
        let now = self.engine.clock.now();
        let entry = self.accept(key, self.engine.store.get_shared(key, now).await)?;
        (self.freshness(key, &entry, now) == Freshness::Fresh).then_some(entry)
    }

    /// Releases the lease, so that other processes stop waiting.
    pub(super) async fn release_permit(&self, permit: LoadPermit) {
        if let LoadPermit::Granted(name) = permit
            && let Err(error) = self.engine.store.release(&name).await
        {
            self.store_failed(&error);
        }
    }
}
