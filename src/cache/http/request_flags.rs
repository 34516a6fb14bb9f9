//! Request flags: one pass over the header fields collects the flags that the cache needs.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields whose names begin with `X-`, without that prefix, in order.
///
/// * Reflected: what frameworks build links, redirects and routes from (J. Kettle, "Practical Web Cache Poisoning", 2018).
/// * Credentials: by which services and proxies identify a user, beside `Authorization` and `Cookie`. In profile `app` they
///   count even if the layer was not configured to identify users by them.
/// * Forwarded: sent by every load balancer; part of the key rather than a reason to bypass.
const X_FIELDS: [(&str, RequestFlags); 50] = [
    ("access-token", RequestFlags::API_KEY),
    ("amz-security-token", RequestFlags::API_KEY),
    ("amzn-oidc-accesstoken", RequestFlags::API_KEY),
    ("amzn-oidc-data", RequestFlags::API_KEY),
    ("amzn-oidc-identity", RequestFlags::API_KEY),
    ("api-key", RequestFlags::API_KEY),
    ("api-token", RequestFlags::API_KEY),
    ("auth-request-user", RequestFlags::API_KEY),
    ("auth-token", RequestFlags::API_KEY),
    ("authenticated-user", RequestFlags::API_KEY),
    ("authentik-username", RequestFlags::API_KEY),
    ("forwarded-access-token", RequestFlags::API_KEY),
    ("forwarded-client-cert", RequestFlags::API_KEY),
    ("forwarded-email", RequestFlags::API_KEY),
    ("forwarded-host", RequestFlags::UNKEYED),
    ("forwarded-path", RequestFlags::UNKEYED),
    ("forwarded-port", RequestFlags::FORWARDED),
    ("forwarded-prefix", RequestFlags::UNKEYED),
    ("forwarded-proto", RequestFlags::FORWARDED),
    ("forwarded-protocol", RequestFlags::UNKEYED),
    ("forwarded-scheme", RequestFlags::UNKEYED),
    ("forwarded-server", RequestFlags::UNKEYED),
    ("forwarded-ssl", RequestFlags::UNKEYED),
    ("forwarded-uri", RequestFlags::UNKEYED),
    ("forwarded-user", RequestFlags::API_KEY),
    ("goog-api-key", RequestFlags::API_KEY),
    ("goog-authenticated-user-email", RequestFlags::API_KEY),
    ("goog-iap-jwt-assertion", RequestFlags::API_KEY),
    ("host", RequestFlags::UNKEYED),
    ("http-host-override", RequestFlags::UNKEYED),
    ("http-method", RequestFlags::UNKEYED),
    ("http-method-override", RequestFlags::UNKEYED),
    ("id-token", RequestFlags::API_KEY),
    ("method-override", RequestFlags::UNKEYED),
    ("ms-client-principal", RequestFlags::API_KEY),
    ("ms-client-principal-id", RequestFlags::API_KEY),
    ("original-host", RequestFlags::UNKEYED),
    ("original-uri", RequestFlags::UNKEYED),
    ("original-url", RequestFlags::UNKEYED),
    ("remote-user", RequestFlags::API_KEY),
    ("rewrite-url", RequestFlags::UNKEYED),
    ("scheme", RequestFlags::UNKEYED),
    ("session-id", RequestFlags::API_KEY),
    ("session-token", RequestFlags::API_KEY),
    ("token", RequestFlags::API_KEY),
    ("url-scheme", RequestFlags::UNKEYED),
    ("user", RequestFlags::API_KEY),
    ("user-id", RequestFlags::API_KEY),
    ("vault-token", RequestFlags::API_KEY),
    ("webauth-user", RequestFlags::API_KEY),
];

/// Set of header fields that a request carries, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestFlags(u16);

/// The `Host` field of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostField<'a> {
    Missing,
    One(&'a HeaderValue),
    Several,
}

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
    /// `X-Forwarded-Proto`, `X-Forwarded-Port` or `Forwarded`.
    pub(crate) const FORWARDED: Self = Self(1 << 10);
    /// A field that usually holds a credential: see [`X_FIELDS`].
    pub(super) const API_KEY: Self = Self(1 << 11);
    /// `Connection` names fields of the request.
    pub(super) const CONNECTION: Self = Self(1 << 14);
    /// `Expect`.
    pub(crate) const EXPECT: Self = Self(1 << 12);
    /// A credential read by a configured extractor. Set from the extractors, not by [`scan`](Self::scan).
    pub(crate) const IDENTITY: Self = Self(1 << 13);

    /// Any credential: the response may be specific to one user.
    pub(crate) const CREDENTIAL: Self = Self::AUTHORIZATION.and(Self::IDENTITY).and(Self::API_KEY);

    /// Collects the flags, and the `Host`, in one pass.
    pub(crate) fn scan(headers: &HeaderMap) -> (Self, HostField<'_>) {
        let (mut flags, mut host) = (Self::default(), HostField::Missing);
        for (name, value) in headers {
            if *name == header::HOST {
                host = if let HostField::Missing = host { HostField::One(value) } else { HostField::Several };
                continue;
            }
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
                "connection" if names_fields(value.as_bytes()) => Self::CONNECTION,
                "content-length" if value != "0" => Self::BODY,
                "content-type" if value.as_bytes().starts_with(b"application/grpc") => Self::GRPC,
                "forwarded" if names_host(value.as_bytes()) => Self::UNKEYED,
                "forwarded" => Self::FORWARDED,
                "front-end-https" => Self::UNKEYED,
                "api-key"
                | "apikey"
                | "private-token"
                | "cf-access-jwt-assertion"
                | "remote-user"
                | "tailscale-user-login"
                | "ssl-client-cert"
                | "dpop" => Self::API_KEY,
                name => match x_field(name) {
                    Some(found) => found,
                    None => continue,
                },
            };
            flags.0 |= found.0;
        }
        (flags, host)
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

