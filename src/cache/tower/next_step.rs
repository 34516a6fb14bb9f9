//! [`NextStep`]: respond, wait, or lead a fetch.

use std::sync::Arc;
use std::time::Duration;

use crate::base::maybe_ready::BoxFuture;
use crate::cache::engine::coalesce::background_slots::BackgroundSlots;
use crate::cache::engine::coalesce::detached_fetch::lead;

/// Next step of a request after its look-up.
pub(super) enum NextStep<T> {
    Respond(T),
    /// Fetches for itself alone; the fetch ends with its client.
    Unshared(BoxFuture<T>),
    /// Waits for another request's fetch.
    Wait(BoxFuture<T>),
    /// Leads a fetch.
    Lead {
        fetched: BoxFuture<T>,
        slots: Arc<BackgroundSlots>,
        idle: Duration,
    },
}

impl<T: Send + 'static> NextStep<T> {
    pub(super) async fn finish(self) -> T {
        match self {
            Self::Respond(response) => response,
            Self::Unshared(response) | Self::Wait(response) => response.await,
            Self::Lead { fetched, slots, idle } => lead(fetched, slots, idle).await,
        }
    }
}
