//! One path that the gateway answers itself: metrics for Prometheus.
//!
//! It is outside the gate, so that scrapes are neither limited nor cached nor counted. Every client of the gateway
//! can read it: keep the path secret, or let a proxy in front reject it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::TryFutureExt;
use futures_util::future::{self, MapOk, Ready, ready};
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Body;
use tollgate::Tollgate;
use tower::{Layer, Service};

use super::BoxError;

/// Response with a page or the service's own body.
type Paged<B> = Response<Either<Full<Bytes>, B>>;

/// Adds the metrics in front of a service.
#[derive(Clone)]
pub(crate) struct Metrics(Option<Arc<Page>>);

struct Page {
    path: String,
    metrics: tollgate::Metrics,
}

impl Metrics {
    pub(crate) fn of(gate: &Tollgate, path: Option<String>) -> Self {
        Self(path.map(|path| Arc::new(Page { path, metrics: tollgate::Metrics::of(gate) })))
    }
}

impl<S> Layer<S> for Metrics {
    type Service = WithMetrics<S>;

    fn layer(&self, inner: S) -> WithMetrics<S> {
        WithMetrics { inner, metrics: self.clone() }
    }
}

/// Service with metrics in front.
#[derive(Clone)]
pub(crate) struct WithMetrics<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, Q, B> Service<Request<Q>> for WithMetrics<S>
where
    S: Service<Request<Q>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Paged<B>;
    type Error = Infallible;
    type Future = future::Either<Ready<Result<Paged<B>, Infallible>>, MapOk<S::Future, fn(Response<B>) -> Paged<B>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        match &self.metrics.0 {
            Some(page) if page.path == request.uri().path() => {
                let response = page.metrics.respond(request.headers());
                future::Either::Left(ready(Ok(response.map(|text| Either::Left(Full::from(text))))))
            }
            _ => future::Either::Right(self.inner.call(request).map_ok(|response| response.map(Either::Right))),
        }
    }
}
