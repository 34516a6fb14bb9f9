//! Key builder: derives the cache key of a request.
//!
//! | part | canonical form |
//! |---|---|
//! | scheme | the target's, else the layer's default |
//! | authority | lower case, without the scheme's default port |
//! | path, query | as sent: no decoding, no sorting (decoding would merge paths that the origin distinguishes) |
//! | key fields | every line of each, and whether the field is present |
//! | identity | [`Key`]'s own injective encoding |
//!
//! It runs once per request, hits included; parts are written into a stack buffer.

use http::Uri;
use http::uri::Authority;
use smallvec::SmallVec;

use super::key::CacheKey;
use super::reason::Reason;
use super::request_flags::HostField;
use crate::base::request_head::RequestHead;
use crate::identity::Key;

/// Maximum length of a key.
const MAX_KEY_LEN: usize = 16 * 1024;
/// Keys up to this length are built without allocation.
const INLINE_LEN: usize = 128;

/// Configuration of the layer that affects keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyParts<'a> {
    /// Scheme used if the request has none.
    pub(crate) default_scheme: &'a str,
    /// Query parameters excluded from the key.
    pub(crate) ignore_query: &'a [Box<str>],
    /// Whether the whole query is excluded.
    pub(crate) without_query: bool,
}

/// Builds a key part by part.
pub(crate) struct KeyBuilder {
    inline: [u8; INLINE_LEN],
    length: usize,
    /// Contents that exceed the stack buffer.
    heap: Vec<u8>,
    resource: usize,
}

impl KeyBuilder {
    pub(crate) const fn new() -> Self {
        Self { inline: [0; INLINE_LEN], length: 0, heap: Vec::new(), resource: 0 }
    }

    /// Writes the resource of a request with this `Host`.
    ///
    /// # Errors
    /// [`Reason::Authority`] unless the request names exactly one authority.
    pub(crate) fn request(
        &mut self,
        head: &RequestHead<'_>,
        host: HostField<'_>,
        parts: KeyParts<'_>,
    ) -> Result<(), Reason> {
        // A nested router strips the prefix from the target; the key needs the full target.
        let (target, original) = (head.uri(), head.stripped_from());
        let uri = original.unwrap_or(target);
        let fallback = original.is_some().then_some(target);
        let scheme = uri.scheme_str().or_else(|| fallback?.scheme_str()).unwrap_or(parts.default_scheme);
        let host = match host {
            HostField::Missing => None,
            HostField::One(host) => Some(host.as_bytes()),
            // RFC 9112 §3.2: a server answers 400 to several Host fields.
            HostField::Several => return Err(Reason::Authority),
        };
        let from_target = uri.authority().or_else(|| fallback?.authority()).map(Authority::as_str);
        let authority = match (from_target.map(str::as_bytes), host) {
            (None, None) => return Err(Reason::Authority),
            (Some(one), None) | (None, Some(one)) => one,
            // RFC 9110 §7.2: both must name the same authority.
            (Some(target), Some(host)) if same_authority(scheme, target, host) => target,
            (Some(_), Some(_)) => return Err(Reason::Authority),
        };
        self.target(scheme, authority, uri, parts)?;
        let path = target.path_and_query();
        if original.is_some_and(|original| original.path_and_query() != path) {
            // Another layer may have rewritten the target by information that the original target lacks.
            self.byte(3);
            self.put(path.map_or("", |target| target.as_str()).as_bytes());
        }
        Ok(())
    }

