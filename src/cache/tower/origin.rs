//! [`Origin`]: interface to the wrapped service, in place of seven trait bounds.

use std::future::Future;
use std::marker::PhantomData;

use bytes::Bytes;
use futures_util::TryFutureExt;
use http::{Request, Response};
use tower::ServiceExt;
use tower_service::Service;

use crate::base::body::{Adopt, Body};
use crate::base::error::BoxError;

/// Origin of a response to one request.
pub(super) trait Origin<B>: Clone + Send + 'static {
    /// Innermost body of its responses.
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;
    /// Its error, passed on unchanged.
    type Error: Send + 'static;

    /// Sends the request once the service is ready.
    fn fetch(self, request: Request<B>)
    -> impl Future<Output = Result<Response<Body<Self::Body>>, Self::Error>> + Send;
}

/// A clone of the inner service; `W` wraps its bodies.
pub(super) struct InnerService<S, W> {
    service: S,
    adopt: PhantomData<fn() -> W>,
}

impl<S, W> InnerService<S, W> {
    pub(super) const fn new(service: S) -> Self {
        Self { service, adopt: PhantomData }
    }
}

impl<S: Clone, W> Clone for InnerService<S, W> {
    fn clone(&self) -> Self {
        Self::new(self.service.clone())
    }
}

impl<S, W, ReqB, ResB> Origin<ReqB> for InnerService<S, W>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Send + 'static,
    ResB: 'static,
    W: Adopt<ResB> + 'static,
    W::Inner: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Body = W::Inner;
    type Error = S::Error;

    fn fetch(self, request: Request<ReqB>) -> impl Future<Output = Result<Response<Body<W::Inner>>, S::Error>> + Send {
        // Awaits readiness: an unready clone is never called.
        self.service.oneshot(request).map_ok(|response| response.map(W::adopt))
    }
}
