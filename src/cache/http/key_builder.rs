//! How a request becomes a key, part by part.
//!
//! | part | canonical form |
//! |---|---|
//! | scheme | the target's, else the layer's default |
//! | authority | lower case, without the scheme's default port |
//! | path, query | as sent: no decoding, no sorting (a cache that decodes confuses paths its origin tells apart) |
//! | key fields | every line of each, and whether there is one |
//! | identity | [`Key`]'s own injective encoding |
//!
//! This runs once per request, hits included: parts are written into one buffer on the stack.

use http::uri::Authority;
use http::{Uri, header};
use smallvec::SmallVec;

use super::key::CacheKey;
use super::reason::Reason;
use crate::base::request_head::RequestHead;
use crate::identity::Key;

/// A longer key is not worth an entry.
const LONGEST: usize = 16 * 1024;
/// Keys up to this length are built without an allocation.
const USUAL: usize = 256;

/// How keys are made: the layer's part of the decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyParts<'a> {
    /// The scheme of a request that does not say.
    pub(crate) default_scheme: &'a str,
    /// Query parameters that do not select the response.
    pub(crate) ignore_query: &'a [Box<str>],
    /// Whether all of the query is left out.
    pub(crate) without_query: bool,
}

/// Builds a key part by part.
pub(crate) struct KeyBuilder {
    usual: [u8; USUAL],
    length: usize,
    /// Everything, once it no longer fits.
    long: Vec<u8>,
    resource: usize,
}

impl KeyBuilder {
    pub(crate) const fn new() -> Self {
        Self { usual: [0; USUAL], length: 0, long: Vec::new(), resource: 0 }
    }

    /// Writes the resource this request asks for.
    ///
    /// # Errors
    /// [`Reason::Authority`] where the request does not name exactly one authority.
    pub(crate) fn request(&mut self, head: &RequestHead<'_>, parts: KeyParts<'_>) -> Result<(), Reason> {
        // A nested router strips the prefix from the target; the key needs all of it.
        let uri = head.original_uri();
        let scheme = uri.scheme_str().or_else(|| head.uri().scheme_str()).unwrap_or(parts.default_scheme);
        let mut hosts = head.headers().get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (None, _) => None,
            (Some(host), None) => Some(host.as_bytes()),
            // RFC 9112 §3.2: a server answers 400 to several Host fields. They are never a key.
            (Some(_), Some(_)) => return Err(Reason::Authority),
        };
        let from_target = uri.authority().or_else(|| head.uri().authority()).map(Authority::as_str);
        let authority = match (from_target.map(str::as_bytes), host) {
            (None, None) => return Err(Reason::Authority),
            (Some(one), None) | (None, Some(one)) => one,
            // RFC 9110 §7.2: both name the same authority, or the request lies about one of them.
            (Some(target), Some(host)) if same_authority(scheme, target, host) => target,
            (Some(_), Some(_)) => return Err(Reason::Authority),
        };
        self.target(scheme, authority, uri, parts)?;
        let (path, original) = (head.uri().path_and_query(), uri.path_and_query());
        if path != original {
            // Another layer may have rewritten the target by something that is not in it.
            self.byte(3);
            self.put(path.map_or("", |target| target.as_str()).as_bytes());
        }
        Ok(())
    }

    /// Writes a resource given by its parts.
    ///
    /// # Errors
    /// [`Reason::Authority`] where `authority` is malformed.
    pub(crate) fn target(
        &mut self,
        scheme: &str,
        authority: &[u8],
        uri: &Uri,
        parts: KeyParts<'_>,
    ) -> Result<(), Reason> {
        let authority = canonical(scheme, authority).ok_or(Reason::Authority)?;
        self.put_lower(scheme.as_bytes());
        self.put_lower(authority);
        // RFC 9110 §4.2.3: "an empty path component is equivalent to an absolute path of "/"".
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        self.put(path.as_bytes());
        match uri.query().filter(|_| !parts.without_query) {
            None => self.put(b""),
            Some(query) if parts.ignore_query.is_empty() => self.put_query(query.as_bytes()),
            Some(query) => self.put_query(selecting(query, parts.ignore_query).as_bytes()),
        }
        self.resource = self.bytes().len();
        Ok(())
    }

    /// Adds a field's lines; a missing field is not an empty one.
    pub(crate) fn field(&mut self, head: &RequestHead<'_>, name: &http::HeaderName) {
        for line in head.headers().get_all(name) {
            self.byte(1);
            self.put(line.as_bytes());
        }
        self.byte(0);
    }

    /// Adds the schemes that proxies name.
    pub(crate) fn scheme(&mut self, schemes: &[u8]) {
        self.byte(4);
        self.put(schemes);
    }

    /// Adds who is asking.
    pub(crate) fn identity(&mut self, identity: &Key<'_>) {
        let mut encoded = Vec::new();
        identity.encode(&mut encoded);
        self.byte(2);
        self.put(&encoded);
    }

    /// The key.
    ///
    /// # Errors
    /// [`Reason::KeyTooLong`] beyond 16 KiB.
    pub(crate) fn finish(&self) -> Result<CacheKey, Reason> {
        let bytes = self.bytes();
        if bytes.len() > LONGEST {
            return Err(Reason::KeyTooLong);
        }
        Ok(CacheKey::seal(SmallVec::from_slice(bytes), self.resource))
    }

    fn bytes(&self) -> &[u8] {
        if self.long.is_empty() { &self.usual[..self.length] } else { &self.long }
    }

    fn put(&mut self, bytes: &[u8]) {
        let prefix = (bytes.len() as u32).to_be_bytes();
        let (start, end) = (self.length + 4, self.length + 4 + bytes.len());
        if self.long.is_empty() && end <= USUAL {
            self.usual[self.length..start].copy_from_slice(&prefix);
            self.usual[start..end].copy_from_slice(bytes);
            self.length = end;
            return;
        }
        self.append(&prefix);
        self.append(bytes);
    }

    fn put_lower(&mut self, bytes: &[u8]) {
        self.put(bytes);
        let written = if self.long.is_empty() { &mut self.usual[..self.length] } else { &mut self.long[..] };
        let start = written.len() - bytes.len();
        written[start..].make_ascii_lowercase();
    }

    /// `/a?` and `/a` are two resources, so the question mark is kept.
    fn put_query(&mut self, query: &[u8]) {
        self.append(&(query.len() as u32 + 1).to_be_bytes());
        self.byte(b'?');
        self.append(query);
    }

    fn byte(&mut self, byte: u8) {
        self.append(&[byte]);
    }

    fn append(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if self.long.is_empty() && end <= USUAL {
            self.usual[self.length..end].copy_from_slice(bytes);
            self.length = end;
            return;
        }
        if self.long.is_empty() {
            self.long.extend_from_slice(&self.usual[..self.length]);
        }
        self.long.extend_from_slice(bytes);
    }
}