    /// Writes a resource given by its parts.
    ///
    /// # Errors
    /// [`Reason::Authority`] if `authority` is malformed.
    pub(crate) fn target(
        &mut self,
        scheme: &str,
        authority: &[u8],
        uri: &Uri,
        parts: KeyParts<'_>,
    ) -> Result<(), Reason> {
        let classes = classes(authority);
        let authority = canonical_authority(scheme, authority, classes).ok_or(Reason::Authority)?;
        match scheme {
            "http" | "https" => self.put(scheme.as_bytes()),
            _ => self.put_lower(scheme.as_bytes()),
        }
        match classes & UPPER_CASE {
            0 => self.put(authority),
            _ => self.put_lower(authority),
        }
        // RFC 9110 §4.2.3: "an empty path component is equivalent to an absolute path of "/"".
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        self.put(path.as_bytes());
        match uri.query().filter(|_| !parts.without_query) {
            None => self.put(b""),
            Some(query) if parts.ignore_query.is_empty() => self.put_query(query.as_bytes()),
            Some(query) => match without_ignored(query, parts.ignore_query) {
                Some(rest) => self.put_query(rest.as_bytes()),
                None => self.put(b""),
            },
        }
        self.resource = self.bytes().len();
        Ok(())
    }

    /// Adds the lines of a field; a missing field differs from an empty one.
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

    /// Adds the identity of the requester.
    pub(crate) fn identity(&mut self, identity: &Key<'_>) {
        let mut encoded = Vec::new();
        identity.encode(&mut encoded);
        self.byte(2);
        self.put(&encoded);
    }

    /// Returns the key.
    ///
    /// # Errors
    /// [`Reason::KeyTooLong`] beyond 16 KiB.
    #[inline]
    pub(crate) fn finish(self) -> Result<CacheKey, Reason> {
        if self.heap.len() > MAX_KEY_LEN {
            return Err(Reason::KeyTooLong);
        }
        let bytes = match self.heap.is_empty() {
            true => SmallVec::from_slice(&self.inline[..self.length]),
            false => SmallVec::from_vec(self.heap),
        };
        Ok(CacheKey::seal(bytes, self.resource))
    }

    fn bytes(&self) -> &[u8] {
        if self.heap.is_empty() { &self.inline[..self.length] } else { &self.heap }
    }

    fn put(&mut self, bytes: &[u8]) {
        let prefix = (bytes.len() as u32).to_be_bytes();
        let end = self.length + prefix.len() + bytes.len();
        if let Some(room) = self.inline.get_mut(self.length..end).filter(|_| self.heap.is_empty())
            && let Some((start, rest)) = room.split_first_chunk_mut()
        {
            *start = prefix;
            rest.copy_from_slice(bytes);
            self.length = end;
            return;
        }
        self.append(&prefix);
        self.append(bytes);
    }

    fn put_lower(&mut self, bytes: &[u8]) {
        self.put(bytes);
        let written = if self.heap.is_empty() { &mut self.inline[..self.length] } else { &mut self.heap[..] };
        let start = written.len() - bytes.len();
        written[start..].make_ascii_lowercase();
    }

    /// `/a?` and `/a` are distinct resources, so the question mark is part of the key.
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
        if self.heap.is_empty() && end <= INLINE_LEN {
            self.inline[self.length..end].copy_from_slice(bytes);
            self.length = end;
            return;
        }
        if self.heap.is_empty() {
            self.heap.reserve(2 * (end + INLINE_LEN));
            self.heap.extend_from_slice(&self.inline[..self.length]);
        }
        self.heap.extend_from_slice(bytes);
    }
}

/// Returns the query without these parameters; `None` if it consists of them, as if there were no query.
fn without_ignored(query: &str, ignored: &[Box<str>]) -> Option<String> {
    let is_ignored = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        ignored.iter().any(|known| **known == *name)
    };
    let remaining: Vec<_> = query.split('&').filter(|pair| !is_ignored(pair)).collect();
    (!remaining.is_empty()).then(|| remaining.join("&"))
}

fn same_authority(scheme: &str, one: &[u8], other: &[u8]) -> bool {
    let canonical = |authority| canonical_authority(scheme, authority, classes(authority));
    match (canonical(one), canonical(other)) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        _ => false,
    }
}

