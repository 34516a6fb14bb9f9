//! Looking at the beginning of a body while it goes by: limits that are told inside a 200.
//!
//! Frames reach the caller unchanged and at once. What is looked at is kept aside, at most as many bytes as allowed, and
//! forgotten when the hook has seen it: at the bound, at the end, or when the body is dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

use super::account::Ticket;
use super::core::Core;
use super::told::Told;
use crate::error::BoxError;

/// What reads limits out of a body.
pub(super) type Read = Arc<dyn Fn(&Parts, &[u8]) -> Option<Told> + Send + Sync>;

/// The hook, and how much it may see.
#[derive(Clone)]
pub(super) struct InBody {
    pub(super) most: usize,
    pub(super) read: Read,
}

pin_project! {
    /// A body that is looked at.
    pub(super) struct Peek<B> {
        #[pin]
        inner: B,
        look: Look,
    }
}

/// What was seen so far.
struct Look {
    core: Arc<Core>,
    ticket: Ticket,
    parts: Option<Box<Parts>>,
    seen: Vec<u8>,
}

impl<B> Peek<B> {
    pub(super) fn new(inner: B, parts: Parts, core: Arc<Core>, ticket: Ticket) -> Self {
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
            self.core.heard_in_body(&self.ticket, &told);
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

impl<B> http_body::Body for Peek<B>
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
