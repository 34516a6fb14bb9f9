//! Partial entries: served for the ranges they hold, combined if adjacent, completed if only the end is missing.
//!
//! RFC 9111 §3.4: parts are combined only if both have the same strong validator.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};

use crate::base::body::{Body, BodyError};
use crate::base::error::BoxError;
use crate::cache::engine::body_buffer;
use crate::cache::engine::body_memory::BodyMemory;
use crate::cache::engine::record::{Entry, StoredBody};
use crate::cache::http::range::{self, ByteSpan, ContentRange};
use crate::cache::http::reason::Reason;
use crate::cache::http::validators;

/// Combines the stored beginning with [the rest](is_rest_of) just received into the whole response.
pub(super) fn complete<I>(beginning: &Arc<Entry>, response: Response<Body<I>>) -> Response<Body<I>>
where
    I: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let (mut parts, body) = response.into_parts();
    let total = beginning.partial.map_or(0, |part| part.total);
    // §3.4: "the cache MUST use the header fields provided in the new response" over those stored.
    let mut headers = beginning.meta.headers.clone();
    headers.remove(header::AGE);
    parts.headers.remove(header::CONTENT_RANGE);
    parts.headers.remove(header::CONTENT_LENGTH);
    validators::update_stored(&mut headers, &parts.headers);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(total));
    parts.headers = headers;
    parts.status = StatusCode::OK;
    let head =
        futures_util::stream::iter(beginning.body.chunks().into_iter().map(|chunk| Ok(http_body::Frame::data(chunk))));
    let rest = futures_util::StreamExt::chain(head, into_frames(body));
    Response::from_parts(parts, Body::stream(Box::pin(StreamBody::new(rest))))
}

/// Converts a body into a stream of frames.
fn into_frames<I>(body: Body<I>) -> impl futures_util::Stream<Item = Result<http_body::Frame<Bytes>, BoxError>> + Send
where
    I: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut body = Box::pin(body.map_err(BodyError::into_inner));
    futures_util::stream::poll_fn(move |cx| http_body::Body::poll_frame(body.as_mut(), cx))
}

/// Combines a part just received with the stored one; returns the bytes, their range, and the total length.
///
/// Combined bytes are copied into blocks of their own: references would keep every part ever received alive.
///
/// # Errors
/// [`Reason::TooLarge`] beyond `max` bytes, [`Reason::NoRoom`] if no memory is available.
pub(super) fn combine(
    new: StoredBody,
    part: ContentRange,
    etag: Option<&HeaderValue>,
    old: Option<&Entry>,
    body_memory: &Arc<BodyMemory>,
    max: u64,
) -> Result<(StoredBody, ContentRange), Reason> {
    let touching =
        old.filter(|old| validators::strongly_equal(etag, old.meta.headers.get(header::ETAG))).and_then(|old| {
            let known = old.partial.filter(|known| known.total == part.total)?;
            (known.span.start <= part.span.end && part.span.start <= known.span.end).then_some((old, known.span))
        });
    let Some((old, known)) = touching else { return Ok((new, part)) };
    let span = ByteSpan { start: known.start.min(part.span.start), end: known.end.max(part.span.end) };
    if span.len() > max {
        return Err(Reason::TooLarge);
    }
    let before = ByteSpan { start: span.start, end: part.span.start.max(span.start) };
    let after = ByteSpan { start: part.span.end.min(span.end), end: span.end };
    let from_old = |range: ByteSpan| {
        let range = ByteSpan { start: range.start - known.start, end: range.end - known.start };
        old.body.slice(range)
    };
    let mut chunks = Vec::new();
    if before.start < before.end {
        chunks.extend(from_old(before));
    }
    chunks.extend(new.chunks());
    if after.start < after.end {
        chunks.extend(from_old(after));
    }
    let blocks = body_buffer::copied(&chunks, span.len(), body_memory).ok_or(Reason::NoRoom)?;
    Ok((StoredBody::from_blocks(&blocks, body_memory), ContentRange { span, total: part.total }))
}

/// Replaces the fields of a part by those of the whole, for storing.
pub(super) fn restore_whole_fields(headers: &mut http::HeaderMap) {
    headers.remove(header::CONTENT_RANGE);
    headers.remove(header::CONTENT_LENGTH);
}

/// Whether a response holds what this beginning lacks, of the same representation.
pub(super) fn is_rest_of<I>(beginning: &Entry, response: &Response<I>) -> bool {
    let missing = beginning.partial.map(|part| (ByteSpan { start: beginning.length, end: part.total }, part.total));
    let sent = range::content_range(response.headers()).map(|sent| (sent.span, sent.total));
    response.status() == StatusCode::PARTIAL_CONTENT
        && sent.is_some()
        && sent == missing
        && validators::strongly_equal(response.headers().get(header::ETAG), beginning.meta.headers.get(header::ETAG))
}

/// Whether the rest of this entry can be requested: it holds the beginning, with a strong validator.
pub(super) fn is_beginning(entry: &Entry) -> bool {
    entry.partial.is_some_and(|part| part.span.start == 0)
        && entry.meta.headers.get(header::ETAG).is_some_and(validators::is_strong)
}