fn selecting(query: &str, ignored: &[Box<str>]) -> String {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let kept: Vec<_> = query.split('&').filter(|pair| !ignored.iter().any(|known| **known == name(pair))).collect();
    kept.join("&")
}

fn same_authority(scheme: &str, one: &[u8], other: &[u8]) -> bool {
    match (canonical(scheme, one), canonical(scheme, other)) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        _ => false,
    }
}

/// Bytes that stand in a host and port (RFC 3986 §3.2.2), the colon apart.
static IN_HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
            | b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
            | b'[' | b']');
        byte += 1;
    }
    table
};

/// Without the scheme's default port; `None` where it is no authority, or carries user information.
fn canonical<'a>(scheme: &str, authority: &'a [u8]) -> Option<&'a [u8]> {
    // The last colon, unless it stands inside an IPv6 address.
    let mut colon = None;
    for (at, byte) in authority.iter().enumerate() {
        match byte {
            b':' => colon = Some(at),
            b']' => colon = None,
            _ => {}
        }
        if !IN_HOST[usize::from(*byte)] && *byte != b':' {
            return None;
        }
    }
    let Some(colon) = colon else { return (!authority.is_empty()).then_some(authority) };
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    let default: &[u8] = if scheme.eq_ignore_ascii_case("https") { b"443" } else { b"80" };
    if host.is_empty() || !port.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // RFC 9110 §4.2.3: an empty port, or the scheme's own, is the same as none.
    if port.is_empty() || port == default { Some(host) } else { Some(authority) }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::super::key::Target;
    use super::*;

    const PARTS: KeyParts<'static> = KeyParts { default_scheme: "http", ignore_query: &[], without_query: false };

    fn key(uri: &str, hosts: &[&str]) -> Result<CacheKey, Reason> {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        let request = request.body(()).expect("a request");
        let mut key = KeyBuilder::new();
        key.request(&RequestHead::of(&request), PARTS)?;
        key.finish()
    }

    #[test]
    fn one_resource_has_one_key_however_it_is_written() {
        let plain = key("/a?b", &["example.com"]).expect("a key");
        for (uri, hosts) in [
            ("/a?b", &["EXAMPLE.com"][..]),
            ("/a?b", &["example.com:80"]),
            ("/a?b", &["example.com:"]),
            ("http://example.com/a?b", &["example.com"]),
            ("http://Example.com:80/a?b", &[]),
        ] {
            assert_eq!(key(uri, hosts).expect("a key"), plain, "{uri} {hosts:?}");
        }
        for (uri, hosts) in [
            ("/a?b", &["example.com:8080"][..]),
            ("/a?b", &["example.org"]),
            ("https://example.com/a?b", &[]),
            ("/a?B", &["example.com"]),
            ("/a", &["example.com"]),
            ("/A?b", &["example.com"]),
            ("/%61?b", &["example.com"]),
            ("//a?b", &["example.com"]),
        ] {
            assert_ne!(key(uri, hosts).expect("a key"), plain, "{uri} {hosts:?}");
        }
        assert_ne!(key("/a?", &["x"]).expect("a key"), key("/a", &["x"]).expect("a key"));
    }

    #[test]
    fn an_authority_that_is_missing_doubled_malformed_or_contradicted_is_no_key() {
        for (uri, hosts) in [
            ("/a", &[][..]),
            ("/a", &["a", "a"]),
            ("/a", &["a", "b"]),
            ("/a", &[""]),
            ("/a", &["a b"]),
            ("/a", &["user@a"]),
            ("/a", &["a:x"]),
            ("/a", &["a/b"]),
            ("http://a/", &["b"]),
            ("http://a/", &["a:81"]),
        ] {
            assert_eq!(key(uri, hosts).expect_err("no key"), Reason::Authority, "{uri} {hosts:?}");
        }
        assert!(key("/a", &["[::1]:8080"]).is_ok());
    }

    #[test]
    fn a_key_says_what_resource_it_is_of() {
        let key = key("/a/b?c=1", &["h:81"]).expect("a key");
        let expected = Target { scheme: b"http", authority: b"h:81", path: b"/a/b", query: b"?c=1" };
        assert_eq!(Target::of(key.resource()), Some(expected));
    }

    #[test]
    fn long_keys_are_as_good_as_short_ones() {
        let path = |n: usize| format!("/{}", "x".repeat(n));
        let keys: Vec<_> = (230..270).map(|n| key(&path(n), &["Example.COM"]).expect("a key")).collect();
        for (n, key) in keys.iter().enumerate() {
            let target = Target::of(key.resource()).expect("a target");
            assert_eq!((target.authority, target.path), (&b"example.com"[..], path(230 + n).as_bytes()));
        }
        assert_eq!(key(&path(17_000), &["h"]).expect_err("too long"), Reason::KeyTooLong);
        let host = "H".repeat(300);
        let long = key("/", &[&host]).expect("a key");
        assert_eq!(Target::of(long.resource()).expect("a target").authority, host.to_lowercase().as_bytes());
    }

    #[test]
    fn ignored_parameters_leave_the_rest_in_order() {
        assert_eq!(selecting("b=2&utm=x&a=1&utm", &["utm".into()]), "b=2&a=1");
    }

    proptest! {
        #[test]
        fn distinct_parts_have_distinct_keys(
            a in ("[a-c/]{0,3}", "[a-c]{0,2}"), b in ("[a-c/]{0,3}", "[a-c]{0,2}"),
            who in ("[a-b]{0,2}", "[a-b]{0,2}"),
        ) {
            let make = |(path, query): &(String, String), who: &str| {
                let uri: Uri = format!("/{path}?{query}").parse().expect("a uri");
                let mut key = KeyBuilder::new();
                key.target("http", b"h", &uri, PARTS).expect("a key");
                key.identity(&Key::text("user", who.to_owned()));
                key.finish().expect("short")
            };
            prop_assert_eq!(make(&a, &who.0) == make(&b, &who.1), a == b && who.0 == who.1);
        }
    }
}
