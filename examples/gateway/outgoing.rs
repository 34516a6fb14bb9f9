//! Body of a request on its way to the origin. It remembers whether the client broke it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Body from the client; none where the request has none, so that it can be sent again.
#[derive(Default)]
pub(crate) struct Outgoing {
    body: Option<Incoming>,
    broken: Broken,
}

/// Whether the client's body was malformed or ended early.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broken(Arc<AtomicBool>);

impl Broken {
    pub(crate) fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Outgoing {
    pub(crate) fn of(body: Incoming) -> Self {
        Self { body: (!body.is_end_stream()).then_some(body), broken: Broken::default() }
    }

    pub(crate) fn broken(&self) -> Broken {
        self.broken.clone()
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body: Some(body), broken } = &mut *self else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(Some(Err(_)))) {
            broken.0.store(true, Ordering::Release);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
