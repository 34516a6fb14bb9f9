//! One path that the gateway answers itself: its numbers, for Prometheus.
//!
//! It stands outside the gate, so that scraping is neither limited nor cached nor counted. Whoever can reach the gateway
//! can read it: keep the path to yourself, or let a proxy in front refuse it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::TryFutureExt;
use futures_util::future::{Either, MapOk, Ready, ready};
use http::{HeaderValue, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use tollgate::Tollgate;
use tower::{Layer, Service};

use super::BoxError;

type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

/// Puts the metrics before a service.
#[derive(Clone)]
pub(crate) struct Metrics {
    gate: Tollgate,
    path: Option<Arc<str>>,
}

impl Metrics {
    pub(crate) fn of(gate: &Tollgate, path: Option<String>) -> Self {
        Self { gate: gate.clone(), path: path.map(Arc::from) }
    }
}

impl<S> Layer<S> for Metrics {
    type Service = WithMetrics<S>;

    fn layer(&self, inner: S) -> WithMetrics<S> {
        WithMetrics { inner, metrics: self.clone() }
    }
}

/// A service before which the metrics stand.
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
    type Response = Response<AnyBody>;
    type Error = Infallible;
    type Future =
        Either<Ready<Result<Response<AnyBody>, Infallible>>, MapOk<S::Future, fn(Response<B>) -> Response<AnyBody>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        if self.metrics.path.as_deref() == Some(request.uri().path()) {
            return Either::Left(ready(Ok(page(&self.metrics.gate))));
        }
        Either::Right(self.inner.call(request).map_ok(boxed))
    }
}

fn page(gate: &Tollgate) -> Response<AnyBody> {
    let body = Full::from(gate.prometheus()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn boxed<B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static>(response: Response<B>) -> Response<AnyBody> {
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}
