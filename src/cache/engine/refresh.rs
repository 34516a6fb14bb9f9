//! Background refreshes: one at a time per key, one per fleet, and fewer after failures.

use std::future::Future;
use std::time::Duration;

use super::coalesce::detached_fetch::detach_fetch;
use super::coalesce::table::Leader;
use crate::base::clock::Timestamp;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::cache_engine::Engine;
use crate::cache::engine::fetch_permit::FetchPermit;
use crate::cache::engine::record::Stored;
use crate::cache::http::key::CacheKey;

/// Record to refresh while it is served.
pub(crate) struct Refresh<P> {
    /// Primary key.
    pub(crate) key: CacheKey,
    pub(crate) old: Stored,
    pub(crate) leader: Leader<P>,
    /// How long other processes leave the refresh to this one; zero for no lease.
    pub(crate) lease: Duration,
    /// Answer for followers if another process has refreshed the value.
    pub(crate) publish: fn(Stored) -> Option<P>,
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
        detach_fetch(async move {
            let Refresh { key, old, leader, lease, publish } = refresh;
            let permit = match self.in_process || lease.is_zero() {
                true => FetchPermit::Free,
                false => {
                    let newer = |stored: &Stored| self.is_newer(stored, &key, &old);
                    self.acquire_refresh_permit(old.key(), self.lease(old.key(), lease), newer).await
                }
            };
            match permit {
                FetchPermit::Stored(stored) => drop(publish(stored).map(|progress| leader.publish(progress))),
                FetchPermit::Held => {}
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

    /// Whether this record replaces the one that is served.
    fn is_newer(&self, stored: &Stored, key: &CacheKey, old: &Stored) -> bool {
        let (Some(found), Some(served)) = (stored.meta(), old.meta()) else { return false };
        stored.key() == old.key()
            && found.stored_at > served.stored_at
            && self.clock.now() < found.deadlines.refresh_from
            && self.barriers.check(key, found) == Validity::Valid
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
