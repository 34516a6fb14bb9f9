//! Responses from stored entries: a copy of the prepared fields, the age, and the body by reference.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::shared::CacheShared;
use crate::base::body::Body;
use crate::base::clock::Timestamp;
use crate::base::headers::number;
use crate::cache::engine::record::{Blocks, Entry};
use crate::cache::http::cache_status::{self, Forward, Report};
use crate::cache::http::key::CacheKey;
use crate::cache::http::range::{self, ByteSpan, RequestedRanges};
use crate::cache::http::reason::Reason;
use crate::cache::http::request_flags::RequestFlags;
use crate::cache::http::stored_head::StoredHead;
use crate::cache::http::validators;

/// Properties of a request that affect the response.
#[derive(Clone, Copy)]
pub(super) struct RequestView<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) flags: RequestFlags,
    pub(super) head_only: bool,
}

impl RequestView<'_> {
    /// RFC 9110 §14.2: "A server MUST ignore a Range header field received with a request method that is unrecognized
    /// or for which range handling is not defined": it is defined for GET.
    fn wants_part(self) -> bool {
        self.flags.has(RequestFlags::RANGE) && !self.head_only
    }
}

/// Whether this entry holds all requested bytes.
pub(super) fn satisfies(entry: &Entry, view: RequestView<'_>) -> bool {
    let Some(part) = entry.partial else { return true };
    if !view.wants_part() {
        return false;
    }
    match range::requested_ranges(view.headers, &entry.meta.headers, part.total) {
        RequestedRanges::Parts(parts) => parts.iter().all(|range| part.span.contains(*range)),
        RequestedRanges::Unsatisfiable => true,
        RequestedRanges::Whole => false,
    }
}

/// Creates the response from a stored entry.
pub(super) fn from_entry<B>(
    core: &CacheShared,
    entry: &Entry,
    view: RequestView<'_>,
    now: Timestamp,
    report: Report,
) -> Response<Body<B>> {
    let body = match &entry.body.blocks {
        _ if view.head_only => Body::empty(),
        Blocks::One(bytes) => Body::full(bytes.clone()),
        Blocks::Many(chunks) => Body::chunks(chunks.clone()),
    };
    let response = from_head(core, &entry.meta, body, &entry.key, view, now, report);
    if !view.wants_part() || response.status() != StatusCode::OK {
        return response;
    }
    select_ranges(response, entry, view)
}

/// Selects the requested ranges of a 200 (RFC 9110 §15.3.7), or responds 416.
fn select_ranges<B>(mut response: Response<Body<B>>, entry: &Entry, view: RequestView<'_>) -> Response<Body<B>> {
    let (offset, total) = entry.partial.map_or((0, entry.length), |part| (part.span.start, part.total));
    let from = |range: ByteSpan| entry.body.slice(ByteSpan { start: range.start - offset, end: range.end - offset });
    let parts = match range::requested_ranges(view.headers, &entry.meta.headers, total) {
        RequestedRanges::Whole => return response,
        RequestedRanges::Unsatisfiable => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            *response.body_mut() = Body::empty();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_RANGE, range::unsatisfied_range_value(total));
            headers.insert(header::CONTENT_LENGTH, number(0));
            return response;
        }
        RequestedRanges::Parts(parts) => parts,
    };
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let (chunks, length) = if let [only] = *parts {
        response.headers_mut().insert(header::CONTENT_RANGE, range::content_range_value(only, total));
        (from(only), only.len())
    } else {
        let boundary = format!("{:016x}{total:x}", entry.key.hash64());
        let kind = entry.meta.headers.get(header::CONTENT_TYPE);
        let chunks = multipart(&boundary, kind, total, &parts, from);
        let kind = format!("multipart/byteranges; boundary={boundary}");
        if let Ok(kind) = HeaderValue::try_from(kind) {
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        // RFC 9110 §15.3.7.2: a multipart response has no Content-Range of its own, not even one that was stored.
        response.headers_mut().remove(header::CONTENT_RANGE);
        let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        (chunks, length)
    };
    response.headers_mut().insert(header::CONTENT_LENGTH, number(length));
    *response.body_mut() = Body::chunks(chunks.into());
    response
}

