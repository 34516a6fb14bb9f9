//! [`ResponseFuture`]: from a decision to a response.
//!
//! ## Asking ⇒ (Readying | Refused), Readying ⇒ Calling ⇒ done
//!
//! Only a remote store passes through *Asking*; in process the decision is made before the future exists.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

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
    /// The response of a [`RateLimit`](super::RateLimit). Unboxed while the store is in process.
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
    #[project_replace = StateReplace]
    enum State<S, ReqB, F> {
        Asking { asked: Box<Asked>, parked: Parked<S, ReqB> },
        Readying { parked: Parked<S, ReqB> },
        Calling { #[pin] future: F },
        Refused { response: Box<Response<Bytes>> },
        Done,
    }
}

/// A service with the request it is to get.
type Parked<S, ReqB> = (S, Request<ReqB>);

/// A question on its way to a remote store.
struct Asked {
    answer: BoxFuture<Result<Verdicts, Error>>,
    limiter: Arc<Limiter>,
    dues: Dues,
    at: Timestamp,
}

impl<S, ReqB, W> ResponseFuture<S, ReqB, W>
where
    S: Service<Request<ReqB>>,
{
    pub(super) const fn admitted(
        inner: S,
        request: Request<ReqB>,
        reply: Option<Reply>,
        decision: Option<Box<Decision>>,
    ) -> Self {
        Self { state: State::Readying { parked: (inner, request) }, reply, decision, body: PhantomData }
    }

    pub(super) fn refused(response: Box<Response<Bytes>>) -> Self {
        Self::new(State::Refused { response })
    }

    pub(super) fn asking(
        answer: BoxFuture<Result<Verdicts, Error>>,
        limiter: Arc<Limiter>,
        dues: Dues,
        at: Timestamp,
        parked: (S, Request<ReqB>),
    ) -> Self {
        Self::new(State::Asking { asked: Box::new(Asked { answer, limiter, dues, at }), parked })
    }

    const fn new(state: State<S, ReqB, S::Future>) -> Self {
        Self { state, reply: None, decision: None, body: PhantomData }
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
            match this.state.as_mut().project() {
                StateProj::Asking { asked, parked } => {
                    let answer = ready!(asked.answer.as_mut().poll(cx));
                    let head = RequestHead::of(&parked.1);
                    let outcome = asked.limiter.conclude(&head, &asked.dues, answer, asked.at);
                    let StateReplace::Asking { asked, parked: (inner, mut request) } =
                        this.state.as_mut().project_replace(State::Done)
                    else {
                        return Poll::Pending;
                    };
                    let next = match outcome {
                        Outcome::Refuse(response) => State::Refused { response },
                        Outcome::Admit(reply, decision) => {
                            (*this.reply, *this.decision) = (reply, decision);
                            reserve(&asked.limiter, asked.dues, asked.at, &mut request);
                            State::Readying { parked: (inner, request) }
                        }
                    };
                    this.state.set(next);
                }
                StateProj::Readying { parked } => {
                    ready!(parked.0.poll_ready(cx))?;
                    let StateReplace::Readying { parked: (mut inner, request) } =
                        this.state.as_mut().project_replace(State::Done)
                    else {
                        return Poll::Pending;
                    };
                    this.state.set(State::Calling { future: inner.call(request) });
                }
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
                StateProj::Refused { .. } => {
                    let StateReplace::Refused { response } = this.state.as_mut().project_replace(State::Done) else {
                        return Poll::Pending;
                    };
                    return Poll::Ready(Ok(response.map(Body::full)));
                }
                StateProj::Done => return Poll::Pending,
            }
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
            State::Done => "Done",
        };
        f.debug_struct("limit::ResponseFuture").field("state", &state).finish()
    }
}
