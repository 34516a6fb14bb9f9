//! [`Upstream`]: the tower service.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

use super::future::{CallWatch, ResponseFuture};
use crate::base::body::{Adopt, Body, Wrap};
use crate::base::error::BoxError;
use crate::base::request_head::RequestHead;
use crate::upstream::engine::shared::{CallStep, UpstreamShared};
use crate::upstream::quota::rejected::Error;

/// Client whose calls are counted, paced and rejected. Made by [`UpstreamLayer`](crate::upstream::UpstreamLayer).
///
/// It is always ready: a rejected call neither waits for the client nor touches it. Any other call waits for a clone
/// of the client to be ready, then calls that clone.
///
/// ```
/// use tollgate::upstream::{Credits, UpstreamLayer};
/// use tower::Layer;
///
/// let layer = UpstreamLayer::builder("search").quota(Credits::per_minute(100)).build()?;
/// let client = layer.layer("a client");
/// # let _ = client;
/// # Ok::<(), tollgate::Error>(())
/// ```
pub struct Upstream<S, W = Wrap> {
    pub(super) inner: S,
    pub(crate) core: Arc<UpstreamShared>,
    pub(crate) body: PhantomData<fn() -> W>,
}

impl<S, W, ReqB, ResB> Service<Request<ReqB>> for Upstream<S, W>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    W: Adopt<ResB>,
    W::Inner: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Body<W::Inner>>;
    type Error = Error<S::Error>;
    type Future = ResponseFuture<S, ReqB, W>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let call = self.core.call(&RequestHead::of(&request));
        match self.core.begin(call) {
            CallStep::Send(ticket) => {
                let watch = CallWatch::new(self.core.clone(), ticket, &request);
                let mut inner = self.inner.clone();
                // The task's own waker replaces this one if the client is polled again. An error is left for that
                // poll: a failed service keeps failing.
                if let Poll::Ready(Ok(())) = inner.poll_ready(&mut Context::from_waker(Waker::noop())) {
                    return ResponseFuture::sending(inner.call(request), watch);
                }
                ResponseFuture::unready(inner, request, watch)
            }
            CallStep::Wait(permission) => {
                ResponseFuture::waiting(permission, self.inner.clone(), request, self.core.clone())
            }
            CallStep::Rejected(rejected) => ResponseFuture::rejected(rejected),
        }
    }
}

impl<S: Clone, W> Clone for Upstream<S, W> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), core: self.core.clone(), body: PhantomData }
    }
}

impl<S: fmt::Debug, W> fmt::Debug for Upstream<S, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("inner", &self.inner).field("core", &self.core).finish()
    }
}
