//! [`CacheKey`]: what an entry is stored under and compared by.
//!
//! A key is a list of length-prefixed parts, so that no two requests share one by accident of delimiters:
//! scheme, authority, path, query | key fields, identity | variant. The parts before the first bar name the
//! *resource*: what an unsafe request or an invalidation by URL addresses. The full key is kept in the entry and
//! compared when it is read; the 64-bit hash only finds it.
//!
//! | part | canonical form |
//! |---|---|
//! | scheme | the target's, else the layer's default |
//! | authority | lower case, without the scheme's default port |
//! | path, query | as sent: no decoding, no sorting (a cache that decodes confuses paths its origin tells apart) |
//! | identity | [`Key`]'s own injective encoding |

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::LazyLock;

use http::uri::Authority;
use http::{Uri, header};
use smallvec::SmallVec;

use super::reason::Reason;
use crate::head::RequestHead;
use crate::key::Key;

/// A longer key is not worth an entry.
const LONGEST: usize = 16 * 1024;

/// Drawn per process, so that nobody can choose keys that collide.
static SECRET: LazyLock<foldhash::quality::RandomState> = LazyLock::new(Default::default);

/// The key of a stored response. `Debug` shows its hash only: keys may hold identities.
///
/// ```
/// use tollgate::cache::CacheKey;
///
/// let key = CacheKey::from_bytes(b"any bytes", 4);
/// assert_eq!(key, CacheKey::from_bytes(b"any bytes", 4));
/// assert_ne!(key, CacheKey::from_bytes(b"any other", 4));
/// ```
pub struct CacheKey {
    hash: u64,
    /// Where the parts that name the resource end.
    resource: u32,
    bytes: SmallVec<[u8; 104]>,
}

impl CacheKey {
    /// The key with this encoding, the first `resource` bytes of which name the resource. For stores that read keys
    /// back, and their tests.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], resource: usize) -> Self {
        Self::seal(SmallVec::from_slice(bytes), resource.min(bytes.len()))
    }

    /// The encoding, stable between versions of this crate that say so: what a store outside this process is keyed by.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The part of the encoding that names the resource: scheme, authority, path and query.
    #[must_use]
    pub fn resource(&self) -> &[u8] {
        &self.bytes[..self.resource as usize]
    }

    /// This key's hash under a secret of this process.
    pub(crate) const fn hash64(&self) -> u64 {
        self.hash
    }

    /// The key of one variant: `self` is the primary key, `suffix` the variant's own encoding.
    pub(crate) fn variant(&self, suffix: &[u8]) -> Self {
        let mut bytes = self.bytes.clone();
        put(&mut bytes, suffix);
        Self::seal(bytes, self.resource as usize)
    }

    fn seal(bytes: SmallVec<[u8; 104]>, resource: usize) -> Self {
        let mut hasher = SECRET.build_hasher();
        hasher.write(&bytes);
        let resource = u32::try_from(resource).unwrap_or(u32::MAX);
        Self { hash: hasher.finish(), resource, bytes }
    }
}

impl Clone for CacheKey {
    fn clone(&self) -> Self {
        // In one copy: `SmallVec` would clone byte by byte.
        Self { hash: self.hash, resource: self.resource, bytes: SmallVec::from_slice(&self.bytes) }
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.bytes == other.bytes
    }
}

impl Eq for CacheKey {}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({:016x})", self.hash)
    }
}

/// A URL taken apart again, from a key's encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) scheme: &'a [u8],
    pub(crate) authority: &'a [u8],
    pub(crate) path: &'a [u8],
    /// With its question mark; empty where there is none.
    pub(crate) query: &'a [u8],
}

impl<'a> Target<'a> {
    /// Reads the resource part of a key; `None` where it was not made here.
    pub(crate) fn of(resource: &'a [u8]) -> Option<Self> {
        let (scheme, rest) = split(resource)?;
        let (authority, rest) = split(rest)?;
        let (path, rest) = split(rest)?;
        let (query, _) = split(rest)?;
        Some(Self { scheme, authority, path, query })
    }
}

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
    bytes: SmallVec<[u8; 104]>,
    resource: usize,
}

