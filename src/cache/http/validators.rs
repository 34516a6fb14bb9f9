//! Validators: who already has this representation, and is ours still the current one (RFC 9110 §8.8, §13; RFC 9111
//! §4.3).
//!
//! | question | asked where | rule |
//! |---|---|---|
//! | does the client have it? | a stored response is about to be sent | `If-None-Match` weakly, else `If-Modified-Since`; only in place of a 2xx |
//! | do we still have it? | a stored response is stale | `If-None-Match` and `If-Modified-Since` made from it; 304 freshens it |

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::freshness::date;

/// Whether a response with these fields would be a copy of what the client already has: RFC 9110 §13.2.2, steps 3
/// and 4, as RFC 9111 §4.3.2 lets a cache evaluate them.
pub(crate) fn is_not_modified(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> bool {
    // RFC 9110 §13.2.1: preconditions are ignored unless the answer without them would be a success.
    if !status.is_success() {
        return false;
    }
    if request.contains_key(header::IF_NONE_MATCH) {
        // §13.1.3: "A recipient MUST ignore If-Modified-Since if the request contains an If-None-Match".
        return request.get_all(header::IF_NONE_MATCH).iter().any(|list| lists(list, stored.get(header::ETAG)));
    }
    let Some(since) = date(request, &header::IF_MODIFIED_SINCE) else { return false };
    // §4.3.2: without Last-Modified "the cache should use the response's Date".
    let modified = date(stored, &header::LAST_MODIFIED).or_else(|| date(stored, &header::DATE));
    modified.is_some_and(|modified: SystemTime| modified <= since)
}

/// Whether an `If-None-Match` line holds `*` or a tag weakly equal to `etag`.
fn lists(list: &HeaderValue, etag: Option<&HeaderValue>) -> bool {
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
            // The tag may hold commas: it ends at its closing quote.
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

/// Removes the conditions a client set, so that the inner service answers in full.
pub(crate) fn unconditional(request: &mut HeaderMap) {
    for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE, header::RANGE] {
        request.remove(name);
    }
}

/// RFC 9111 §4.3.1: asks the inner service whether `stored` is still current, in place of the client's own conditions.
pub(crate) fn make_conditional(request: &mut HeaderMap, stored: &HeaderMap) {
    unconditional(request);
    if let Some(etag) = stored.get(header::ETAG) {
        request.insert(header::IF_NONE_MATCH, etag.clone());
    }
    // A date that does not parse is repeated as it came: the origin made it, the origin compares it.
    if let Some(modified) = stored.get(header::LAST_MODIFIED) {
        request.insert(header::IF_MODIFIED_SINCE, modified.clone());
    }
}

/// RFC 9111 §4.3.3: whether a 304 speaks of the response we hold, rather than of another one.
pub(crate) fn freshens(stored: &HeaderMap, answer: &HeaderMap) -> bool {
    match (answer.get(header::ETAG), stored.get(header::ETAG)) {
        (Some(new), Some(old)) => weakly_equal(new.as_bytes(), old.as_bytes()),
        // §4.3.4: "If the new response contains any strong validators", those must match; none stored, none matches.
        (Some(new), None) => !is_strong(new),
        (None, _) => match (answer.get(header::LAST_MODIFIED), stored.get(header::LAST_MODIFIED)) {
            (Some(new), Some(old)) => new == old,
            _ => true,
        },
    }
}

/// Fields of a stored response that no 304 or HEAD changes: they describe the stored bytes (RFC 9111 §3.2).
const OF_THE_BYTES: [HeaderName; 3] = [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_RANGE];

/// RFC 9111 §3.2: each field of the new response replaces all lines of that field in the stored one.
///
/// `news` has already lost what is never stored.
pub(crate) fn update(stored: &mut HeaderMap, news: &HeaderMap) {
    for name in news.keys() {
        if OF_THE_BYTES.contains(name) {
            continue;
        }
        stored.remove(name);
        for value in news.get_all(name) {
            stored.append(name.clone(), value.clone());
        }
    }
}

/// Turns a response into the 304 that stands for it.
///
/// RFC 9110 §15.4.5: it keeps `Content-Location`, `Date`, `ETag`, `Vary`, `Cache-Control` and `Expires`, and "SHOULD
/// NOT"
/// carry other representation metadata; `Last-Modified` only guides the update where there is no `ETag`. Fields that
/// are not about the representation (CORS, security policies) stay.
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
    fn a_304_keeps_what_describes_the_stored_bytes() {
        let mut stored =
            map(&[("content-length", "3"), ("content-encoding", "br"), ("x-a", "1"), ("x-a", "2"), ("x-b", "1")]);
        update(
            &mut stored,
            &map(&[("content-length", "0"), ("content-encoding", "gzip"), ("x-a", "3"), ("etag", "\"n\"")]),
        );
        let expected =
            map(&[("content-length", "3"), ("content-encoding", "br"), ("x-a", "3"), ("x-b", "1"), ("etag", "\"n\"")]);
        assert_eq!(stored, expected);
    }

    #[test]
    fn a_304_about_another_representation_does_not_freshen() {
        let stored = map(&[("etag", "\"a\"")]);
        assert!(freshens(&stored, &map(&[("etag", "W/\"a\"")])) && freshens(&stored, &map(&[])));
        assert!(!freshens(&stored, &map(&[("etag", "\"b\"")])));
        assert!(!freshens(&map(&[("last-modified", "x")]), &map(&[("etag", "\"b\"")])));
        assert!(!freshens(&map(&[("last-modified", "x")]), &map(&[("last-modified", "y")])));
    }

    #[test]
    fn strong_comparison_needs_two_strong_equals() {
        let (strong, weak) = (HeaderValue::from_static("\"a\""), HeaderValue::from_static("W/\"a\""));
        assert!(strongly_equal(Some(&strong), Some(&strong)));
        assert!(!strongly_equal(Some(&weak), Some(&weak)) && !strongly_equal(Some(&strong), Some(&weak)));
        assert!(!strongly_equal(None, None));
    }

    #[test]
    fn the_304_for_a_response_keeps_only_what_guides_an_update() {
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
