//! Refresh lease: one background refresh per fleet. The shared store is asked before an entry is refreshed.

use std::sync::Arc;

use super::shared::CacheShared;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::coalesce::{FetchProgress, Leader};
use crate::cache::engine::record::{Entry, Stored};
use crate::cache::http::key::CacheKey;

impl CacheShared {
    /// Whether another process has refreshed this entry or holds the lease. Publishes its entry to the followers.
    pub(super) async fn is_refreshed_elsewhere(&self, key: &CacheKey, old: &Arc<Entry>, leader: &Leader) -> bool {
        let now = self.clock.now();
        if let Ok(Some(Stored::Entry(found))) = self.store.get_shared(&old.key, now).await
            && found.key == old.key
            && found.meta.stored_at > old.meta.stored_at
            && now < found.meta.deadlines.refresh_from
            && self.barriers.check(key, &found.meta) == Validity::Valid
        {
            leader.publish(FetchProgress::Stored(found));
            return true;
        }
        // The lease lasts as long as requests wait for a fetch in this process.
        !self.store.claim(&old.key, self.settings.wait).await
    }
}
