//! Deadlines under the scheduler: time passes when a task of its own says so, at any moment.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use shuttle::sync::Mutex;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use crate::slow_start::{DOUBLING, SlowStart};

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The time of the current case.
pub(crate) fn runtime_now() -> Instant {
    NOW.get().unwrap_or_else(|| {
        #[expect(clippy::disallowed_methods, reason = "any moment to start from")]
        let now = Instant::now();
        NOW.set(Some(now));
        now
    })
}

/// Turns time, and wakes who waits for it.
#[derive(Default)]
pub(crate) struct Time(Mutex<Vec<Waker>>);

impl Time {
    pub(crate) fn advance(&self, span: Duration) {
        NOW.set(Some(runtime_now() + span));
        let wakers = std::mem::take(&mut *self.0.lock().expect("not poisoned"));
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) async fn until(&self, at: Instant) {
        poll_fn(|cx| {
            if runtime_now() >= at {
                return Poll::Ready(());
            }
            self.0.lock().expect("not poisoned").push(cx.waker().clone());
            // Time may have passed while the lock was taken.
            if runtime_now() >= at { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Deadline that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassedDeadline {
    Soft,
    Wait,
    Hard,
}

/// Deadlines of a caller: the same decisions as the crate's, over the time above.
pub(crate) struct FetchDeadlines {
    time: Arc<Time>,
    soft: Option<Instant>,
    wait: Instant,
    hard: Option<Instant>,
    longest_wait: Duration,
}

impl FetchDeadlines {
    pub(crate) fn new(time: &Arc<Time>, soft: Option<Duration>, wait: Duration, hard: Option<Duration>) -> Self {
        let now = runtime_now();
        let after = |span: Option<Duration>| span.map(|span| now + span);
        Self { time: time.clone(), soft: after(soft), wait: now + wait, hard: after(hard), longest_wait: wait }
    }

    pub(crate) async fn following<T>(&mut self, fetch: impl Future<Output = T>) -> Result<T, PassedDeadline> {
        let all = [(self.soft, PassedDeadline::Soft), (self.hard, PassedDeadline::Hard)];
        let set = all.into_iter().filter_map(|(at, passed)| at.map(|at| (at, passed)));
        let (first, passed) =
            set.chain([(self.wait, PassedDeadline::Wait)]).min_by_key(|(at, _)| *at).expect("one deadline");
        let (mut fetch, mut over) = (pin!(fetch), pin!(self.time.until(first)));
        let ended = poll_fn(|cx| match fetch.as_mut().poll(cx) {
            Poll::Ready(fetched) => Poll::Ready(Ok(fetched)),
            Poll::Pending => over.as_mut().poll(cx).map(|()| Err(passed)),
        })
        .await;
        if ended.is_err() && passed == PassedDeadline::Soft {
            self.soft = None;
        }
        ended
    }

    pub(crate) async fn slow_start<'a>(
        &mut self,
        gate: &'a SlowStart,
    ) -> Result<Option<SemaphorePermit<'a>>, PassedDeadline> {
        self.soft = None;
        self.wait = runtime_now() + self.longest_wait;
        let time = self.time.clone();
        let mut permit = pin!(gate.permits().acquire());
        loop {
            let grows = gate.grow(runtime_now()).unwrap_or_else(|| runtime_now() + DOUBLING);
            let either = async {
                let mut grown = pin!(time.until(grows));
                poll_fn(|cx| match permit.as_mut().poll(cx) {
                    Poll::Ready(permit) => Poll::Ready(permit.ok()),
                    Poll::Pending => grown.as_mut().poll(cx).map(|()| None),
                })
                .await
            };
            match self.following(either).await {
                Ok(Some(permit)) => return Ok(Some(permit)),
                Ok(None) => {}
                Err(PassedDeadline::Hard) => return Err(PassedDeadline::Hard),
                Err(_) => return Ok(None),
            }
        }
    }
}
