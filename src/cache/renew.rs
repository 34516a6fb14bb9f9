//! Refreshing once in a fleet: before an entry is fetched again in the background, whoever shares the store is asked.

use std::sync::Arc;

use super::barrier::Validity;
use super::core::Core;
use super::entry::{Entry, Stored};
use super::flight::{Lead, Progress};
use super::key::CacheKey;

impl Core {
    /// Whether another process has refreshed this entry, or is about to. What it has stored is told to those who wait.
    pub(super) async fn is_renewed_elsewhere(&self, key: &CacheKey, old: &Arc<Entry>, lead: &Lead) -> bool {
        let now = self.clock.now();
        if let Ok(Some(Stored::Entry(found))) = self.store.get_shared(&old.key, now).await
            && found.key == old.key
            && found.meta.stored_at > old.meta.stored_at
            && now < found.meta.windows.refresh_from
            && self.barriers.check(key, &found.meta) == Validity::Valid
        {
            lead.tell(Progress::Stored(found));
            return true;
        }
        // As long as one fetch may keep others waiting here, it may keep them waiting elsewhere.
        !self.store.claim(&old.key, self.settings.wait).await
    }
}
