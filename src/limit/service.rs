//! [`RateLimit`]: the tower service.

use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

use super::future::{Asked, ResponseFuture};
use super::limiter::{Limiter, Outcome};
use super::plan::Dues;
use super::reservation::Reservation;
use crate::answer::Answer;
use crate::body::{Adopt, Body, Wrap};
use crate::clock::Timestamp;
use crate::head::RequestHead;

/// Limits requests to an inner service. Made by [`RateLimitLayer`](super::RateLimitLayer).
///
/// Always ready: it decides first, and only then waits for the inner service, so that a refusal is answered while the
/// inner service is full. The service that is called is the very clone that was polled ready.
pub struct RateLimit<S, W = Wrap> {
    pub(super) inner: S,
    pub(super) limiter: Option<Arc<Limiter>>,
    pub(super) body: PhantomData<fn() -> W>,
}

impl<S, W, ReqB, ResB> Service<Request<ReqB>> for RateLimit<S, W>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    W: Adopt<ResB>,
    ResB: http_body::Body<Data = Bytes>,
{
    type Response = Response<Body<W::Inner>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqB, W>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let Some(limiter) = &self.limiter else {
            return ResponseFuture::admitted(self.inner.clone(), request, None, None);
        };
        let (head, mut dues) = (RequestHead::of(&request), Dues::default());
        if !limiter.dues(&head, &mut dues) {
            return ResponseFuture::admitted(self.inner.clone(), request, None, None);
        }
        let now = limiter.clock.now();
        let asked = limiter.ask(&dues, now);
        match asked {
            Answer::Ready(ref answer) => match limiter.conclude(&head, &dues, answer, now) {
                Outcome::Refuse(response) => ResponseFuture::refused(response),
                Outcome::Admit(reply, decision) => {
                    reserve(limiter, dues, now, &mut request);
                    ResponseFuture::admitted(self.inner.clone(), request, reply, decision)
                }
            },
            Answer::Pending(answer) => {
                let parked = (self.inner.clone(), request);
                ResponseFuture::asking(Box::new(Asked { answer, limiter: limiter.clone(), dues, at: now, parked }))
            }
        }
    }
}

/// Leaves a [`Reservation`] for the handler where a limit asks for it.
pub(super) fn reserve<B>(limiter: &Arc<Limiter>, dues: Dues, now: Timestamp, request: &mut Request<B>) {
    if dues.reserves {
        let checks = limiter.plan.reserving(&dues);
        request.extensions_mut().insert(Reservation::new(limiter.clone(), checks, now));
    }
}

impl<S: Clone, W> Clone for RateLimit<S, W> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), limiter: self.limiter.clone(), body: PhantomData }
    }
}

impl<S: std::fmt::Debug, W> std::fmt::Debug for RateLimit<S, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimit").field("inner", &self.inner).field("limiter", &self.limiter).finish()
    }
}
