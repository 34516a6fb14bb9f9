//! Deadlines of a caller: soft timeout, wait for another's load, and hard timeout, each counted from its arrival.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::namespace::NamespaceSettings;
use crate::base::clock::runtime_now;

/// Deadline that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassedDeadline {
    /// The soft timeout: serve a stale value.
    Soft,
    /// The deadline for waiting for another caller's load.
    Wait,
    /// The hard timeout.
    Hard,
}

/// Deadlines of a caller.
pub(super) struct LoadDeadlines {
    /// Cleared once it has passed.
    soft: Option<Instant>,
    wait: Option<Instant>,
    hard: Option<Instant>,
}

impl LoadDeadlines {
    /// Creates the deadlines of a caller that has just arrived.
    pub(super) fn new(settings: &NamespaceSettings, has_stale: bool) -> Self {
        let now = runtime_now();
        let after = |span: Option<Duration>| span.and_then(|span| now.checked_add(span));
        let soft = after(settings.soft_timeout.filter(|_| has_stale));
        Self { soft, wait: after(Some(settings.wait)), hard: after(settings.hard_timeout) }
    }

    /// Waits for another caller's load.
    pub(super) async fn wait<T>(&mut self, load: impl Future<Output = T>) -> Result<T, PassedDeadline> {
        let deadlines =
            [(self.soft, PassedDeadline::Soft), (self.hard, PassedDeadline::Hard), (self.wait, PassedDeadline::Wait)];
        self.until(deadlines, load).await
    }

    /// Waits for the caller's own load.
    pub(super) async fn load<T>(&mut self, load: impl Future<Output = T>) -> Result<T, PassedDeadline> {
        self.until(
            [(self.soft, PassedDeadline::Soft), (self.hard, PassedDeadline::Hard), (None, PassedDeadline::Wait)],
            load,
        )
        .await
    }

    /// Waits for a permit, at most `longest`.
    pub(super) async fn permit<'a>(
        &mut self,
        permits: &'a Semaphore,
        longest: Duration,
    ) -> Result<Option<SemaphorePermit<'a>>, PassedDeadline> {
        self.soft = None;
        self.wait = runtime_now().checked_add(longest);
        let permit: Result<Result<_, AcquireError>, _> = self.wait(permits.acquire()).await;
        match permit {
            Ok(permit) => Ok(permit.ok()),
            Err(PassedDeadline::Hard) => Err(PassedDeadline::Hard),
            Err(_) => Ok(None),
        }
    }

    async fn until<T>(
        &mut self,
        deadlines: [(Option<Instant>, PassedDeadline); 3],
        future: impl Future<Output = T>,
    ) -> Result<T, PassedDeadline> {
        let set = deadlines.into_iter().filter_map(|(at, passed)| at.map(|at| (at, passed)));
        let Some((first, passed)) = set.min_by_key(|(at, _)| *at) else { return Ok(future.await) };
        timeout_at(first, future).await.map_err(|_| {
            if passed == PassedDeadline::Soft {
                self.soft = None;
            }
            passed
        })
    }
}