/// RFC 9110 §14.6: each part has its own `Content-Type` and `Content-Range`.
fn multipart(
    boundary: &str,
    kind: Option<&HeaderValue>,
    total: u64,
    parts: &[ByteSpan],
    from: impl Fn(ByteSpan) -> Vec<Bytes>,
) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    for part in parts {
        let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
        if let Some(kind) = kind {
            head.extend_from_slice(b"Content-Type: ");
            head.extend_from_slice(kind.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"Content-Range: ");
        head.extend_from_slice(range::content_range_value(*part, total).as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        chunks.push(head.into());
        chunks.extend(from(*part));
    }
    chunks.push(format!("\r\n--{boundary}--\r\n").into());
    chunks
}

/// Creates the response from a stored head and a body.
pub(super) fn from_head<B>(
    core: &CacheShared,
    meta: &StoredHead,
    body: Body<B>,
    key: &CacheKey,
    view: RequestView<'_>,
    now: Timestamp,
    report: Report,
) -> Response<Body<B>> {
    let mut response = Response::new(body);
    *response.status_mut() = meta.status;
    *response.headers_mut() = meta.headers.clone();
    // RFC 9111 §4: "the cache MUST generate an Age header field" in a response it has not just validated. Written into
    // its slot: `insert` would reserve space for another field first.
    if let Some(slot) = response.headers_mut().get_mut(header::AGE) {
        *slot = number(meta.age_at(now).as_secs());
    }
    let mut response = match is_not_modified(view, meta.status, &meta.headers) {
        true => validators::into_not_modified(response),
        false => response,
    };
    if let Some(name) = &core.settings.status_name {
        let ttl = Some(CacheShared::ttl(meta, now));
        let key = core.settings.status_key.then_some(key);
        cache_status::write(response.headers_mut(), name, key, Report { ttl, ..report });
    }
    response
}

/// Prepares the inner service's response for the client that triggered the fetch.
pub(super) fn forward<B>(core: &CacheShared, response: &mut Response<B>, key: Option<&CacheKey>, report: Report) {
    let hidden = not_forwarded(core);
    if response.headers().keys().any(|name| hidden.contains(name)) {
        for name in hidden {
            response.headers_mut().remove(name);
        }
    }
    if let Some(name) = &core.settings.status_name {
        let forward_status = report.forward_status.filter(|status| *status != response.status());
        let key = key.filter(|_| core.settings.status_key);
        cache_status::write(response.headers_mut(), name, key, Report { forward_status, ..report });
    }
}

/// Whether the client's conditions select 304 for these fields.
pub(super) fn is_not_modified(view: RequestView<'_>, status: StatusCode, headers: &HeaderMap) -> bool {
    view.flags.has(RequestFlags::CONDITION) && validators::is_not_modified(view.headers, status, headers)
}

/// Returns the fields not forwarded: this crate's targeted field, and (RFC 9213) the others unless configured
/// otherwise.
pub(super) fn not_forwarded(core: &CacheShared) -> &[HeaderName] {
    let targeted = &core.settings.targeted;
    // This crate's field is the first in the list.
    if core.settings.forward_targeted { &targeted[..targeted.len().min(1)] } else { targeted }
}

/// RFC 9111 §5.2.1.7: the response to `only-if-cached` without a usable entry.
pub(super) fn gateway_timeout<B>(core: &CacheShared, key: &CacheKey, forward: Forward) -> Response<Body<B>> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    if let Some(name) = &core.settings.status_name {
        let report = Report { detail: Some(Reason::OnlyIfCached), ..Report::forward(forward) };
        cache_status::write(response.headers_mut(), name, core.settings.status_key.then_some(key), report);
    }
    response
}
