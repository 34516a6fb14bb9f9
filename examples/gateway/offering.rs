//! Shows the mirror the blocks of stored bodies on their way out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::mirror::Mirror;

pin_project! {
    /// A body as it is, its blocks offered to the mirror where they may be stored ones.
    pub(crate) struct Offering<B> {
        #[pin]
        body: B,
        mirror: Option<Arc<Mirror>>,
    }
}

impl<B: Body> Offering<B> {
    /// A response with `Age` comes from a cache: from this one, or, sent on, from one before it, whose large blocks are copied
    /// once too often. Parts of a response are blocks of their own, of which there is no end.
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
