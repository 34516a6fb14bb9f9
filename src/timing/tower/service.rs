//! [`Timing`]: the tower service.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

use super::future::{RequestWatch, ResponseFuture};
use super::gate_mark;
use crate::base::body::{Adopt, Body, Wrap};
use crate::base::error::BoxError;
use crate::base::request_head::RequestHead;
use crate::context::{CallInner, GatePlace, RequestContext};
use crate::timing::engine::state::TimingState;

/// Measures the requests of an inner service. Made by [`TimingLayer`](crate::timing::TimingLayer).
///
/// It is ready when the inner service is ready, and fails with the inner service's error.
///
/// ```
/// use tollgate::timing::{Timing, TimingLayer};
/// use tower::Layer;
///
/// let service: Timing<&str> = TimingLayer::new().layer("the inner service");
/// # let _ = service;
/// ```
pub struct Timing<S, W = Wrap> {
    pub(super) inner: S,
    pub(crate) state: Arc<TimingState>,
    pub(super) gate: GatePlace,
    pub(crate) body: PhantomData<fn() -> W>,
}

impl<S, W, Q, R> Service<Request<Q>> for Timing<S, W>
where
    S: Service<Request<Q>, Response = Response<R>>,
    W: Adopt<R> + CallInner<S, Request<Q>>,
    W::Inner: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Response = Response<Body<W::Inner>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, W>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline(always)]
    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let mut context = RequestContext::new(self.gate);
        let mut watch = RequestWatch::start(&self.state, &RequestHead::of(&request), self.gate.number, &mut context);
        if self.gate.number != 0 {
            gate_mark::mark(request.extensions_mut(), self.gate.number);
        }
        // A service may start its work, and spawn tasks, before its future is polled.
        let inner = watch.enter(|| W::call_inner(&mut self.inner, request, &mut context));
        ResponseFuture::new(inner, watch)
    }
}

impl<S: Clone, W> Clone for Timing<S, W> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), state: self.state.clone(), gate: self.gate, body: PhantomData }
    }
}

impl<S: fmt::Debug, W> fmt::Debug for Timing<S, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timing").field("inner", &self.inner).field("state", &self.state).finish()
    }
}
