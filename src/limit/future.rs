//! [`ResponseFuture`]: from a decision to a response.
//!
//! ## Asking ⇒ (Readying | Calling | Refused), Readying ⇒ Calling ⇒ done
//!
//! Only a remote store passes through *Asking*; in process the decision is made before the future exists. Only an inner
//! service that is not ready at once passes through *Readying*: what is rare is boxed, so that the future stays small.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::decision::{Decision, Verdicts};
use super::limiter::{Limiter, Outcome};
use super::plan::Dues;
use super::reply::Reply;
use super::service::reserve;
use crate::answer::BoxFuture;
use crate::body::{Adopt, Body};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::head::RequestHead;

pin_project! {
    /// The response of a [`RateLimit`](super::RateLimit). Unboxed while the store is in process and the inner service
    /// is ready.
    pub struct ResponseFuture<S, ReqB, W>
    where
        S: Service<Request<ReqB>>,
    {
        #[pin]
        state: State<S, ReqB, S::Future>,
        reply: Option<Reply>,
        decision: Option<Box<Decision>>,
        body: PhantomData<fn() -> W>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, ReqB, F> {
        Asking { asked: Option<Box<Asked<S, ReqB>>> },
        Readying { parked: Option<Box<Parked<S, ReqB>>> },
        Calling { #[pin] future: F },
        Refused { response: Option<Box<Response<Bytes>>> },
    }
}

/// A service with the request it is to get.
type Parked<S, ReqB> = (S, Request<ReqB>);

/// A question on its way to a remote store.
pub(super) struct Asked<S, ReqB> {
    pub(super) answer: BoxFuture<Result<Verdicts, Error>>,
    pub(super) limiter: Arc<Limiter>,
    pub(super) dues: Dues,
    pub(super) at: Timestamp,
    pub(super) parked: Parked<S, ReqB>,
}

impl<S, ReqB, W> ResponseFuture<S, ReqB, W>
where
    S: Service<Request<ReqB>>,
{
    pub(super) fn admitted(
        inner: S,
        request: Request<ReqB>,
        reply: Option<Reply>,
        decision: Option<Box<Decision>>,
    ) -> Self {
        Self { state: State::call(inner, request), reply, decision, body: PhantomData }
    }

    pub(super) fn refused(response: Box<Response<Bytes>>) -> Self {
        Self { state: State::Refused { response: Some(response) }, reply: None, decision: None, body: PhantomData }
    }

    pub(super) fn asking(asked: Box<Asked<S, ReqB>>) -> Self {
        Self { state: State::Asking { asked: Some(asked) }, reply: None, decision: None, body: PhantomData }
    }
}

impl<S, ReqB> State<S, ReqB, S::Future>
where
    S: Service<Request<ReqB>>,
{
    /// Calls the inner service if it is ready at once. If it is not, it is polled again with the task's own waker, which
    /// replaces the one used here.
    fn call(mut inner: S, request: Request<ReqB>) -> Self {
        match inner.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Calling { future: inner.call(request) },
            // An error is left for the task to find: a service that failed goes on failing.
            Poll::Pending | Poll::Ready(Err(_)) => Self::Readying { parked: Some(Box::new((inner, request))) },
        }
    }
}

impl<S, ReqB> Asked<S, ReqB>
where
    S: Service<Request<ReqB>>,
{
    /// What becomes of the request, now that the store has answered.
    fn answered<W>(mut self, answer: Result<Verdicts, Error>) -> ResponseFuture<S, ReqB, W> {
        let head = RequestHead::of(&self.parked.1);
        match self.limiter.conclude(&head, &self.dues, &answer, self.at) {
            Outcome::Refuse(response) => ResponseFuture::refused(response),
            Outcome::Admit(reply, decision) => {
                reserve(&self.limiter, self.dues, self.at, &mut self.parked.1);
                let (inner, request) = self.parked;
                ResponseFuture::admitted(inner, request, reply, decision)
            }
        }
    }
}

impl<S, ReqB, ResB, W> Future for ResponseFuture<S, ReqB, W>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    W: Adopt<ResB>,
    ResB: http_body::Body<Data = Bytes>,
{
    type Output = Result<Response<Body<W::Inner>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Calling { future } => {
                    let mut response = ready!(future.poll(cx))?;
                    if let Some(reply) = this.reply.take() {
                        reply.write(response.headers_mut());
                    }
                    if let Some(decision) = this.decision.take() {
                        response.extensions_mut().insert(*decision);
                    }
                    return Poll::Ready(Ok(response.map(W::adopt)));
                }
                StateProj::Refused { response } => match response.take() {
                    Some(response) => return Poll::Ready(Ok(response.map(Body::full))),
                    None => return Poll::Pending,
                },
                StateProj::Readying { parked } => {
                    let Some((inner, _)) = parked.as_deref_mut() else { return Poll::Pending };
                    ready!(inner.poll_ready(cx))?;
                    let Some((mut inner, request)) = parked.take().map(|parked| *parked) else { return Poll::Pending };
                    State::Calling { future: inner.call(request) }
                }
                StateProj::Asking { asked } => {
                    let Some(waiting) = asked.as_deref_mut() else { return Poll::Pending };
                    let answer = ready!(waiting.answer.as_mut().poll(cx));
                    let Some(asked) = asked.take() else { return Poll::Pending };
                    let next = asked.answered::<W>(answer);
                    (*this.reply, *this.decision) = (next.reply, next.decision);
                    next.state
                }
            };
            this.state.set(next);
        }
    }
}

impl<S, ReqB, W> std::fmt::Debug for ResponseFuture<S, ReqB, W>
where
    S: Service<Request<ReqB>>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::Asking { .. } => "Asking",
            State::Readying { .. } => "Readying",
            State::Calling { .. } => "Calling",
            State::Refused { .. } => "Refused",
        };
        f.debug_struct("limit::ResponseFuture").field("state", &state).finish()
    }
}
