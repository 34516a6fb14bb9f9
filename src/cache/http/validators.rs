//! Validators: conditional requests of clients and revalidation at the origin (RFC 9110 §8.8, §13; RFC 9111 §4.3).
//!
//! | question | when | rule |
//! |---|---|---|
//! | is the client's copy current? | before a stored response is sent | `If-None-Match` weakly, else `If-Modified-Since`; only in place of a 2xx |
//! | is the stored response current? | when it is stale | `If-None-Match` and `If-Modified-Since` derived from it; 304 updates it |

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::freshness::date;

/// Whether the client's conditions select 304 for a response with these fields. Implements RFC 9110 §13.2.2, steps 3
/// and 4, as RFC 9111 §4.3.2 lets a cache evaluate them.
pub(crate) fn is_not_modified(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> bool {
    // RFC 9110 §13.2.1: preconditions are ignored unless the response without them would be a success.
    if !status.is_success() {
        return false;
    }
    if request.contains_key(header::IF_NONE_MATCH) {
        // §13.1.3: "A recipient MUST ignore If-Modified-Since if the request contains an If-None-Match".
        return request.get_all(header::IF_NONE_MATCH).iter().any(|list| contains_etag(list, stored.get(header::ETAG)));
    }
    let Some(since) = date(request, &header::IF_MODIFIED_SINCE) else { return false };
    // §4.3.2: without Last-Modified "the cache should use the response's Date".
    let modified = date(stored, &header::LAST_MODIFIED).or_else(|| date(stored, &header::DATE));
    modified.is_some_and(|modified: SystemTime| modified <= since)
}

/// Whether an `If-None-Match` line holds `*` or a tag weakly equal to `etag`.
fn contains_etag(list: &HeaderValue, etag: Option<&HeaderValue>) -> bool {
    let mut rest = list.as_bytes();
    loop {
        rest = rest.trim_ascii_start();
        rest = rest.strip_prefix(b",").unwrap_or(rest).trim_ascii_start();
        if rest.is_empty() {
            return false;
        }
        if rest == b"*" {
            return true;
        }
        let weak = usize::from(rest.starts_with(b"W/")) * 2;
        let end = match rest.get(weak) {
            // The tag may contain commas: it ends at its closing quote.
            Some(b'"') => rest[weak + 1..].iter().position(|b| *b == b'"').map(|at| weak + at + 2),
            _ => rest.iter().position(|b| *b == b','),
        };
        let (tag, left) = rest.split_at(end.unwrap_or(rest.len()));
        if etag.is_some_and(|etag| weakly_equal(tag.trim_ascii(), etag.as_bytes())) {
            return true;
        }
        rest = left;
    }
}

/// RFC 9110 §8.8.3.2: weak comparison.
fn weakly_equal(one: &[u8], other: &[u8]) -> bool {
    let opaque = |tag| <[u8]>::strip_prefix(tag, b"W/").unwrap_or(tag).to_vec();
    opaque(one) == opaque(other)
}

/// RFC 9110 §8.8.3.2: strong comparison.
pub(crate) fn strongly_equal(one: Option<&HeaderValue>, other: Option<&HeaderValue>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one == other && is_strong(one))
}

pub(crate) fn is_strong(etag: &HeaderValue) -> bool {
    let bytes = etag.as_bytes();
    bytes.len() >= 2 && bytes.starts_with(b"\"") && bytes.ends_with(b"\"")
}

/// Whether a stale response with these fields can be revalidated.
pub(crate) fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED)
}

/// Removes the client's conditions and ranges, so that the inner service responds in full.
pub(crate) fn remove_conditions(request: &mut HeaderMap) {
    const NAMES: [HeaderName; 4] = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE, header::RANGE];
    if request.keys().any(|name| NAMES.contains(name)) {
        NAMES.iter().for_each(|name| drop(request.remove(name)));
    }
}

