//! Background refreshes: one at a time per key, one per fleet, and fewer after failures.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::coalesce::detached_fetch::detach;
use super::coalesce::table::Leader;
use crate::base::clock::Timestamp;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::cache_engine::Engine;
use crate::cache::engine::fetch_permit::FetchPermit;
use crate::cache::engine::record::{Entry, Stored};
use crate::cache::http::key::CacheKey;

/// Entry to refresh while it is served.
pub(crate) struct Refresh<P> {
    /// Primary key.
    pub(crate) key: CacheKey,
    pub(crate) old: Arc<Entry>,
    pub(crate) leader: Leader<P>,
    /// How long other processes leave the refresh to this one; zero for no lease.
    pub(crate) lease: Duration,
    /// What followers get if another process has refreshed it.
    pub(crate) publish: fn(Arc<Entry>) -> P,
}

impl Engine {
    /// Whether the key may be refreshed now: not soon after a refresh that failed.
    pub(crate) fn may_refresh(&self, key: &CacheKey, now: Timestamp) -> bool {
        self.bounds.backoff.may_refresh(key, now)
    }

    /// Refreshes an entry in the background, unless another process has done so or is doing so. `fetch` returns whether it
    /// succeeded.
    pub(crate) fn refresh<P, Fut>(self, refresh: Refresh<P>, fetch: impl FnOnce(Leader<P>) -> Fut + Send + 'static)
    where
        P: Send + 'static,
        Fut: Future<Output = bool> + Send,
    {
        let Some(slot) = self.bounds.refreshes.try_acquire() else { return };
        detach(async move {
            let Refresh { key, old, leader, lease, publish } = refresh;
            let permit = match self.in_process || lease.is_zero() {
                true => FetchPermit::Free,
                false => {
                    let newer = |stored: &Stored| self.is_newer(stored, &key, &old);
                    self.acquire_refresh_permit(&old.key, self.lease(&old.key, lease), newer).await
                }
            };
            match permit {
                FetchPermit::Stored(Stored::Entry(entry)) => leader.publish(publish(entry)),
                FetchPermit::Stored(Stored::Vary(_)) | FetchPermit::Held => {}
                FetchPermit::Free | FetchPermit::Uncacheable | FetchPermit::Leased(_) => {
                    let outcome = RefreshOutcome { engine: &self, key: &key };
                    if fetch(leader).await {
                        outcome.succeeded();
                        // After a failure the lease lasts: the other processes pause too.
                        if let FetchPermit::Leased(lease) = permit {
                            self.release(&lease, None).await;
                        }
                    }
                }
            }
            drop(slot);
        });
    }

    /// Whether this entry replaces the one that is served.
    fn is_newer(&self, stored: &Stored, key: &CacheKey, old: &Entry) -> bool {
        let Stored::Entry(found) = stored else { return false };
        found.key == old.key
            && found.meta.stored_at > old.meta.stored_at
            && self.clock.now() < found.meta.deadlines.refresh_from
            && self.barriers.check(key, &found.meta) == Validity::Valid
    }
}

/// Notes a failed refresh when dropped, also after a panic.
struct RefreshOutcome<'a> {
    engine: &'a Engine,
    key: &'a CacheKey,
}

impl RefreshOutcome<'_> {
    fn succeeded(self) {
        self.engine.bounds.backoff.succeeded(self.key);
        std::mem::forget(self);
    }
}

impl Drop for RefreshOutcome<'_> {
    fn drop(&mut self) {
        self.engine.bounds.backoff.failed(self.key, self.engine.clock.now());
    }
}
