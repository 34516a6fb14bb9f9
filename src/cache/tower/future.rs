//! [`ResponseFuture`]: future returned by the cache service.
//!
//! | request | future | allocations |
//! |---|---|---|
//! | served from memory | ready | none |
//! | bypasses the cache | the inner service's future | none |
//! | missed, and no rule covers it | the inner service's future | one, for what the response is compared with |
//! | fetched, or looked up in a remote store | a boxed future | one |

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::respond;
use super::shared::CacheShared;
use super::uncovered::UncoveredFetch;
use super::unsafe_invalidation::UnsafeRequest;
use crate::base::body::{Adopt, Body};
use crate::base::error::BoxError;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::http::cache_status::Report;

pin_project! {
    /// Response future. `F` is the future of the inner service, for requests that bypass the cache.
    ///
    /// ```
    /// use tollgate::cache::CacheLayer;
    /// use tower::{Layer, ServiceExt};
    /// # use bytes::Bytes;
    /// # use http_body_util::Full;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let service = CacheLayer::in_memory(1 << 20).layer(tower::service_fn(async |_: http::Request<Full<Bytes>>| {
    ///     Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::from("42")))
    /// }));
    /// let response = service.oneshot(http::Request::get("http://localhost/").body(Full::<Bytes>::default())?);
    /// assert_eq!(response.await?.status(), 200);
    /// # Ok(()) }
    /// ```
    pub struct ResponseFuture<F, E, B> {
        #[pin]
        state: State<F, E, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, E, B> {
        Ready { response: Option<Response<Body<B>>> },
        Bypass { #[pin] future: F },
        Boxed { future: BoxFuture<Result<Response<Body<B>>, E>> },
    }
}

impl<F, E, B> ResponseFuture<F, E, B> {
    pub(super) const fn ready(response: Response<Body<B>>) -> Self {
        Self { state: State::Ready { response: Some(response) } }
    }

    pub(super) const fn bypass(future: F) -> Self {
        Self { state: State::Bypass { future } }
    }

    pub(super) fn boxed(future: BoxFuture<Result<Response<Body<B>>, E>>) -> Self {
        Self { state: State::Boxed { future } }
    }
}

impl<F, E, B> Future for ResponseFuture<F, E, B>
where
    F: Future<Output = Result<Response<Body<B>>, E>>,
{
    type Output = Result<Response<Body<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Ready { response } => {
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
            }
            StateProj::Bypass { future } => future.poll(cx),
            StateProj::Boxed { future } => future.as_mut().poll(cx),
        }
    }
}

impl<F, E, B> fmt::Debug for ResponseFuture<F, E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cache::ResponseFuture(..)")
    }
}

/// Processing of the response to a request that was forwarded in the client's own task.
pub(super) enum AfterResponse {
    /// The request bypassed the cache.
    Bypass(AfterBypass),
    /// No rule covers the request.
    Uncovered(Box<UncoveredFetch>),
}

/// Processing of the response to a request that bypassed the cache.
pub(super) struct AfterBypass {
    pub(super) core: Arc<CacheShared>,
    /// `Cache-Status` parameters; `None` while the cache is off.
    pub(super) report: Option<Report>,
    /// RFC 9111 §4.4: the unsafe request, which invalidates on success.
    pub(super) target: Option<Box<UnsafeRequest>>,
}

impl AfterBypass {
    fn finish<B>(self, response: &mut Response<B>) {
        if let Some(unsafe_request) = self.target {
            unsafe_request.on_response(response.status(), response.headers());
        }
        if let Some(report) = self.report {
            let report = Report { forward_status: Some(response.status()), ..report };
            respond::forward(&self.core, response, None, report);
        }
    }
}

pin_project! {
    /// Future of a request that is forwarded in the client's own task; `W` wraps its body.
    ///
    /// ```no_run
    /// use std::convert::Infallible;
    /// use tollgate::cache::CacheLayer;
    /// use tower::{Layer, Service, service_fn};
    ///
    /// let inner = service_fn(async |_: http::Request<String>| Ok::<_, Infallible>(http::Response::new(String::new())));
    /// let response = CacheLayer::in_memory(1 << 20).layer(inner).call(http::Request::new(String::new())); // no `Host`: it bypasses the cache
    /// # drop(response);
    /// ```
    pub struct Bypass<S, B, W>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        call: InnerCall<S, B, S::Future>,
        after: Option<AfterResponse>,
        adopt: PhantomData<fn() -> W>,
    }
}

pin_project! {
    /// Call of the inner service. Nearly all services are ready at once, and are called before the future exists.
    #[project = InnerCallProj]
    enum InnerCall<S, B, F> {
        Called { #[pin] future: F },
        /// Waits for the service to be ready.
        Waiting { service: S, request: Option<Request<B>> },
    }
}

impl<S, B, W> Bypass<S, B, W>
where
    S: Service<Request<B>>,
{
    pub(super) fn new(mut service: S, request: Request<B>, after: Option<AfterResponse>) -> Self {
        // The task's own waker replaces this one if the service is polled again. An error is left for that poll.
        let call = match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => InnerCall::Called { future: service.call(request) },
            _ => InnerCall::Waiting { service, request: Some(request) },
        };
        Self { call, after, adopt: PhantomData }
    }
}

impl<S, B> InnerCall<S, B, S::Future>
where
    S: Service<Request<B>>,
{
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<S::Response, S::Error>> {
        if let InnerCallProj::Waiting { service, request } = self.as_mut().project() {
            ready!(service.poll_ready(cx))?;
            let Some(request) = request.take() else { return Poll::Pending };
            let future = service.call(request);
            self.set(Self::Called { future });
        }
        match self.project() {
            InnerCallProj::Called { future } => future.poll(cx),
            InnerCallProj::Waiting { .. } => Poll::Pending,
        }
    }
}

impl<S, B, W, R> Future for Bypass<S, B, W>
where
    S: Service<Request<B>, Response = Response<R>>,
    W: Adopt<R>,
    W::Inner: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Output = Result<Response<Body<W::Inner>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match ready!(this.call.poll(cx)) {
            Ok(response) => response,
            Err(error) => {
                if let Some(AfterResponse::Uncovered(fetch)) = this.after {
                    fetch.on_error();
                }
                return Poll::Ready(Err(error));
            }
        };
        Poll::Ready(Ok(match this.after.take() {
            Some(AfterResponse::Uncovered(fetch)) => fetch.on_response(response.map(W::adopt), cx),
            Some(AfterResponse::Bypass(after)) => {
                after.finish(&mut response);
                response.map(W::adopt)
            }
            None => response.map(W::adopt),
        }))
    }
}

impl<S, B, W> fmt::Debug for Bypass<S, B, W>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cache::Bypass(..)")
    }
}
