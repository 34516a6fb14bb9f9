//! [`NextStep`]: respond, wait, or lead a fetch.

use std::sync::Arc;

use super::detached_fetch::lead;
use super::shared::CacheShared;
use crate::base::maybe_ready::BoxFuture;

/// Next step of a request after its look-up.
pub(super) enum NextStep<T> {
    Respond(T),
    /// Fetches for itself alone; the fetch ends with its client.
    Unshared(BoxFuture<T>),
    /// Waits for another request's fetch.
    Wait(BoxFuture<T>),
    /// Leads a fetch.
    Lead(BoxFuture<T>, Arc<CacheShared>),
}

impl<T: Send + 'static> NextStep<T> {
    pub(super) async fn finish(self) -> T {
        match self {
            Self::Respond(response) => response,
            Self::Unshared(response) | Self::Wait(response) => response.await,
            Self::Lead(fetched, core) => lead(fetched, core).await,
        }
    }
}