impl KeyBuilder {
    /// Writes the resource this request asks for.
    ///
    /// # Errors
    /// [`Reason::Authority`] where the request does not name exactly one authority.
    pub(crate) fn for_request(head: &RequestHead<'_>, parts: KeyParts<'_>) -> Result<Self, Reason> {
        // A nested router strips the prefix from the target; the key needs all of it.
        let uri = head.original_uri();
        let scheme = uri.scheme_str().or_else(|| head.uri().scheme_str()).unwrap_or(parts.default_scheme);
        let mut hosts = head.headers().get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (None, _) => None,
            (Some(host), None) => Some(host.to_str().map_err(|_| Reason::Authority)?),
            // RFC 9112 §3.2: a server answers 400 to several Host fields. They are never a key.
            (Some(_), Some(_)) => return Err(Reason::Authority),
        };
        let from_target = uri.authority().or_else(|| head.uri().authority()).map(Authority::as_str);
        let authority = match (from_target, host) {
            (None, None) => return Err(Reason::Authority),
            (Some(one), None) | (None, Some(one)) => one,
            // RFC 9110 §7.2: both name the same authority, or the request lies about one of them.
            (Some(target), Some(host)) if same_authority(scheme, target, host) => target,
            (Some(_), Some(_)) => return Err(Reason::Authority),
        };
        let mut key = Self::for_target(scheme, authority, uri, parts)?;
        if uri.path_and_query() != head.uri().path_and_query() {
            // Another layer may have rewritten the target by something that is not in it.
            key.bytes.push(3);
            put(&mut key.bytes, head.uri().path_and_query().map_or("", |target| target.as_str()).as_bytes());
        }
        Ok(key)
    }

    /// Writes a resource given by its parts.
    ///
    /// # Errors
    /// [`Reason::Authority`] where `authority` is malformed.
    pub(crate) fn for_target(scheme: &str, authority: &str, uri: &Uri, parts: KeyParts<'_>) -> Result<Self, Reason> {
        let mut key = Self { bytes: SmallVec::new(), resource: 0 };
        put_lower(&mut key.bytes, scheme.as_bytes());
        let authority = canonical(scheme, authority).ok_or(Reason::Authority)?;
        put_lower(&mut key.bytes, authority.as_bytes());
        // RFC 9110 §4.2.3: "an empty path component is equivalent to an absolute path of "/"".
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        put(&mut key.bytes, path.as_bytes());
        match uri.query().filter(|_| !parts.without_query) {
            None => put(&mut key.bytes, b""),
            Some(query) if parts.ignore_query.is_empty() => put_query(&mut key.bytes, query.as_bytes()),
            Some(query) => put_query(&mut key.bytes, selecting(query, parts.ignore_query).as_bytes()),
        }
        key.resource = key.bytes.len();
        Ok(key)
    }

    /// Adds a field's lines; a missing field is not an empty one.
    pub(crate) fn field(&mut self, head: &RequestHead<'_>, name: &http::HeaderName) {
        for line in head.headers().get_all(name) {
            self.bytes.push(1);
            put(&mut self.bytes, line.as_bytes());
        }
        self.bytes.push(0);
    }

    /// Adds who is asking.
    pub(crate) fn identity(&mut self, identity: &Key<'_>) {
        let mut encoded = Vec::new();
        identity.encode(&mut encoded);
        self.bytes.push(2);
        put(&mut self.bytes, &encoded);
    }

    /// The key.
    ///
    /// # Errors
    /// [`Reason::KeyTooLong`] beyond 16 KiB.
    pub(crate) fn finish(self) -> Result<CacheKey, Reason> {
        if self.bytes.len() > LONGEST {
            return Err(Reason::KeyTooLong);
        }
        Ok(CacheKey::seal(self.bytes, self.resource))
    }
}

fn put(out: &mut SmallVec<[u8; 104]>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_lower(out: &mut SmallVec<[u8; 104]>, bytes: &[u8]) {
    put(out, bytes);
    let start = out.len() - bytes.len();
    out[start..].make_ascii_lowercase();
}

/// `/a?` and `/a` are two resources, so the question mark is kept.
fn put_query(out: &mut SmallVec<[u8; 104]>, query: &[u8]) {
    out.extend_from_slice(&(query.len() as u32 + 1).to_be_bytes());
    out.push(b'?');
    out.extend_from_slice(query);
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

fn selecting(query: &str, ignored: &[Box<str>]) -> String {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let kept: Vec<_> = query.split('&').filter(|pair| !ignored.iter().any(|known| **known == name(pair))).collect();
    kept.join("&")
}

fn same_authority(scheme: &str, one: &str, other: &str) -> bool {
    match (canonical(scheme, one), canonical(scheme, other)) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        _ => false,
    }
}

/// Without the scheme's default port; `None` where it is no authority, or carries user information.
fn canonical<'a>(scheme: &str, authority: &'a str) -> Option<&'a str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&b);
    if authority.is_empty() || !authority.bytes().all(plain) {
        return None;
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let default = if scheme.eq_ignore_ascii_case("https") { "443" } else { "80" };
    match port {
        None => Some(host),
        // RFC 9110 §4.2.3: an empty port, or the scheme's own, is the same as none.
        Some("") => Some(host),
        Some(port) if port == default => Some(host),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => Some(authority),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    const PARTS: KeyParts<'static> = KeyParts { default_scheme: "http", ignore_query: &[], without_query: false };

    fn key(uri: &str, hosts: &[&str]) -> Result<CacheKey, Reason> {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        let request = request.body(()).expect("a request");
        KeyBuilder::for_request(&RequestHead::of(&request), PARTS)?.finish()
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
        assert_eq!(key.variant(b"x").resource(), key.resource());
        assert_ne!(key.variant(b"x"), key);
        assert_eq!(Target::of(b"\0\0\0\xffa"), None);
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
                let mut key = KeyBuilder::for_target("http", "h", &uri, PARTS).expect("a key");
                key.identity(&Key::text("user", who.to_owned()));
                key.finish().expect("short")
            };
            prop_assert_eq!(make(&a, &who.0) == make(&b, &who.1), a == b && who.0 == who.1);
        }
    }
}
