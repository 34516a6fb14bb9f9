//! [`ResponseFuture`]: waits where it must, calls, and settles the account.

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

use super::account::{Ending, Ticket};
use super::core::Core;
use super::peek::Peek;
use super::shed::{Error, Shed};
use crate::answer::BoxFuture;
use crate::body::{Adopt, Body, BodyError};
use crate::error::BoxError;

pin_project! {
    /// The response of an [`Upstream`](super::Upstream) service. A call that is dropped before it is answered stays spent.
    pub struct ResponseFuture<S, Q, W>
    where
        S: Service<Request<Q>>,
    {
        #[pin]
        state: State<S, Q>,
        watch: Option<Watch>,
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
        Waiting { leave: Leave, held: Option<Box<(S, Request<Q>)>>, core: Arc<Core> },
        Shed { shed: Option<Shed> },
    }
}

/// Leave to call, on its way.
type Leave = BoxFuture<Result<Ticket, Shed>>;

impl<S, Q, W> ResponseFuture<S, Q, W>
where
    S: Service<Request<Q>>,
{
    pub(super) const fn calling(future: S::Future, watch: Watch) -> Self {
        Self { state: State::Calling { future }, watch: Some(watch), body: PhantomData }
    }

    pub(super) fn unready(inner: S, request: Request<Q>, watch: Watch) -> Self {
        let future = Box::pin(Oneshot::new(inner, request));
        Self { state: State::Unready { future }, watch: Some(watch), body: PhantomData }
    }

    pub(super) fn waiting(leave: Leave, inner: S, request: Request<Q>, core: Arc<Core>) -> Self {
        let held = Some(Box::new((inner, request)));
        Self { state: State::Waiting { leave, held, core }, watch: None, body: PhantomData }
    }

    pub(super) const fn shed(shed: Shed) -> Self {
        Self { state: State::Shed { shed: Some(shed) }, watch: None, body: PhantomData }
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
                StateProj::Waiting { leave, held, core } => match ready!(leave.as_mut().poll(cx)) {
                    Err(shed) => return Poll::Ready(Err(Error::Shed(shed))),
                    Ok(ticket) => {
                        *this.watch = Some(Watch::new(core.clone(), ticket));
                        let Some(held) = held.take() else { return Poll::Pending };
                        let future = Box::pin(Oneshot::new(held.0, held.1));
                        this.state.set(State::Unready { future });
                    }
                },
                StateProj::Shed { shed } => {
                    return shed.take().map_or(Poll::Pending, |shed| Poll::Ready(Err(Error::Shed(shed))));
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

/// A call under way. Dropped before it is settled, nobody knows whether it was counted.
pub(super) struct Watch {
    core: Arc<Core>,
    ticket: Ticket,
    settled: bool,
}

impl Watch {
    pub(super) const fn new(core: Arc<Core>, ticket: Ticket) -> Self {
        Self { core, ticket, settled: false }
    }

    fn answered<B>(mut self, response: Response<Body<B>>) -> Response<Body<B>>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        self.settled = true;
        self.core.answered(&self.ticket, response.status(), response.headers());
        if self.core.in_body.is_none() {
            return response;
        }
        let (parts, body) = response.into_parts();
        let inner = body.map_err(BodyError::into_inner);
        let peek = Peek::new(inner, parts.clone(), self.core.clone(), self.ticket);
        Response::from_parts(parts, Body::stream(Box::pin(peek)))
    }

    fn failed(mut self) {
        self.settled = true;
        self.core.ended(&self.ticket, Ending::Failed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.settled {
            self.core.ended(&self.ticket, Ending::Left);
        }
    }
}
