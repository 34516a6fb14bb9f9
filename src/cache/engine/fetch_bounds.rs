//! [`FetchBounds`]: bounds that all fetches of a cache share, whatever they fetch.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::refresh_backoff::RefreshBackoff;
use crate::base::clock::runtime_now;
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
    /// Waits for a permit to fetch what was invalidated, until `deadline`; after that the fetch goes on without one.
    pub(crate) async fn refetch(&self, deadline: Option<Instant>) -> Option<OwnedSemaphorePermit> {
        let permit = self.refetches.clone().acquire_owned();
        match deadline {
            Some(deadline) => timeout_at(deadline, permit).await.ok()?.ok(),
            None => permit.await.ok(),
        }
    }
}

/// Returns until when a fetch waits for such a permit, if its followers wait for it for `wait`: half of that, so that they
/// get what it fetches then. Otherwise each of them would fetch too.
pub(crate) fn refetch_deadline(wait: Duration) -> Option<Instant> {
    runtime_now().checked_add(wait / 2)
}