/// RFC 9111 §4.3.1: replaces the client's conditions by those that revalidate `stored`.
pub(crate) fn make_conditional(request: &mut HeaderMap, stored: &HeaderMap) {
    remove_conditions(request);
    if let Some(etag) = stored.get(header::ETAG) {
        request.insert(header::IF_NONE_MATCH, etag.clone());
    }
    // An unparsable date is repeated verbatim: the origin generated it and compares it.
    if let Some(modified) = stored.get(header::LAST_MODIFIED) {
        request.insert(header::IF_MODIFIED_SINCE, modified.clone());
    }
}

/// RFC 9111 §4.3.4: whether a 304 selects the stored response for update.
pub(crate) fn selects_for_update(stored: &HeaderMap, received: &HeaderMap) -> bool {
    match (received.get(header::ETAG), received.get(header::LAST_MODIFIED)) {
        // "If the new response contains one or more strong validators, then each of those strong validators identifies a
        // selected representation for update."
        (Some(new), _) if is_strong(new) => strongly_equal(Some(new), stored.get(header::ETAG)),
        // "… contains no strong validators but does contain one or more weak validators, and if those validators
        // correspond to one of the cache's stored responses"
        (Some(new), _) => stored.get(header::ETAG).is_some_and(|old| weakly_equal(new.as_bytes(), old.as_bytes())),
        (None, Some(new)) => stored.get(header::LAST_MODIFIED) == Some(new),
        // Without any validator it confirms the one response it was asked about.
        (None, None) => true,
    }
}

/// Fields that describe the stored content, which no 304 or HEAD changes (RFC 9111 §3.2).
const CONTENT_FIELDS: [HeaderName; 3] = [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_RANGE];

/// RFC 9111 §3.2: each field of the new response replaces all lines of that field in the stored one.
///
/// `new` holds only fields that may be stored.
pub(crate) fn update_stored(stored: &mut HeaderMap, new: &HeaderMap) {
    for name in new.keys() {
        if CONTENT_FIELDS.contains(name) {
            continue;
        }
        stored.remove(name);
        for value in new.get_all(name) {
            stored.append(name.clone(), value.clone());
        }
    }
}