/// Class of each byte in host and port (RFC 3986 §3.2.2).
static CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' => IN_HOST,
            b'A'..=b'Z' => UPPER_CASE,
            b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';'
            | b'=' | b'[' | b']' => IN_HOST,
            b':' => COLON,
            _ => FORBIDDEN,
        };
        byte += 1;
    }
    table
};
const IN_HOST: u8 = 0;
const UPPER_CASE: u8 = 1;
const COLON: u8 = 2;
const FORBIDDEN: u8 = 4;

/// Returns the union of the classes of these bytes.
fn classes(authority: &[u8]) -> u8 {
    authority.iter().fold(IN_HOST, |all, byte| all | CLASS[usize::from(*byte)])
}

/// Strips the scheme's default port; `None` if the authority is malformed or carries user information.
fn canonical_authority<'a>(scheme: &str, authority: &'a [u8], classes: u8) -> Option<&'a [u8]> {
    if classes & FORBIDDEN != 0 {
        return None;
    }
    // The last colon outside an IPv6 address.
    let last = || authority.iter().rposition(|byte| matches!(byte, b':' | b']')).filter(|at| authority[*at] == b':');
    let colon = if classes & COLON == 0 { None } else { last() };
    let Some(colon) = colon else { return (!authority.is_empty()).then_some(authority) };
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    let default: &[u8] = if scheme.eq_ignore_ascii_case("https") { b"443" } else { b"80" };
    if host.is_empty() || !port.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // RFC 9110 §4.2.3: an empty port, or the scheme's default, is equivalent to none.
    if port.is_empty() || port == default { Some(host) } else { Some(authority) }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::super::key::Target;
    use super::super::request_flags::RequestFlags;
    use super::*;

    const PARTS: KeyParts<'static> = KeyParts { default_scheme: "http", ignore_query: &[], without_query: false };

    fn key(uri: &str, hosts: &[&str]) -> Result<CacheKey, Reason> {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        let request = request.body(()).expect("a request");
        let mut key = KeyBuilder::new();
        let (_, host) = RequestFlags::scan(request.headers());
        key.request(&RequestHead::of(&request), host, PARTS)?;
        key.finish()
    }

    #[test]
    fn equivalent_urls_have_one_key() {
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
    fn missing_repeated_malformed_or_contradictory_authorities_are_rejected() {
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
    fn a_key_exposes_its_resource() {
        let key = key("/a/b?c=1", &["h:81"]).expect("a key");
        let expected = Target { scheme: b"http", authority: b"h:81", path: b"/a/b", query: b"?c=1" };
        assert_eq!(Target::of(key.resource()), Some(expected));
    }

    #[test]
    fn long_keys_are_bounded_and_distinct() {
        let path = |n: usize| format!("/{}", "x".repeat(n));
        let keys: Vec<_> = (230..270).map(|n| key(&path(n), &["Example.COM"]).expect("a key")).collect();
        for (n, key) in keys.iter().enumerate() {
            let target = Target::of(key.resource()).expect("a target");
            assert_eq!((target.authority, target.path), (&b"example.com"[..], path(230 + n).as_bytes()));
        }
        assert_eq!(key(&path(17_000), &["h"]).expect_err("too long"), Reason::KeyTooLong);
        let host = "H".repeat(300);
        let heap = key("/", &[&host]).expect("a key");
        assert_eq!(Target::of(heap.resource()).expect("a target").authority, host.to_lowercase().as_bytes());
    }

    #[test]
    fn ignored_parameters_leave_the_rest_in_order() {
        let without = |query: &str| without_ignored(query, &["utm".into()]);
        assert_eq!(without("b=2&utm=x&a=1&utm").as_deref(), Some("b=2&a=1"));
        assert_eq!(without("utm=1&utm"), None, "as if there were no query");
        assert_eq!(without("").as_deref(), Some(""), "an empty query is one");
        for query in ["utm=1", "a=1&utm", "a", "utm&", "&utm=1"] {
            let Some(once) = without(query) else { continue };
            assert_eq!(without(&once), Some(once.clone()), "idempotent: {query}");
        }
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
