//! [`FetchDeadlines`]: how long a caller waits: soft timeout, wait for another's fetch, hard timeout.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::slow_start::SlowStart;
use crate::base::clock::runtime_now;

/// Deadline that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassedDeadline {
    /// The soft timeout: serve something stale.
    Soft,
    /// The deadline for waiting for another caller's fetch.
    Wait,
    /// The hard timeout.
    Hard,
}

/// Deadlines of a caller, counted from its arrival.
pub(crate) struct FetchDeadlines {
    /// Cleared once it has passed.
    soft: Option<Instant>,
    wait: Option<Instant>,
    hard: Option<Instant>,
    longest_wait: Duration,
}

impl FetchDeadlines {
    /// Creates the deadlines of a caller that has just arrived.
    pub(crate) fn new(soft: Option<Duration>, wait: Duration, hard: Option<Duration>) -> Self {
        let now = runtime_now();
        let after = |span: Option<Duration>| span.and_then(|span| now.checked_add(span));
        Self { soft: after(soft), wait: after(Some(wait)), hard: after(hard), longest_wait: wait }
    }

    /// Waits for another caller's fetch.
    ///
    /// # Errors
    /// The first deadline that passes.
    pub(crate) async fn following<T>(&mut self, fetch: impl Future<Output = T>) -> Result<T, PassedDeadline> {
        let deadlines =
            [(self.soft, PassedDeadline::Soft), (self.hard, PassedDeadline::Hard), (self.wait, PassedDeadline::Wait)];
        self.until(deadlines, fetch).await
    }

    /// Waits for the caller's own fetch; `late` may answer in its place when a deadline passes.
    pub(crate) async fn leading<T>(
        mut self,
        fetch: impl Future<Output = T>,
        mut late: impl FnMut(PassedDeadline) -> Option<T>,
    ) -> T {
        let mut fetch = pin!(fetch);
        loop {
            let deadlines = [(self.soft, PassedDeadline::Soft), (self.hard, PassedDeadline::Hard)];
            match self.until(deadlines, fetch.as_mut()).await {
                Ok(fetched) => return fetched,
                Err(passed) => {
                    if let Some(answer) = late(passed) {
                        return answer;
                    }
                }
            }
        }
    }

    /// Waits for a permit of the slow start, at most as long as for another's fetch. `None` after that.
    ///
    /// # Errors
    /// [`PassedDeadline::Hard`].
    pub(crate) async fn slow_start<'a>(
        &mut self,
        gate: &'a SlowStart,
    ) -> Result<Option<SemaphorePermit<'a>>, PassedDeadline> {
        self.soft = None;
        self.wait = runtime_now().checked_add(self.longest_wait);
        let mut permit = pin!(gate.permits().acquire());
        loop {
            let grows = async {
                match gate.grow(runtime_now()) {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            match self.following(select(permit.as_mut(), pin!(grows))).await {
                Ok(Either::Left((permit, _))) => return Ok(permit.ok()),
                Ok(Either::Right(_)) => {}
                Err(PassedDeadline::Hard) => return Err(PassedDeadline::Hard),
                Err(_) => return Ok(None),
            }
        }
    }

    async fn until<T, const N: usize>(
        &mut self,
        deadlines: [(Option<Instant>, PassedDeadline); N],
        future: impl Future<Output = T>,
    ) -> Result<T, PassedDeadline> {
        let set = deadlines.into_iter().filter_map(|(at, passed)| at.map(|at| (at, passed)));
        let Some((first, passed)) = set.min_by_key(|(at, _)| *at) else { return Ok(future.await) };
        timeout_at(first, future).await.map_err(|_| {
            match passed {
                PassedDeadline::Soft => self.soft = None,
                PassedDeadline::Hard => self.hard = None,
                PassedDeadline::Wait => {}
            }
            passed
        })
    }
}
