//! [`ResponseFuture`]: from a decision to a response.
//!
//! ## Waiting ⇒ (Calling | Rejected), Calling ⇒ done
//!
//! In process the decision is made before the future exists, and an inner service that is ready at once, as nearly
//! all are, is called before it exists too: such a future starts as *Calling*. *Waiting* is for a remote store or an
//! inner service that is not ready; it is rare and therefore boxed, which keeps the future small.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::base::body::{Adopt, Body};
use crate::context::{CallInner, RequestContext};
use crate::limit::engine::limiter::LimitStep;
use crate::limit::engine::response_edits::{BodyWatches, ResponseEdits};
use crate::limit::engine::shared_limits::PendingDecision;

pin_project! {
    /// Response future of a [`RateLimit`](crate::limit::RateLimit).
    ///
    /// Not boxed while the store is in process and the inner service is ready.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use tollgate::limit::{Quota, RateLimitLayer};
    /// use tower::{Layer, Service, service_fn};
    ///
    /// let inner = service_fn(async |_: http::Request<String>| Ok::<_, Infallible>(http::Response::new(String::new())));
    /// let response = RateLimitLayer::per_ip(Quota::per_minute(100)).layer(inner).call(http::Request::new(String::new()));
    /// # drop(response);
    /// ```
    pub struct ResponseFuture<S, ReqB, W>
    where
        S: Service<Request<ReqB>>,
    {
        #[pin]
        pub(crate) state: FutureState<S, ReqB, S::Future>,
        pub(super) edits: ResponseEdits,
        pub(crate) body: PhantomData<fn() -> W>,
    }
}

pin_project! {
    #[project = StateProj]
    pub(crate) enum FutureState<S, ReqB, F> {
        Calling { #[pin] future: F },
        Rejected { response: Option<RejectedResponse> },
        Waiting { pending: Option<Box<PendingRequest<S, ReqB>>> },
    }
}

/// Response made by the layer.
pub(crate) type RejectedResponse = Box<Response<Bytes>>;

/// A request that waits for a store, a tier, its identity or the inner service.
pub(crate) struct PendingRequest<S, ReqB> {
    /// Pending tier or check; `None` while waiting for the inner service.
    waiting: Option<Box<PendingDecision>>,
    inner: S,
    request: Request<ReqB>,
    context: RequestContext,
}

impl<S, ReqB, W> ResponseFuture<S, ReqB, W>
where
    S: Service<Request<ReqB>>,
{
    #[cold]
    pub(super) fn rejected(response: Box<Response<Bytes>>) -> Self {
        Self {
            state: FutureState::Rejected { response: Some(response) },
            edits: ResponseEdits::default(),
            body: PhantomData,
        }
    }

    #[cold]
    pub(super) fn waiting(
        waiting: Box<PendingDecision>,
        inner: S,
        request: Request<ReqB>,
        context: RequestContext,
    ) -> Self {
        let pending = PendingRequest { waiting: Some(waiting), inner, request, context };
        Self {
            state: FutureState::Waiting { pending: Some(Box::new(pending)) },
            edits: ResponseEdits::default(),
            body: PhantomData,
        }
    }

    #[cold]
    pub(super) fn unready(inner: S, request: Request<ReqB>, context: RequestContext, edits: ResponseEdits) -> Self {
        let pending = PendingRequest { waiting: None, inner, request, context };
        Self { state: FutureState::Waiting { pending: Some(Box::new(pending)) }, edits, body: PhantomData }
    }
}

impl<S, ReqB> PendingRequest<S, ReqB>
where
    S: Service<Request<ReqB>>,
{
    /// Waits for the store, then for the inner service.
    fn poll(
        &mut self,
        edits: &mut ResponseEdits,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<RejectedResponse>, S::Error>> {
        while let Some(waiting) = &mut self.waiting {
            if self.context.keys.is_pending() {
                ready!(self.context.poll_identities(cx));
                self.context.keys.leave(self.request.extensions_mut());
            }
            let step = ready!(waiting.poll(&self.context.head(&self.request), &mut self.context, cx));
            self.waiting = None;
            match step {
                LimitStep::Reject(response) => return Poll::Ready(Ok(Some(response))),
                LimitStep::Admit(admitted) => {
                    *edits = admitted;
                    edits.prepare(self.request.extensions_mut());
                }
                // The tier is known now; the store is next.
                LimitStep::Wait(next) => self.waiting = Some(next),
            }
        }
        self.inner.poll_ready(cx).map_ok(|()| None)
    }
}

impl<S, ReqB, ResB, W> Future for ResponseFuture<S, ReqB, W>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    W: Adopt<ResB> + CallInner<S, Request<ReqB>>,
    ResB: http_body::Body<Data = Bytes>,
{
    type Output = Result<Response<Body<W::Inner>>, S::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Calling { future } => {
                    let mut response = match ready!(future.poll(cx)) {
                        Ok(response) => response,
                        Err(error) => {
                            this.edits.fail();
                            return Poll::Ready(Err(error));
                        }
                    };
                    if this.edits.are_rare() {
                        let watches = this.edits.write_rare(&mut response);
                        return Poll::Ready(Ok(response.map(|body| watched::<W, ResB>(body, watches))));
                    }
                    this.edits.write(&mut response);
                    return Poll::Ready(Ok(response.map(W::adopt)));
                }
                StateProj::Rejected { response } => match response.take() {
                    Some(response) => return Poll::Ready(Ok(response.map(Body::full))),
                    None => return Poll::Pending,
                },
                StateProj::Waiting { pending } => {
                    let Some(waiting) = pending.as_deref_mut() else { return Poll::Pending };
                    let refusal = ready!(waiting.poll(this.edits, cx))?;
                    let Some(pending) = pending.take() else { return Poll::Pending };
                    match refusal {
                        Some(response) => FutureState::Rejected { response: Some(response) },
                        None => {
                            let PendingRequest { mut inner, request, mut context, .. } = *pending;
                            FutureState::Calling { future: W::call_inner(&mut inner, request, &mut context) }
                        }
                    }
                }
            };
            this.state.set(next);
        }
    }
}

#[cold]
fn watched<W: Adopt<B>, B>(body: B, watches: BodyWatches) -> Body<W::Inner> {
    let mut body = W::adopt(body);
    watches.into_iter().for_each(|watch| body.watch(watch));
    body
}

impl<S, ReqB, W> std::fmt::Debug for ResponseFuture<S, ReqB, W>
where
    S: Service<Request<ReqB>>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            FutureState::Calling { .. } => "Calling",
            FutureState::Rejected { .. } => "Rejected",
            FutureState::Waiting { .. } => "Waiting",
        };
        f.debug_struct("limit::ResponseFuture").field("state", &state).finish()
    }
}
