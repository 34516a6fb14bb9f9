//! [`ResponseFuture`]: from a decision to a response.
//!
//! ## Late ⇒ (Calling | Refused), Calling ⇒ done
//!
//! In process the decision is made before the future exists, and an inner service that is ready at once, as nearly all
//! are, is called before it exists too: such a future is *Calling* from the start. *Late* is what waits for a remote
//! store or for the inner service to become ready; it is rare, so it is boxed, and the future stays small.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::base::body::{Adopt, Body};
use crate::base::request_head::RequestHead;
use crate::limit::engine::limiter::{LimitStep, ResponseEdits};
use crate::limit::engine::shared_limits::Waiting;

pin_project! {
    /// The response of a [`RateLimit`](crate::limit::RateLimit). Unboxed while the store is in process and the inner
    /// service
    /// is ready.
    pub struct ResponseFuture<S, ReqB, W>
    where
        S: Service<Request<ReqB>>,
    {
        #[pin]
        pub(crate) state: FutureState<S, ReqB, S::Future>,
        pub(crate) pass: ResponseEdits,
        pub(crate) body: PhantomData<fn() -> W>,
    }
}

pin_project! {
    #[project = StateProj]
    pub(crate) enum FutureState<S, ReqB, F> {
        Calling { #[pin] future: F },
        Refused { response: Option<Refusal> },
        Late { late: Option<Box<PendingRequest<S, ReqB>>> },
    }
}

/// Response made by the layer.
pub(crate) type Refusal = Box<Response<Bytes>>;

/// A request that cannot go on yet.
pub(crate) struct PendingRequest<S, ReqB> {
    /// The tier, or the store's answer; `None` where it is the inner service that is waited for.
    waiting: Option<Box<Waiting>>,
    inner: S,
    request: Request<ReqB>,
}

impl<S, ReqB, W> ResponseFuture<S, ReqB, W>
where
    S: Service<Request<ReqB>>,
{
    #[cold]
    pub(crate) fn refused(response: Box<Response<Bytes>>) -> Self {
        Self {
            state: FutureState::Refused { response: Some(response) },
            pass: ResponseEdits::default(),
            body: PhantomData,
        }
    }

    #[cold]
    pub(crate) fn waiting(waiting: Box<Waiting>, inner: S, request: Request<ReqB>) -> Self {
        let late = PendingRequest { waiting: Some(waiting), inner, request };
        Self {
            state: FutureState::Late { late: Some(Box::new(late)) },
            pass: ResponseEdits::default(),
            body: PhantomData,
        }
    }

    #[cold]
    pub(crate) fn unready(inner: S, request: Request<ReqB>, pass: ResponseEdits) -> Self {
        let late = PendingRequest { waiting: None, inner, request };
        Self { state: FutureState::Late { late: Some(Box::new(late)) }, pass, body: PhantomData }
    }
}

impl<S, ReqB> PendingRequest<S, ReqB>
where
    S: Service<Request<ReqB>>,
{
    /// Waits for the store, then for the inner service.
    fn poll(&mut self, pass: &mut ResponseEdits, cx: &mut Context<'_>) -> Poll<Result<Option<Refusal>, S::Error>> {
        while let Some(waiting) = &mut self.waiting {
            let step = ready!(waiting.poll(&RequestHead::of(&self.request), cx));
            self.waiting = None;
            match step {
                LimitStep::Refuse(response) => return Poll::Ready(Ok(Some(response))),
                LimitStep::Admit(admitted) => {
                    *pass = admitted;
                    pass.prepare(self.request.extensions_mut());
                }
                // Its tier is known now; next comes the store.
                LimitStep::Wait(next) => self.waiting = Some(next),
            }
        }
        self.inner.poll_ready(cx).map_ok(|()| None)
    }
}

impl<S, ReqB, ResB, W> Future for ResponseFuture<S, ReqB, W>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    W: Adopt<ResB>,
    ResB: http_body::Body<Data = Bytes>,
{
    type Output = Result<Response<Body<W::Inner>>, S::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Calling { future } => {
                    let mut response = ready!(future.poll(cx))?;
                    this.pass.write(&mut response);
                    return Poll::Ready(Ok(response.map(W::adopt)));
                }
                StateProj::Refused { response } => match response.take() {
                    Some(response) => return Poll::Ready(Ok(response.map(Body::full))),
                    None => return Poll::Pending,
                },
                StateProj::Late { late } => {
                    let Some(waiting) = late.as_deref_mut() else { return Poll::Pending };
                    let refusal = ready!(waiting.poll(this.pass, cx))?;
                    let Some(late) = late.take() else { return Poll::Pending };
                    match refusal {
                        Some(response) => FutureState::Refused { response: Some(response) },
                        None => {
                            let PendingRequest { mut inner, request, .. } = *late;
                            FutureState::Calling { future: inner.call(request) }
                        }
                    }
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
            FutureState::Calling { .. } => "Calling",
            FutureState::Refused { .. } => "Refused",
            FutureState::Late { .. } => "Late",
        };
        f.debug_struct("limit::ResponseFuture").field("state", &state).finish()
    }
}
