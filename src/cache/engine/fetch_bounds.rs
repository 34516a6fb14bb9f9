//! [`FetchBounds`]: bounds that all fetches of a cache share, whatever they fetch.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refresh_backoff::RefreshBackoff;
use crate::cache::engine::coalesce::background_slots::BackgroundSlots;

/// Maximum number of fetches that outlive their clients, and of background refreshes.
const MAX_BACKGROUND: u64 = 256;
/// Maximum number of concurrent fetches of what was invalidated.
const MAX_REFETCHES: usize = 64;

/// Bounds on fetches.
pub(crate) struct FetchBounds {
    /// Fetches that outlive their clients.
    pub(crate) detached: Arc<BackgroundSlots>,
    /// Background refreshes.
    pub(crate) refreshes: Arc<BackgroundSlots>,
    /// Pauses after failed refreshes.
    pub(crate) backoff: RefreshBackoff,
    /// Fetches of what an invalidation has made unusable: after a purge, every key misses at once.
    refetches: Arc<Semaphore>,
}

impl Default for FetchBounds {
    fn default() -> Self {
        Self {
            detached: BackgroundSlots::new(MAX_BACKGROUND),
            refreshes: BackgroundSlots::new(MAX_BACKGROUND),
            backoff: RefreshBackoff::default(),
            refetches: Arc::new(Semaphore::new(MAX_REFETCHES)),
        }
    }
}

impl FetchBounds {
    /// Waits for a permit to fetch what was invalidated, at most `longest`; after that the fetch goes on without one.
    pub(crate) async fn refetch(&self, longest: std::time::Duration) -> Option<OwnedSemaphorePermit> {
        tokio::time::timeout(longest, self.refetches.clone().acquire_owned()).await.ok()?.ok()
    }
}
