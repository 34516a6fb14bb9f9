//! [`ResponseFuture`]: polls the inner service inside the request's slot, and counts the request out.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderValue, Response};
use pin_project_lite::pin_project;

use super::route::{Outcome, Route};
use super::scope::RequestLog;
use super::server_timing;
use super::state::State;
use crate::body::{Adopt, Body, Wrap};
use crate::carrier::Slot;
use crate::clock::Timestamp;
use crate::fields::SERVER_TIMING;
use crate::head::RequestHead;

pin_project! {
    /// The response of a [`Timing`](super::Timing) service. Dropped before it is ready, it counts as cancelled.
    pub struct ResponseFuture<F, W = Wrap> {
        #[pin]
        inner: Option<F>,
        watch: Watch,
        body: PhantomData<fn() -> W>,
    }

    impl<F, W> PinnedDrop for ResponseFuture<F, W> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // Inside the slot, and before the request is counted out: the queries that end here are its own.
            if !this.watch.stopped {
                this.watch.enter(|| this.inner.set(None));
            }
        }
    }
}

impl<F, W> ResponseFuture<F, W> {
    pub(super) fn new(inner: F, watch: Watch) -> Self {
        Self { inner: Some(inner), watch, body: PhantomData }
    }
}

impl<F, W, R, E> Future for ResponseFuture<F, W>
where
    F: Future<Output = Result<Response<R>, E>>,
    W: Adopt<R>,
{
    type Output = Result<Response<Body<W::Inner>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else { return Poll::Pending };
        match ready!(this.watch.enter(|| inner.poll(cx))) {
            Ok(mut response) => {
                let timing = this.watch.stop(Outcome::Answered(response.status()));
                if let Some(timing) = timing {
                    response.headers_mut().append(SERVER_TIMING, timing);
                }
                Poll::Ready(Ok(response.map(W::adopt)))
            }
            Err(error) => {
                this.watch.stop(Outcome::Failed);
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<F, W> fmt::Debug for ResponseFuture<F, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("watch", &self.watch).finish_non_exhaustive()
    }
}

/// One request being measured, from its call until it is stopped or dropped.
pub(super) struct Watch {
    /// Holds the request's route, directly or through its log; empty where the layer is not enabled.
    slot: Slot,
    started: Timestamp,
    stopped: bool,
}

impl Watch {
    pub(super) fn start(state: &State, head: &RequestHead<'_>) -> Self {
        match state.begin(head) {
            Some(route) => Self { started: route.core().now(), slot: Slot::new(route), stopped: false },
            None => Self { slot: Slot::default(), started: Timestamp::ZERO, stopped: true },
        }
    }

    /// Runs `work` as a part of this request.
    #[inline]
    pub(super) fn enter<R>(&mut self, work: impl FnOnce() -> R) -> R {
        match self.slot.scope() {
            Some(_) => self.slot.enter(work),
            // Where this layer is not enabled, an outer one may be.
            None => work(),
        }
    }

    /// Counts the request out, once; what its response shall say about it.
    #[inline]
    fn stop(&mut self, outcome: Outcome) -> Option<HeaderValue> {
        if self.stopped {
            return None;
        }
        self.stopped = true;
        self.count(outcome)
    }

    fn count(&self, outcome: Outcome) -> Option<HeaderValue> {
        let scope: &dyn Any = &**self.slot.scope()?;
        let (route, log) = match scope.downcast_ref::<Route>() {
            Some(route) => (route, None),
            None => scope.downcast_ref::<RequestLog>().map(|log| (log.route(), Some(log)))?,
        };
        let took = route.core().now().since(self.started);
        route.finish(took, outcome, log);
        let wanted = route.core().settings().server_timing;
        wanted.then(|| server_timing::value(took, log.map(RequestLog::total).unwrap_or_default())).flatten()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop(Outcome::Cancelled);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("started", &self.started).field("stopped", &self.stopped).finish_non_exhaustive()
    }
}
