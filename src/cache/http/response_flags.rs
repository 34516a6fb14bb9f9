//! Response flags: which fields that decide on storing a response has, found in one pass.
//!
//! Most responses have few of them: what is absent is not looked up, and not parsed.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Set of header fields that a response has, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ResponseFlags(u16);

impl ResponseFlags {
    pub(super) const CACHE_CONTROL: Self = Self(1);
    /// A field of RFC 9213 that the cache obeys.
    pub(super) const TARGETED: Self = Self(1 << 1);
    pub(super) const EXPIRES: Self = Self(1 << 2);
    pub(super) const SET_COOKIE: Self = Self(1 << 3);
    pub(super) const CONTENT_RANGE: Self = Self(1 << 4);
    /// An event stream, by its `Content-Type`.
    pub(super) const EVENT_STREAM: Self = Self(1 << 5);
    pub(super) const CONTENT_LENGTH: Self = Self(1 << 6);
    pub(super) const VARY: Self = Self(1 << 7);
    /// `Cache-Tag` or `Surrogate-Key`.
    pub(super) const TAGS: Self = Self(1 << 8);
    /// `ETag` or `Last-Modified`.
    pub(super) const VALIDATOR: Self = Self(1 << 9);

    /// Collects the flags; `targeted` are the targeted fields.
    pub(super) fn scan(headers: &HeaderMap, targeted: &[HeaderName]) -> Self {
        headers.iter().fold(Self::default(), |flags, (name, value)| flags.and(Self::of(name, value, targeted)))
    }

    fn of(name: &HeaderName, value: &HeaderValue, targeted: &[HeaderName]) -> Self {
        match name.as_str() {
            "cache-control" => Self::CACHE_CONTROL,
            "expires" => Self::EXPIRES,
            "set-cookie" => Self::SET_COOKIE,
            "content-range" => Self::CONTENT_RANGE,
            "content-type" if is_event_stream(value.as_bytes()) => Self::EVENT_STREAM,
            "content-length" => Self::CONTENT_LENGTH,
            "vary" => Self::VARY,
            "cache-tag" | "surrogate-key" => Self::TAGS,
            "etag" | "last-modified" => Self::VALIDATOR,
            _ if targeted.contains(name) => Self::TARGETED,
            _ => Self::default(),
        }
    }

    /// Returns the union with `other`.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any flag of `other` is set.
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

fn is_event_stream(kind: &[u8]) -> bool {
    const STREAM: &[u8] = b"text/event-stream";
    // RFC 9110 §8.3.1: type and subtype are case-insensitive.
    kind.get(..STREAM.len()).is_some_and(|start| start.eq_ignore_ascii_case(STREAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_sets_flags() {
        let targeted = [HeaderName::from_static("tollgate-cache-control")];
        let mut headers = HeaderMap::new();
        headers.insert("content-language", HeaderValue::from_static("de"));
        assert_eq!(ResponseFlags::scan(&headers, &targeted), ResponseFlags::default());
        for (name, flag) in [
            ("etag", ResponseFlags::VALIDATOR),
            ("surrogate-key", ResponseFlags::TAGS),
            ("tollgate-cache-control", ResponseFlags::TARGETED),
            ("vary", ResponseFlags::VARY),
        ] {
            assert!(!ResponseFlags::scan(&headers, &targeted).has(flag), "{name}");
            headers.insert(name, HeaderValue::from_static("a"));
            assert!(ResponseFlags::scan(&headers, &targeted).has(flag), "{name}");
        }
    }
}
