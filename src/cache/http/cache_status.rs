//! `Cache-Status` (RFC 9211): how this cache handled the request, written only if enabled.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::key::{CacheKey, Target};
use super::reason::Reason;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Reason for forwarding the request (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    /// The request bypassed the cache.
    Bypass,
    /// The method is not cacheable.
    Method,
    /// No entry has this key.
    UriMiss,
    /// The stored variants do not match the request.
    VaryMiss,
    /// The request's directives demanded it.
    Request,
    /// The entry is stale.
    Stale,
    /// The entry is partial.
    Partial,
}

impl Forward {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

/// Parameters of one `Cache-Status` member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// `None` for a hit.
    pub(crate) forward: Option<Forward>,
    /// Status of the inner service, if it differs from the one sent to the client.
    pub(crate) forward_status: Option<StatusCode>,
    pub(crate) stored: bool,
    pub(crate) collapsed: bool,
    /// Remaining freshness in seconds; negative if stale.
    pub(crate) ttl: Option<i64>,
    pub(crate) detail: Option<Reason>,
}

impl Report {
    pub(crate) fn forward(why: Forward) -> Self {
        Self { forward: Some(why), ..Self::default() }
    }
}

/// RFC 9211 §2: appends this cache's member after those of caches closer to the origin.
pub(crate) fn write(headers: &mut HeaderMap, name: &str, key: Option<&CacheKey>, report: Report) {
    let mut line = String::with_capacity(64);
    line.push_str(name);
    match report.forward {
        None => line.push_str("; hit"),
        Some(why) => {
            line.push_str("; fwd=");
            line.push_str(why.as_str());
        }
    }
    // Writing to a `String` does not fail.
    if let Some(status) = report.forward_status {
        let _ = write!(line, "; fwd-status={}", status.as_u16());
    }
    if let Some(ttl) = report.ttl {
        let _ = write!(line, "; ttl={ttl}");
    }
    if report.stored {
        line.push_str("; stored");
    }
    if report.collapsed {
        line.push_str("; collapsed");
    }
    if let Some(target) = key.and_then(|key| Target::of(key.resource())) {
        line.push_str("; key=\"");
        // Paths are visible ASCII; characters that need escaping in a string are escaped.
        for byte in [target.scheme, b"://", target.authority, target.path, target.query].concat() {
            match byte {
                b'"' | b'\\' => line.extend(['\\', char::from(byte)]),
                0x20..=0x7e => line.push(char::from(byte)),
                _ => line.push('?'),
            }
        }
        line.push('"');
    }
    if let Some(detail) = report.detail {
        let _ = write!(line, "; detail={detail}");
    }
    if let Ok(value) = HeaderValue::try_from(line) {
        headers.append(CACHE_STATUS, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_as_the_rfc_says() {
        let mut headers = HeaderMap::new();
        write(&mut headers, "Tollgate", None, Report { ttl: Some(14), ..Report::default() });
        let forwarded = Report {
            forward_status: Some(StatusCode::NOT_MODIFIED),
            stored: true,
            collapsed: true,
            detail: Some(Reason::NoStore),
            ..Report::forward(Forward::Stale)
        };
        write(&mut headers, "Tollgate", None, forwarded);
        let lines: Vec<_> = headers.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(lines[0], "Tollgate; hit; ttl=14");
        assert_eq!(lines[1], "Tollgate; fwd=stale; fwd-status=304; stored; collapsed; detail=no-store");
    }
}
