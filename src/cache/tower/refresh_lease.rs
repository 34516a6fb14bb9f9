//! Refreshing once in a fleet: before an entry is fetched again in the background, whoever shares the store is asked.

use std::sync::Arc;

use super::shared::CacheShared;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::coalesce::{FetchProgress, Leader};
use crate::cache::engine::record::{Entry, Stored};
use crate::cache::http::key::CacheKey;

impl CacheShared {
    /// Whether another process has refreshed this entry, or is about to. What it has stored is told to those who wait.
    pub(crate) async fn is_renewed_elsewhere(&self, key: &CacheKey, old: &Arc<Entry>, lead: &Leader) -> bool {
        let now = self.clock.now();
        if let Ok(Some(Stored::Entry(found))) = self.store.get_shared(&old.key, now).await
            && found.key == old.key
            && found.meta.stored_at > old.meta.stored_at
            && now < found.meta.deadlines.refresh_from
            && self.barriers.check(key, &found.meta) == Validity::Valid
        {
            lead.publish(FetchProgress::Stored(found));
            return true;
        }
        // As long as one fetch may keep others waiting here, it may keep them waiting elsewhere.
        !self.store.claim(&old.key, self.settings.wait).await
    }
}
