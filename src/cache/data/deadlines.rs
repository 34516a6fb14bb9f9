//! How long a caller waits, and for what: three deadlines, each counted from its arrival.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::namespace::NamespaceSettings;
use crate::base::clock::runtime_now;

/// Deadline that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassedDeadline {
    /// A stale value is served rather than waited any longer.
    Soft,
    /// Somebody else's load is waited for no longer.
    Wait,
    /// Nothing is waited for any longer.
    Hard,
}

/// Deadlines of a caller.
pub(super) struct LoadDeadlines {
    /// Until it is over once.
    soft: Option<Instant>,
    wait: Option<Instant>,
    hard: Option<Instant>,
}

impl LoadDeadlines {
    /// Of a caller who has just arrived.
    pub(super) fn new(settings: &NamespaceSettings, has_stale: bool) -> Self {
        let now = runtime_now();
        let after = |span: Option<Duration>| span.and_then(|span| now.checked_add(span));
        let soft = after(settings.soft.filter(|_| has_stale));
        Self { soft, wait: after(Some(settings.wait)), hard: after(settings.hard) }
    }

    /// Waits for somebody else's load.
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

    /// Waits for a turn, which comes at the latest after `longest`.
    pub(super) async fn turn<'a>(
        &mut self,
        turnstile: &'a Arc<Semaphore>,
        longest: Duration,
    ) -> Result<Option<SemaphorePermit<'a>>, PassedDeadline> {
        self.soft = None;
        self.wait = runtime_now().checked_add(longest);
        let turn: Result<Result<_, AcquireError>, _> = self.wait(turnstile.acquire()).await;
        match turn {
            Ok(turn) => Ok(turn.ok()),
            Err(PassedDeadline::Hard) => Err(PassedDeadline::Hard),
            Err(_) => Ok(None),
        }
    }

    async fn until<T>(
        &mut self,
        deadlines: [(Option<Instant>, PassedDeadline); 3],
        future: impl Future<Output = T>,
    ) -> Result<T, PassedDeadline> {
        let set = deadlines.into_iter().filter_map(|(at, over)| at.map(|at| (at, over)));
        let Some((first, over)) = set.min_by_key(|(at, _)| *at) else { return Ok(future.await) };
        timeout_at(first, future).await.map_err(|_| {
            if over == PassedDeadline::Soft {
                self.soft = None;
            }
            over
        })
    }
}
