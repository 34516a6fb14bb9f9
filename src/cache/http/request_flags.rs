//! Request flags: one pass over the header fields collects the flags that the cache needs.

use http::{HeaderMap, HeaderName};

/// Fields from which frameworks build links, redirects and routes, and which responses therefore reflect (J. Kettle,
/// "Practical Web Cache Poisoning", 2018).
const REFLECTED: [&str; 14] = [
    "x-forwarded-host",
    "x-forwarded-server",
    "x-forwarded-scheme",
    "x-forwarded-prefix",
    "x-forwarded-path",
    "x-original-url",
    "x-original-host",
    "x-original-uri",
    "x-rewrite-url",
    "x-host",
    "x-http-host-override",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// Fields by which services and proxies identify a user, beside `Authorization` and `Cookie`. Profile `app` treats them
/// as credentials even if no extractor reads them.
const API_KEYS: [&str; 18] = [
    "x-api-key",
    "api-key",
    "apikey",
    "x-api-token",
    "x-auth-token",
    "x-access-token",
    "x-session-token",
    "x-id-token",
    "private-token",
    "x-vault-token",
    "x-goog-api-key",
    "x-goog-iap-jwt-assertion",
    "x-amz-security-token",
    "x-amzn-oidc-data",
    "cf-access-jwt-assertion",
    "x-forwarded-user",
    "x-auth-request-user",
    "remote-user",
];

/// Set of header fields that a request carries, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestFlags(u16);

impl RequestFlags {
    pub(super) const AUTHORIZATION: Self = Self(1);
    pub(super) const COOKIE: Self = Self(1 << 1);
    pub(crate) const RANGE: Self = Self(1 << 2);
    /// `If-Match` or `If-Unmodified-Since`.
    pub(crate) const PRECONDITION: Self = Self(1 << 3);
    /// `If-None-Match` or `If-Modified-Since`.
    pub(crate) const CONDITION: Self = Self(1 << 4);
    pub(super) const UPGRADE: Self = Self(1 << 5);
    pub(super) const GRPC: Self = Self(1 << 6);
    pub(super) const UNKEYED: Self = Self(1 << 7);
    pub(crate) const CACHE_CONTROL: Self = Self(1 << 8);
    /// `Content-Length` other than 0, or `Transfer-Encoding`.
    pub(crate) const BODY: Self = Self(1 << 9);
    /// `X-Forwarded-Proto` or `X-Forwarded-Port`.
    pub(crate) const FORWARDED: Self = Self(1 << 10);
    /// A field that usually holds a credential: see [`API_KEYS`].
    pub(super) const API_KEY: Self = Self(1 << 11);
    /// `Expect`.
    pub(crate) const EXPECT: Self = Self(1 << 12);
    /// A credential read by a configured extractor. Set from the extractors, not by [`scan`](Self::scan).
    pub(crate) const IDENTITY: Self = Self(1 << 13);

    /// Collects the flags in one pass.
    pub(crate) fn scan(headers: &HeaderMap) -> Self {
        let mut flags = Self::default();
        for (name, value) in headers {
            let found = match name.as_str() {
                "authorization" | "proxy-authorization" => Self::AUTHORIZATION,
                "cookie" => Self::COOKIE,
                "range" => Self::RANGE,
                "if-match" | "if-unmodified-since" => Self::PRECONDITION,
                "if-none-match" | "if-modified-since" => Self::CONDITION,
                "upgrade" => Self::UPGRADE,
                "cache-control" | "pragma" => Self::CACHE_CONTROL,
                "transfer-encoding" => Self::BODY,
                "expect" => Self::EXPECT,
                "content-length" if value != "0" => Self::BODY,
                "content-type" if value.as_bytes().starts_with(b"application/grpc") => Self::GRPC,
                // Load balancers send these two with every request: they are part of the key.
                "x-forwarded-proto" | "x-forwarded-port" => Self::FORWARDED,
                "forwarded" if names_host(value.as_bytes()) => Self::UNKEYED,
                name if REFLECTED.contains(&name) => Self::UNKEYED,
                name if API_KEYS.contains(&name) => Self::API_KEY,
                _ => continue,
            };
            flags.0 |= found.0;
        }
        flags
    }

    /// Whether any flag of `other` is set.
    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Returns the union with `other`.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// RFC 7239 §5.3: `Forwarded` may carry the original host.
fn names_host(value: &[u8]) -> bool {
    value.windows(5).any(|part| part.eq_ignore_ascii_case(b"host="))
}

/// Whether the request carries a reflected field that is not among `keyed`.
pub(super) fn has_unkeyed(headers: &HeaderMap, keyed: &[HeaderName]) -> bool {
    headers.iter().any(|(name, value)| {
        let reflected =
            REFLECTED.contains(&name.as_str()) || (*name == http::header::FORWARDED && names_host(value.as_bytes()));
        reflected && !keyed.contains(name)
    })
}

/// Whether every cookie name is among `ignorable`.
pub(super) fn cookies_are_ignorable(headers: &HeaderMap, ignorable: &[Box<str>]) -> bool {
    !ignorable.is_empty()
        && headers.get_all(http::header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';')).all(
            |pair| {
                let name = pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
                name.is_empty() || ignorable.iter().any(|known| known.as_bytes() == name)
            },
        )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn scan_sets_flags() {
        let mut headers = HeaderMap::new();
        headers.insert("accept", HeaderValue::from_static("*/*"));
        headers.insert("content-length", HeaderValue::from_static("0"));
        assert_eq!(RequestFlags::scan(&headers), RequestFlags::default());
        headers.insert("content-length", HeaderValue::from_static("1"));
        headers.insert("x-forwarded-host", HeaderValue::from_static("evil.example"));
        let flags = RequestFlags::scan(&headers);
        assert!(flags.has(RequestFlags::BODY) && flags.has(RequestFlags::UNKEYED) && !flags.has(RequestFlags::COOKIE));
    }

    #[test]
    fn cookies_are_ignorable_if_all_names_are() {
        let names = ["_ga".into(), "theme".into()];
        for (cookie, expected) in
            [("_ga=1; theme=dark", true), ("_ga=1; session=x", false), ("theme", true), ("", true), ("_GA=1", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", HeaderValue::from_static(cookie));
            assert_eq!(cookies_are_ignorable(&headers, &names), expected, "{cookie}");
            assert!(!cookies_are_ignorable(&headers, &[]));
        }
    }
}