/// The flag of a field whose name begins with `X-`.
#[inline]
fn x_field(name: &str) -> Option<RequestFlags> {
    let name = name.strip_prefix("x-")?;
    X_FIELDS.binary_search_by_key(&name, |(known, _)| known).ok().map(|at| X_FIELDS[at].1)
}

/// RFC 7239 §5.3: `Forwarded` may carry the original host.
fn names_host(value: &[u8]) -> bool {
    value.windows(5).any(|part| part.eq_ignore_ascii_case(b"host="))
}

/// RFC 7239 §5.4: the schemes that `Forwarded` names, in lower case.
pub(crate) fn forwarded_schemes(headers: &HeaderMap) -> Vec<u8> {
    let mut schemes = Vec::new();
    for line in headers.get_all(http::header::FORWARDED) {
        let line = line.as_bytes().to_ascii_lowercase();
        for pair in line.split(|b| matches!(b, b',' | b';')).map(<[u8]>::trim_ascii) {
            if let Some(scheme) = pair.strip_prefix(b"proto=") {
                schemes.extend_from_slice(scheme);
                schemes.push(b',');
            }
        }
    }
    schemes
}

/// RFC 9110 §7.6.1: a proxy removes the fields that `Connection` names before it forwards the request, after the cache has
/// looked at them. Whether it names others than those of one connection.
fn names_fields(value: &[u8]) -> bool {
    const OWN: [&[u8]; 6] = [b"close", b"keep-alive", b"upgrade", b"te", b"http2-settings", b"proxy-connection"];
    value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .any(|name| !name.is_empty() && !OWN.iter().any(|own| own.eq_ignore_ascii_case(name)))
}

/// Whether the request carries a reflected field that is not among `keyed`.
pub(super) fn has_unkeyed(headers: &HeaderMap, keyed: &[HeaderName]) -> bool {
    headers.iter().any(|(name, value)| {
        let reflected = match name.as_str() {
            "forwarded" => names_host(value.as_bytes()),
            "front-end-https" => true,
            name => x_field(name) == Some(RequestFlags::UNKEYED),
        };
        reflected && !keyed.contains(name)
    })
}

/// Whether every cookie name is among `ignorable`.
pub(super) fn cookies_are_ignorable(headers: &HeaderMap, ignorable: &[Box<str>]) -> bool {
    !ignorable.is_empty()
        && headers.get_all(http::header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';')).all(
            |pair| {
                let name = pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
                // A comma may hide another pair from who splits at commas; a pair without a name is one all the same.
                pair.trim_ascii().is_empty()
                    || !pair.contains(&b',') && ignorable.iter().any(|known| known.as_bytes() == name)
            },
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_in_order() {
        assert!(X_FIELDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(x_field("x-user"), Some(RequestFlags::API_KEY));
        assert_eq!(x_field("x-request-id"), None);
        assert_eq!(x_field("user"), None);
    }

    #[test]
    fn scan_sets_flags() {
        let mut headers = HeaderMap::new();
        headers.insert("accept", HeaderValue::from_static("*/*"));
        headers.insert("content-length", HeaderValue::from_static("0"));
        assert_eq!(RequestFlags::scan(&headers).0, RequestFlags::default());
        headers.insert("content-length", HeaderValue::from_static("1"));
        headers.insert("x-forwarded-host", HeaderValue::from_static("evil.example"));
        let (flags, _) = RequestFlags::scan(&headers);
        assert!(flags.has(RequestFlags::BODY) && flags.has(RequestFlags::UNKEYED) && !flags.has(RequestFlags::COOKIE));
    }

    #[test]
    fn cookies_are_ignorable_if_all_names_are() {
        let names = ["_ga".into(), "theme".into()];
        for (cookie, expected) in [
            ("_ga=1; theme=dark", true),
            ("_ga=1; session=x", false),
            ("theme", true),
            ("", true),
            ("_GA=1", false),
            ("=session=x", false),
            ("theme=1, session=x", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", HeaderValue::from_static(cookie));
            assert_eq!(cookies_are_ignorable(&headers, &names), expected, "{cookie}");
            assert!(!cookies_are_ignorable(&headers, &[]));
        }
    }
}
