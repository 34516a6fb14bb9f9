//! Offers the blocks of stored bodies to the mirror while they are sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::mirror::Mirror;

pin_project! {
    /// Forwards a body, and offers its blocks to the mirror.
    pub(crate) struct Offering<B> {
        #[pin]
        body: B,
        mirror: Option<Arc<Mirror>>,
    }
}

impl<B: Body> Offering<B> {
    /// Wraps a response with `Age`, which comes from a cache: this one, or one before it, whose large blocks are then
    /// copied once unnecessarily. Parts of a response are excluded, because each range is a block of its own.
    pub(crate) fn of(response: Response<B>, mirror: Option<Arc<Mirror>>) -> Response<Self> {
        let stored = response.status() == StatusCode::OK && response.headers().contains_key(header::AGE);
        let mirror = mirror.filter(|_| stored && Mirror::is_for(response.body().size_hint().lower()));
        response.map(|body| Self { body, mirror })
    }
}

impl<B: Body<Data = Bytes>> Body for Offering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        this.body.poll_frame(cx).map_ok(|frame| {
            if let (Some(mirror), Some(block)) = (this.mirror, frame.data_ref()) {
                mirror.offer(block);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
