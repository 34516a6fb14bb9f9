//! Fetches that may outlive their clients.
//!
//! A leader's fetch is polled in its client's task. If it does not complete at once, it continues in a detached task, so that
//! a client that leaves does not cancel it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::poll_immediate;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use super::background_slots::BackgroundSlots;
use crate::base::detached_context::{carry, carry_fetch};
use crate::base::maybe_ready::BoxFuture;

/// Awaits a leader's fetch. One that does not complete at once continues in a detached task, so that a client that leaves
/// does not cancel it; without a client it may take as long as `idle`. Panics of the fetch propagate to the caller.
pub(crate) async fn lead<T: Send + 'static>(
    mut fetched: BoxFuture<T>,
    slots: Arc<BackgroundSlots>,
    idle: Duration,
) -> T {
    if let Some(response) = poll_immediate(&mut fetched).await {
        return response;
    }
    let task = tokio::spawn(carry_fetch(fetched));
    match (DetachedFetch { task: Some(task), slots, idle }).await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and with it this task.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Refreshes something in a detached task that belongs to the current request.
pub(crate) fn detach_fetch(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(carry_fetch(work));
}

/// Runs work in a detached task that belongs to the current request.
pub(crate) fn detach(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(carry(work));
}

/// A fetch that may outlive its client, within the bound on background slots.
struct DetachedFetch<T: Send + 'static> {
    task: Option<JoinHandle<T>>,
    slots: Arc<BackgroundSlots>,
    idle: Duration,
}

impl<T: Send + 'static> Future for DetachedFetch<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = &mut self.task else { return Poll::Pending };
        let done = ready!(Pin::new(task).poll(cx));
        self.task = None;
        Poll::Ready(done)
    }
}

impl<T: Send + 'static> Drop for DetachedFetch<T> {
    fn drop(&mut self) {
        let Some(mut task) = self.task.take() else { return };
        match (self.slots.try_acquire(), Handle::try_current()) {
            (Some(slot), Ok(runtime)) => {
                let idle = self.idle;
                runtime.spawn(async move {
                    if tokio::time::timeout(idle, &mut task).await.is_err() {
                        task.abort();
                    }
                    drop(slot);
                });
            }
            _ => task.abort(),
        }
    }
}
