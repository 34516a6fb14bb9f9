//! [`ResponseFuture`]: waits if necessary, calls the client, and settles the account.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use pin_project_lite::pin_project;
use tower::util::Oneshot;
use tower_service::Service;

use crate::base::body::{Adopt, Body, BodyError};
use crate::base::error::BoxError;
use crate::base::maybe_ready::BoxFuture;
use crate::base::metrics::http_labels::RequestKind;
use crate::upstream::engine::body_inspector::BodyInspector;
use crate::upstream::engine::shared::UpstreamShared;
use crate::upstream::quota::account::{AccountTicket, CallEnding};
use crate::upstream::quota::rejected::{Error, Rejected};

pin_project! {
    /// Response future of an [`Upstream`](crate::upstream::Upstream) service. A call that is dropped before its
    /// response stays spent.
    ///
    /// ```no_run
    /// use std::convert::Infallible;
    /// use tollgate::upstream::{Credits, UpstreamLayer};
    /// use tower::{Layer, Service, service_fn};
    ///
    /// let layer = UpstreamLayer::builder("search").quota(Credits::per_minute(100)).build()?;
    /// let inner = service_fn(async |_: http::Request<String>| Ok::<_, Infallible>(http::Response::new(String::new())));
    /// let response = layer.layer(inner).call(http::Request::new(String::new()));
    /// # drop(response);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub struct ResponseFuture<S, Q, W>
    where
        S: Service<Request<Q>>,
    {
        #[pin]
        state: State<S, Q>,
        watch: Option<CallWatch>,
        body: PhantomData<fn() -> W>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Q>
    where
        S: Service<Request<Q>>,
    {
        Calling { #[pin] future: S::Future },
        Unready { #[pin] future: Pin<Box<Oneshot<S, Request<Q>>>> },
        Waiting { permission: Permission, held: Option<Box<(S, Request<Q>)>>, core: Arc<UpstreamShared> },
        Rejected { rejected: Option<Rejected> },
    }
}

/// Pending permission to send.
type Permission = BoxFuture<Result<AccountTicket, Rejected>>;

impl<S, Q, W> ResponseFuture<S, Q, W>
where
    S: Service<Request<Q>>,
{
    pub(super) const fn sending(future: S::Future, watch: CallWatch) -> Self {
        Self { state: State::Calling { future }, watch: Some(watch), body: PhantomData }
    }

    pub(super) fn unready(inner: S, request: Request<Q>, watch: CallWatch) -> Self {
        let future = Box::pin(Oneshot::new(inner, request));
        Self { state: State::Unready { future }, watch: Some(watch), body: PhantomData }
    }

    pub(super) fn waiting(permission: Permission, inner: S, request: Request<Q>, core: Arc<UpstreamShared>) -> Self {
        let held = Some(Box::new((inner, request)));
        Self { state: State::Waiting { permission, held, core }, watch: None, body: PhantomData }
    }

    pub(super) const fn rejected(rejected: Rejected) -> Self {
        Self { state: State::Rejected { rejected: Some(rejected) }, watch: None, body: PhantomData }
    }
}

impl<S, Q, W, R> Future for ResponseFuture<S, Q, W>
where
    S: Service<Request<Q>, Response = Response<R>>,
    W: Adopt<R>,
    W::Inner: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Output = Result<Response<Body<W::Inner>>, Error<S::Error>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let answer = loop {
            match this.state.as_mut().project() {
                StateProj::Calling { future } => break ready!(future.poll(cx)),
                StateProj::Unready { future } => break ready!(future.poll(cx)),
                StateProj::Waiting { permission, held, core } => match ready!(permission.as_mut().poll(cx)) {
                    Err(rejected) => return Poll::Ready(Err(Error::Rejected(rejected))),
                    Ok(ticket) => {
                        let Some(held) = held.take() else { return Poll::Pending };
                        *this.watch = Some(CallWatch::new(core.clone(), ticket, &held.1));
                        let future = Box::pin(Oneshot::new(held.0, held.1));
                        this.state.set(State::Unready { future });
                    }
                },
                StateProj::Rejected { rejected } => {
                    return rejected
                        .take()
                        .map_or(Poll::Pending, |rejected| Poll::Ready(Err(Error::Rejected(rejected))));
                }
            }
        };
        let Some(watch) = this.watch.take() else { return Poll::Pending };
        Poll::Ready(match answer {
            Ok(response) => Ok(watch.answered(response.map(W::adopt))),
            Err(error) => {
                watch.failed();
                Err(Error::Inner(error))
            }
        })
    }
}

impl<S, Q, W> fmt::Debug for ResponseFuture<S, Q, W>
where
    S: Service<Request<Q>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// Call in flight. If dropped before settlement, it may have been counted.
pub(crate) struct CallWatch {
    core: Arc<UpstreamShared>,
    ticket: AccountTicket,
    kind: RequestKind,
    settled: bool,
}

impl CallWatch {
    pub(crate) fn new<B>(core: Arc<UpstreamShared>, ticket: AccountTicket, request: &Request<B>) -> Self {
        Self { core, ticket, kind: RequestKind::of(request.method(), request.uri()), settled: false }
    }

    fn answered<B>(mut self, response: Response<Body<B>>) -> Response<Body<B>>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        self.settled = true;
        self.core.export(&self.ticket, self.kind, Some(response.status()));
        let undecided = self.core.answered(&self.ticket, response.status(), response.headers());
        if self.core.in_body.is_none() && !undecided {
            return response;
        }
        let (parts, body) = response.into_parts();
        let inner = body.map_err(BodyError::into_inner);
        let peek = BodyInspector::new(inner, parts.clone(), self.core.clone(), self.ticket);
        Response::from_parts(parts, Body::stream(Box::pin(peek)))
    }

    fn failed(mut self) {
        self.settled = true;
        self.core.export(&self.ticket, self.kind, None);
        self.core.ended(&self.ticket, CallEnding::Failed);
    }
}

impl Drop for CallWatch {
    fn drop(&mut self) {
        if !self.settled {
            self.core.ended(&self.ticket, CallEnding::Cancelled);
        }
    }
}