/// Converts a response into the corresponding 304.
///
/// RFC 9110 §15.4.5: it keeps `Content-Location`, `Date`, `ETag`, `Vary`, `Cache-Control` and `Expires`, and "SHOULD
/// NOT" carry other representation metadata; `Last-Modified` only guides the update where there is no `ETag`. Fields
/// that are not about the representation (CORS, security policies) stay.
pub(crate) fn into_not_modified<B: Default>(response: Response<B>) -> Response<B> {
    let (mut parts, _) = response.into_parts();
    parts.status = StatusCode::NOT_MODIFIED;
    for name in [
        header::CONTENT_LENGTH,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_LANGUAGE,
        header::CONTENT_RANGE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
    ] {
        parts.headers.remove(name);
    }
    if parts.headers.contains_key(header::ETAG) {
        parts.headers.remove(header::LAST_MODIFIED);
    }
    Response::from_parts(parts, B::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        map
    }

    #[test]
    fn if_none_match_compares_weakly_over_lists_and_lines() {
        for (list, etag, expected) in [
            ("\"a\"", Some("\"a\""), true),
            ("W/\"a\"", Some("\"a\""), true),
            ("\"a\"", Some("W/\"a\""), true),
            ("\"x\", \"a\"", Some("\"a\""), true),
            ("\"x\" ,W/\"a\"", Some("\"a\""), true),
            ("\"x,\", \"a\"", Some("\"x,\""), true),
            ("*", Some("\"a\""), true),
            ("\"b\"", Some("\"a\""), false),
            ("a", Some("\"a\""), false),
            ("a", Some("a"), true),
            ("\"a\"", None, false),
            ("\"a", Some("\"a\""), false),
            ("", Some("\"a\""), false),
        ] {
            let stored = etag.map_or_else(HeaderMap::new, |etag| map(&[("etag", etag)]));
            assert_eq!(is_not_modified(&map(&[("if-none-match", list)]), StatusCode::OK, &stored), expected, "{list}");
        }
        let two = map(&[("if-none-match", "\"x\""), ("if-none-match", "\"a\"")]);
        assert!(is_not_modified(&two, StatusCode::OK, &map(&[("etag", "\"a\"")])));
        assert!(!is_not_modified(&two, StatusCode::NOT_FOUND, &map(&[("etag", "\"a\"")])));
    }

    #[test]
    fn if_modified_since_compares_with_last_modified_else_with_date() {
        let (old, new) = ("Thu, 01 Jan 2026 00:00:00 GMT", "Thu, 01 Jan 2026 00:00:01 GMT");
        let asks = |since, stored: &[(&'static str, &str)]| {
            is_not_modified(&map(&[("if-modified-since", since)]), StatusCode::OK, &map(stored))
        };
        assert!(asks(old, &[("last-modified", old)]) && asks(new, &[("last-modified", old)]));
        assert!(!asks(old, &[("last-modified", new)]));
        assert!(asks(old, &[("date", old)]) && !asks(old, &[("date", new)]));
        assert!(!asks("yesterday", &[("last-modified", old)]) && !asks(old, &[]));
        let both = map(&[("if-none-match", "\"b\""), ("if-modified-since", new)]);
        assert!(!is_not_modified(&both, StatusCode::OK, &map(&[("etag", "\"a\""), ("last-modified", old)])));
    }

    #[test]
    fn a_304_preserves_content_fields() {
        let mut stored =
            map(&[("content-length", "3"), ("content-encoding", "br"), ("x-a", "1"), ("x-a", "2"), ("x-b", "1")]);
        update_stored(
            &mut stored,
            &map(&[("content-length", "0"), ("content-encoding", "gzip"), ("x-a", "3"), ("etag", "\"n\"")]),
        );
        let expected =
            map(&[("content-length", "3"), ("content-encoding", "br"), ("x-a", "3"), ("x-b", "1"), ("etag", "\"n\"")]);
        assert_eq!(stored, expected);
    }

    #[test]
    fn a_304_for_another_representation_selects_nothing() {
        let stored = map(&[("etag", "\"a\"")]);
        assert!(selects_for_update(&stored, &map(&[("etag", "W/\"a\"")])) && selects_for_update(&stored, &map(&[])));
        let weak = map(&[("etag", "W/\"a\"")]);
        assert!(selects_for_update(&weak, &weak));
        assert!(!selects_for_update(&weak, &map(&[("etag", "\"a\"")])), "a strong tag that the entry lacks");
        assert!(!selects_for_update(&map(&[]), &weak));
        assert!(!selects_for_update(&stored, &map(&[("last-modified", "x")])), "a date that the entry lacks");
        assert!(!selects_for_update(&stored, &map(&[("etag", "\"b\"")])));
        assert!(!selects_for_update(&map(&[("last-modified", "x")]), &map(&[("etag", "\"b\"")])));
        assert!(!selects_for_update(&map(&[("last-modified", "x")]), &map(&[("last-modified", "y")])));
    }

    #[test]
    fn strong_comparison_needs_two_strong_equals() {
        let (strong, weak) = (HeaderValue::from_static("\"a\""), HeaderValue::from_static("W/\"a\""));
        assert!(strongly_equal(Some(&strong), Some(&strong)));
        assert!(!strongly_equal(Some(&weak), Some(&weak)) && !strongly_equal(Some(&strong), Some(&weak)));
        assert!(!strongly_equal(None, None));
    }

    #[test]
    fn a_304_keeps_only_fields_that_guide_an_update() {
        let response = Response::builder()
            .header("etag", "\"a\"")
            .header("last-modified", "x")
            .header("content-type", "a/b")
            .header("access-control-allow-origin", "*")
            .body("body")
            .expect("a response");
        let response = into_not_modified(response);
        assert_eq!(response.status(), 304);
        assert_eq!(*response.headers(), map(&[("etag", "\"a\""), ("access-control-allow-origin", "*")]));
        assert_eq!(*response.body(), "");
    }
}
