//! [`RateLimit`]: the tower service.

use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

use super::future::{FutureState, ResponseFuture};
use crate::base::body::{Adopt, Body, Wrap};
use crate::base::detached_context;
use crate::context::{CallInner, ContextService, GatePlace, RequestContext};
use crate::limit::engine::limiter::{LimitStep, Limiter};
use crate::limit::engine::response_edits::ResponseEdits;
use crate::limit::engine::shared_limits::PendingDecision;

/// Limits requests to an inner service. Made by [`RateLimitLayer`](crate::limit::RateLimitLayer).
///
/// Always ready: it decides first, and only then waits for the inner service, so that a rejection is sent even while
/// the inner service is busy. The service that is called is the clone that was polled ready.
///
/// ```
/// use tollgate::limit::{Quota, RateLimit, RateLimitLayer};
/// use tower::Layer;
///
/// let service: RateLimit<&str> = RateLimitLayer::per_ip(Quota::per_minute(100)).layer("the inner service");
/// # let _ = service;
/// ```
pub struct RateLimit<S, W = Wrap> {
    pub(super) inner: S,
    pub(super) limiter: Option<Arc<Limiter>>,
    /// Number of the gate it belongs to; 0 for a layer of its own.
    pub(super) gate: u16,
    pub(crate) body: PhantomData<fn() -> W>,
}

/// The future of a request. A macro, since a request that is handed to another function is copied, which costs more than
/// accepting it does.
macro_rules! respond {
    ($service:ident, $request:ident, $context:expr) => {{
        let context: &mut RequestContext = $context;
        match $service.decide(&mut $request, context) {
            NextCall::Call(mut inner, edits) => ResponseFuture {
                state: FutureState::Calling { future: W::call_inner(&mut inner, $request, context) },
                edits,
                body: PhantomData,
            },
            NextCall::Unready(inner, edits) => ResponseFuture::unready(inner, $request, context.suspend(), edits),
            NextCall::Reject(response) => ResponseFuture::rejected(response),
            NextCall::Wait(waiting, inner) => ResponseFuture::waiting(waiting, inner, $request, context.suspend()),
        }
    }};
}

impl<S, W, ReqB, ResB> Service<Request<ReqB>> for RateLimit<S, W>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    W: Adopt<ResB> + CallInner<S, Request<ReqB>>,
    ResB: http_body::Body<Data = Bytes>,
{
    type Response = Response<Body<W::Inner>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqB, W>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline(always)]
    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let mut context = RequestContext::new(GatePlace::NONE);
        respond!(self, request, &mut context)
    }
}

impl<S, W, ReqB, ResB> ContextService<Request<ReqB>> for RateLimit<S, W>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    W: Adopt<ResB> + CallInner<S, Request<ReqB>>,
    ResB: http_body::Body<Data = Bytes>,
{
    #[inline(always)]
    fn call_with(&mut self, mut request: Request<ReqB>, context: &mut RequestContext) -> Self::Future {
        respond!(self, request, context)
    }
}

impl<S, W> RateLimit<S, W> {
    /// Decides on a request, and waits for nothing.
    #[inline(always)]
    fn decide<ReqB>(&self, request: &mut Request<ReqB>, context: &mut RequestContext) -> NextCall<S>
    where
        S: Service<Request<ReqB>> + Clone,
    {
        let mut edits = ResponseEdits::default();
        if let Some(limiter) = self.limiter.as_ref().filter(|_| !detached_context::is_repeated(self.gate)) {
            // A step that went through an `Option` would be copied.
            if !limiter.verifiers.is_empty()
                && let Some(waiting) = limiter.verify(request, context)
            {
                return NextCall::Wait(waiting, self.inner.clone());
            }
            match limiter.decide(&limiter.head(request, context), context) {
                LimitStep::Admit(admitted) => edits = admitted,
                LimitStep::Reject(response) => return NextCall::Reject(response),
                LimitStep::Wait(waiting) => return NextCall::Wait(waiting, self.inner.clone()),
            }
        }
        edits.prepare(request.extensions_mut());
        let mut inner = self.inner.clone();
        // The task's own waker replaces this one if the service is polled again. An error is left for that poll: a
        // failed service keeps failing.
        match inner.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => NextCall::Call(inner, edits),
            _ => NextCall::Unready(inner, edits),
        }
    }
}

/// Decision on a request, with the clone of the inner service that it is for.
enum NextCall<S> {
    Call(S, ResponseEdits),
    Unready(S, ResponseEdits),
    Reject(Box<Response<Bytes>>),
    Wait(Box<PendingDecision>, S),
}

impl<S: Clone, W> Clone for RateLimit<S, W> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), limiter: self.limiter.clone(), gate: self.gate, body: PhantomData }
    }
}

impl<S: std::fmt::Debug, W> std::fmt::Debug for RateLimit<S, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimit").field("inner", &self.inner).field("limiter", &self.limiter).finish()
    }
}
