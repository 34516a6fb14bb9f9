//! Inspects the beginning of a body while it is forwarded, for limits reported inside a 200.
//!
//! Frames reach the caller unchanged and at once. What is looked at is kept aside, at most as many bytes as allowed,
//! and
//! forgotten when the hook has seen it: at the bound, at the end, or when the body is dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

use super::shared::UpstreamShared;
use crate::base::error::BoxError;
use crate::upstream::learn::observed_limits::ObservedLimits;
use crate::upstream::quota::account::AccountTicket;

/// Callback that reads limits from a body.
pub(crate) type Read = Arc<dyn Fn(&Parts, &[u8]) -> Option<ObservedLimits> + Send + Sync>;

/// The hook, and how much it may see.
#[derive(Clone)]
pub(crate) struct BodyHook {
    pub(crate) most: usize,
    pub(crate) read: Read,
}

pin_project! {
    /// A body that is looked at.
    pub(crate) struct BodyInspector<B> {
        #[pin]
        inner: B,
        look: Look,
    }
}

/// The bytes inspected so far.
struct Look {
    core: Arc<UpstreamShared>,
    ticket: AccountTicket,
    parts: Option<Box<Parts>>,
    seen: Vec<u8>,
}

impl<B> BodyInspector<B> {
    pub(crate) fn new(inner: B, parts: Parts, core: Arc<UpstreamShared>, ticket: AccountTicket) -> Self {
        Self { inner, look: Look { core, ticket, parts: Some(Box::new(parts)), seen: Vec::new() } }
    }
}

impl Look {
    fn at(&mut self, data: &[u8]) {
        let Some(most) = self.core.in_body.as_ref().map(|hook| hook.most) else { return };
        if self.parts.is_none() {
            return;
        }
        let room = most - self.seen.len();
        self.seen.extend_from_slice(&data[..data.len().min(room)]);
        if self.seen.len() == most {
            self.tell();
        }
    }

    fn tell(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        if let (Some(parts), Some(hook)) = (self.parts.take(), self.core.in_body.as_ref())
            && let Some(told) = (hook.read)(&parts, &seen)
        {
            self.core.observed_in_body(&self.ticket, &told);
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.tell();
        }
    }
}

impl<B> http_body::Body for BodyInspector<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx)).map(|frame| frame.map_err(Into::into));
        match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or((), |data| this.look.at(data)),
            Some(Err(_)) | None => this.look.tell(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
