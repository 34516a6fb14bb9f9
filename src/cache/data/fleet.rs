//! One load for a fleet, as far as that can be had: before it loads, a process asks those that share the store for
//! leave.
//!
//! | another process | this one |
//! |---|---|
//! | has loaded it meanwhile | takes that |
//! | is loading it | looks again and again, until it is there, that process gives up, or the lease is over |
//! | is not | loads |
//!
//! A store that cannot tell, or does not answer, grants everything: then each process loads by itself.

use std::sync::Arc;
use std::time::Duration;

use super::namespace::Namespace;
use crate::base::clock::runtime_now;
use crate::cache::engine::record::Entry;
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::Freshness;

/// How long to wait before looking again: twice as long each time, up to the second.
const GLANCES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(160));

/// Permit of a process to load a value.
pub(super) enum LoadPermit {
    /// It may, and has asked nobody.
    Free,
    /// It may, and the others wait for it: by this key.
    Granted(CacheKey),
    /// Another has loaded it.
    Loaded(Arc<Entry>),
    /// Another is at it.
    Denied,
}

impl Namespace {
    /// Leave to load what is not there. Waits for another process's load, at most as long as a lease.
    pub(super) async fn may_load(&self, key: &CacheKey) -> LoadPermit {
        if self.engine.in_process || self.settings.lease.is_zero() {
            return LoadPermit::Free;
        }
        let over = runtime_now() + self.settings.lease;
        let mut pause = GLANCES.0;
        loop {
            let leave = self.claim(key).await;
            // It may have been loaded just before.
            if let Some(entry) = self.loaded_elsewhere(key).await {
                self.give_up(leave).await;
                return LoadPermit::Loaded(entry);
            }
            if !matches!(leave, LoadPermit::Denied) {
                return leave;
            }
            if runtime_now() >= over {
                return LoadPermit::Free;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(GLANCES.1);
        }
    }

    /// Leave to refresh a value that is being served: nobody waits.
    pub(super) async fn may_renew(&self, key: &CacheKey, old: &Entry) -> LoadPermit {
        if self.engine.in_process || self.settings.lease.is_zero() {
            return LoadPermit::Free;
        }
        let leave = self.claim(key).await;
        match self.loaded_elsewhere(key).await.filter(|entry| entry.meta.stored_at > old.meta.stored_at) {
            Some(entry) => {
                self.give_up(leave).await;
                LoadPermit::Loaded(entry)
            }
            None => leave,
        }
    }

    async fn claim(&self, key: &CacheKey) -> LoadPermit {
        // What was taken back since is another thing to load.
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

    /// Tells the others to wait no longer.
    pub(super) async fn give_up(&self, leave: LoadPermit) {
        if let LoadPermit::Granted(name) = leave
            && let Err(error) = self.engine.store.release(&name).await
        {
            self.store_failed(&error);
        }
    }
}
