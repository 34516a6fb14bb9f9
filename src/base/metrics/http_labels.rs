//! [`RequestLabels`]: method, status and scheme of a request, packed into a number.
//!
//! Clients choose methods and schemes, so only known ones are distinguished.

use std::num::NonZeroU32;

use http::{Method, StatusCode, Uri};

/// Known methods, as OpenTelemetry lists them; others are `_OTHER`.
/// <https://opentelemetry.io/docs/specs/semconv/registry/attributes/http/>
const METHODS: [&str; 10] = ["_OTHER", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// Value of `error_type` if the inner service failed without a response.
const FAILED: &str = "_OTHER";

/// What is known of a request when it arrives: its method and scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestKind(NonZeroU32);

impl Default for RequestKind {
    fn default() -> Self {
        Self(RequestLabels::KNOWN)
    }
}

impl RequestKind {
    /// Set if the scheme is `https`.
    const HTTPS: u32 = 16 << 16;

    #[inline]
    pub(crate) fn of(method: &Method, uri: &Uri) -> Self {
        let method = match *method {
            Method::GET => 1 << 16,
            Method::HEAD => 2 << 16,
            Method::POST => 3 << 16,
            Method::PUT => 4 << 16,
            Method::DELETE => 5 << 16,
            Method::CONNECT => 6 << 16,
            Method::OPTIONS => 7 << 16,
            Method::TRACE => 8 << 16,
            Method::PATCH => 9 << 16,
            _ => 0,
        };
        // A target in origin form names no scheme.
        let https = uri.scheme().is_some_and(|scheme| *scheme == http::uri::Scheme::HTTPS);
        Self(RequestLabels::KNOWN | (method | if https { Self::HTTPS } else { 0 }))
    }

    /// Returns `http_request_method`.
    pub(crate) fn method(self) -> &'static str {
        METHODS.get((self.0.get() >> 16 & 15) as usize).copied().unwrap_or(METHODS[0])
    }

    /// Adds the status of the response; `None` if the inner service failed.
    #[inline]
    pub(crate) fn ended(self, status: Option<StatusCode>) -> RequestLabels {
        let status = status.map_or(0, |status| status.as_u16());
        RequestLabels(self.0 | u32::from(status))
    }
}

/// Labels of a finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestLabels(NonZeroU32);

impl RequestLabels {
    const KNOWN: NonZeroU32 = nonzero(1 << 31);
    /// Stands for the labels of further series, of requests that succeeded.
    pub(crate) const OTHER: Self = Self(nonzero(200));
    /// The same for requests that failed.
    pub(crate) const OTHER_FAILED: Self = Self(nonzero(500));

    /// Whether this stands for further series.
    pub(crate) const fn is_other(self) -> bool {
        self.0.get() & Self::KNOWN.get() == 0
    }

    pub(crate) const fn packed(self) -> NonZeroU32 {
        self.0
    }

    const fn status_code(self) -> u16 {
        self.0.get() as u16
    }

    /// Returns `http_request_method`.
    pub(crate) fn method(self) -> &'static str {
        RequestKind(self.0).method()
    }

    /// Returns `url_scheme`.
    pub(crate) const fn scheme(self) -> &'static str {
        if self.0.get() & RequestKind::HTTPS == 0 { "http" } else { "https" }
    }

    /// Returns `http_response_status_code`; empty without a response.
    pub(crate) fn status(self) -> String {
        if self.status_code() == 0 { String::new() } else { self.status_code().to_string() }
    }

    /// Whether the request failed: the status is at least `from`, or there is none.
    pub(crate) const fn failed(self, from: u16) -> bool {
        // No status, which is 0, wraps around.
        self.status_code().wrapping_sub(1) >= from - 1
    }

    /// Returns `error_type`: the status if it is at least `from`, `_OTHER` without a response; empty on success.
    pub(crate) fn error(self, from: u16) -> String {
        match self.status_code() {
            0 => FAILED.to_owned(),
            status if status >= from => status.to_string(),
            _ => String::new(),
        }
    }
}

const fn nonzero(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(method: &str, uri: &str, status: Option<u16>) -> [String; 4] {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let kind = RequestKind::of(&method, &uri.parse().expect("a URI"));
        let labels = kind.ended(status.map(|status| StatusCode::from_u16(status).expect("a status")));
        [labels.method().to_owned(), labels.scheme().to_owned(), labels.status(), labels.error(500)]
    }

    #[test]
    fn labels_survive_packing() {
        assert_eq!(labels("GET", "/a", Some(200)), ["GET", "http", "200", ""]);
        assert_eq!(labels("PATCH", "https://a/", Some(503)), ["PATCH", "https", "503", "503"]);
        assert_eq!(labels("BREW", "/", Some(999)), ["_OTHER", "http", "999", "999"]);
        assert_eq!(labels("DELETE", "/", None), ["DELETE", "http", "", "_OTHER"]);
    }

    #[test]
    fn every_known_method_keeps_its_name() {
        for name in &METHODS[1..] {
            assert_eq!(labels(name, "/", Some(200))[0], *name);
        }
    }
}
