//! [`Key`]: the identity that a limit counts, before it is hashed.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Identity of a request: an address, a name, a number, or several of them together.
///
/// A key borrows from the request where it can. It is hashed under a secret before anything stores it, so that a
/// 64 KB key costs what a short one costs, and it never shows its value: not in `Debug`, not in logs, not in stores.
///
/// ```
/// use tollgate::identity::Key;
///
/// let key = Key::text("user", "alice");
/// assert_eq!(key, Key::text("user", String::from("alice")));
/// assert_ne!(key, Key::text("tenant", "alice"));
/// assert!(!format!("{key:?}").contains("alice"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Key<'a> {
    kind: &'static str,
    value: Value<'a>,
}

#[derive(Clone, PartialEq, Eq)]
enum Value<'a> {
    Ip(IpAddr),
    Bytes(Text<'a>),
    /// The value of a header field with that name: two fields never share a key.
    Field(&'static str, Text<'a>),
    Number(u64),
    Pair(Box<(Key<'a>, Key<'a>)>),
}

/// Bytes of a key: borrowed from the request, or kept for its layers without an allocation if they are short.
#[derive(Clone)]
enum Text<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
    Short(u8, [u8; SHORT]),
    Shared(Arc<[u8]>),
}

/// Length up to which bytes are kept without an allocation: a UUID in its usual spelling fits.
const SHORT: usize = 38;

impl Text<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Short(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or(bytes),
            Self::Shared(bytes) => bytes,
        }
    }

    fn keep(self) -> Text<'static> {
        let bytes = self.as_slice();
        if let Ok(length) = u8::try_from(bytes.len())
            && let mut short = [0; SHORT]
            && let Some(start) = short.get_mut(..bytes.len())
        {
            start.copy_from_slice(bytes);
            return Text::Short(length, short);
        }
        match self {
            Self::Borrowed(bytes) => Text::Shared(Arc::from(bytes)),
            Self::Owned(bytes) => Text::Shared(Arc::from(bytes)),
            Self::Short(length, bytes) => Text::Short(length, bytes),
            Self::Shared(bytes) => Text::Shared(bytes),
        }
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Text<'_> {}

impl<'a> From<Cow<'a, [u8]>> for Text<'a> {
    fn from(bytes: Cow<'a, [u8]>) -> Self {
        match bytes {
            Cow::Borrowed(bytes) => Self::Borrowed(bytes),
            Cow::Owned(bytes) => Self::Owned(bytes),
        }
    }
}

impl Value<'_> {
    /// Tells the forms of a value apart where they are encoded.
    const fn tag(&self) -> u8 {
        match self {
            Self::Ip(_) => 0,
            Self::Bytes(_) => 1,
            Self::Field(..) => 2,
            Self::Number(_) => 3,
            Self::Pair(_) => 4,
        }
    }
}

impl<'a> Key<'a> {
    /// Creates a key from an address, as it is; [`by::client_ip`](crate::identity::by::client_ip) masks IPv6 addresses.
    ///
    /// ```
    /// use tollgate::identity::Key;
    ///
    /// let address = "192.0.2.1".parse().unwrap();
    /// assert_eq!(Key::ip(address).as_ip(), Some(address));
    /// ```
    #[must_use]
    pub const fn ip(address: IpAddr) -> Self {
        Self { kind: "ip", value: Value::Ip(address) }
    }

    /// Creates a key from a name of a kind, such as `("user", "alice")`. Two kinds never share a key.
    ///
    /// ```
    /// use tollgate::identity::Key;
    ///
    /// assert_ne!(Key::text("user", "7"), Key::text("tenant", "7"));
    /// ```
    pub fn text(kind: &'static str, name: impl Into<Cow<'a, str>>) -> Self {
        let bytes = match name.into() {
            Cow::Borrowed(name) => Text::Borrowed(name.as_bytes()),
            Cow::Owned(name) => Text::Owned(name.into_bytes()),
        };
        Self { kind, value: Value::Bytes(bytes) }
    }

    /// Creates a key from bytes of a kind, UTF-8 or not. Empty bytes are a valid key.
    ///
    /// ```
    /// use tollgate::identity::Key;
    ///
    /// assert_eq!(Key::bytes("user", &b"alice"[..]), Key::text("user", "alice"));
    /// ```
    pub fn bytes(kind: &'static str, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { kind, value: Value::Bytes(Text::from(bytes.into())) }
    }

    /// The value of a header field.
    pub(crate) const fn field(name: &'static str, value: &'a [u8]) -> Self {
        Self { kind: "header", value: Value::Field(name, Text::Borrowed(value)) }
    }

    /// Creates a key from a number of a kind, such as a user's row ID.
    ///
    /// ```
    /// use tollgate::identity::Key;
    ///
    /// assert_ne!(Key::number("user", 7), Key::text("user", "7"));
    /// ```
    #[must_use]
    pub const fn number(kind: &'static str, number: u64) -> Self {
        Self { kind, value: Value::Number(number) }
    }

    /// Combines two keys. Allocates one box.
    ///
    /// ```
    /// use tollgate::identity::Key;
    ///
    /// let both = Key::number("user", 7).pair(Key::text("tenant", "acme"));
    /// assert_ne!(both, Key::number("user", 7));
    /// ```
    #[must_use]
    pub fn pair(self, other: Key<'a>) -> Self {
        Self { kind: "pair", value: Value::Pair(Box::new((self, other))) }
    }

    /// Returns the key without its borrows. Up to 38 bytes are copied into the key itself; longer ones are allocated, once:
    /// clones share them.
    pub(crate) fn keep(self) -> Key<'static> {
        let value = match self.value {
            Value::Ip(address) => Value::Ip(address),
            Value::Bytes(bytes) => Value::Bytes(bytes.keep()),
            Value::Field(name, bytes) => Value::Field(name, bytes.keep()),
            Value::Number(number) => Value::Number(number),
            Value::Pair(both) => Value::Pair(Box::new((both.0.keep(), both.1.keep()))),
        };
        Key { kind: self.kind, value }
    }

    /// Returns the address if the key is one.
    #[must_use]
    pub const fn as_ip(&self) -> Option<IpAddr> {
        if let Value::Ip(address) = self.value { Some(address) } else { None }
    }

    /// Returns the bytes if the key is text.
    pub(super) fn as_bytes(&self) -> Option<&[u8]> {
        match &self.value {
            Value::Bytes(bytes) | Value::Field(_, bytes) => Some(bytes.as_slice()),
            Value::Ip(_) | Value::Number(_) | Value::Pair(_) => None,
        }
    }

    /// Appends an injective encoding: no two keys share one, none is a prefix of another.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put(out, self.kind.as_bytes());
        out.push(self.value.tag());
        match &self.value {
            Value::Ip(IpAddr::V4(ip)) => put(out, &ip.octets()),
            Value::Ip(IpAddr::V6(ip)) => put(out, &ip.octets()),
            Value::Bytes(bytes) => put(out, bytes.as_slice()),
            Value::Field(name, bytes) => {
                put(out, name.as_bytes());
                put(out, bytes.as_slice());
            }
            Value::Number(number) => put(out, &number.to_be_bytes()),
            Value::Pair(both) => {
                both.0.encode(out);
                both.1.encode(out);
            }
        }
    }

    /// Feeds a hasher. Each value is preceded by what tells its kind and length, so that no two keys feed alike.
    fn feed(&self, hasher: &mut impl Hasher) {
        match &self.value {
            Value::Ip(IpAddr::V4(ip)) => return feed_v4(hasher, *ip),
            Value::Ip(IpAddr::V6(ip)) => {
                hasher.write_u64(6 << 32);
                return hasher.write_u128(ip.to_bits());
            }
            _ => {
                hasher.write_u64(u64::from(7 + self.value.tag()) << 32 | self.kind.len() as u64);
                hasher.write(self.kind.as_bytes());
            }
        }
        match &self.value {
            Value::Ip(_) => {}
            Value::Bytes(bytes) => {
                let bytes = bytes.as_slice();
                hasher.write_usize(bytes.len());
                hasher.write(bytes);
            }
            Value::Field(name, bytes) => {
                let bytes = bytes.as_slice();
                hasher.write_u64((name.len() as u64) << 32 | bytes.len() as u64);
                hasher.write(name.as_bytes());
                hasher.write(bytes);
            }
            Value::Number(number) => hasher.write_u64(*number),
            Value::Pair(both) => {
                both.0.feed(hasher);
                both.1.feed(hasher);
            }
        }
    }
}

fn feed_v4(hasher: &mut impl Hasher, ip: Ipv4Addr) {
    hasher.write_u64(u64::from(ip.to_bits()) | 4 << 32);
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Keyed 64-bit hash of a key, under which limits are stored.
///
/// The hash's secret is drawn per process. Among n live keys the odds that any two share a hash are about n²⁄2⁶⁵:
/// 3 in 10 000 000 000 for 100 000 keys.
///
/// ```
/// use tollgate::identity::KeyHash;
///
/// assert_ne!(KeyHash::from_bits(1), KeyHash::from_bits(2));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub(crate) u64);

impl KeyHash {
    /// Returns the hash as a number, for user-supplied stores.
    ///
    /// ```
    /// use tollgate::identity::KeyHash;
    ///
    /// assert_eq!(KeyHash::from_bits(7).to_bits(), 7);
    /// ```
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Creates a hash from a number, for tests of stores.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({:016x})", self.0)
    }
}

/// Hasher of keys under a secret.
///
/// ```
/// use tollgate::identity::KeyHasher;
///
/// let hasher = KeyHasher::random();
/// # let _ = hasher;
/// ```
#[derive(Clone)]
pub struct KeyHasher(foldhash::quality::RandomState);

impl KeyHasher {
    /// Creates a hasher with a random secret.
    ///
    /// ```
    /// use tollgate::identity::KeyHasher;
    ///
    /// let hasher = KeyHasher::random();
    /// # let _ = hasher;
    /// ```
    #[must_use]
    pub fn random() -> Self {
        Self(foldhash::quality::RandomState::default())
    }

    /// Returns the digest of `key`, from which each limit derives the hash that it counts by.
    #[inline]
    pub(crate) fn digest(&self, key: &Key<'_>) -> KeyDigest {
        #[cfg(test)]
        DIGESTS.with(|digests| digests.set(digests.get() + 1));
        let mut hasher = self.0.build_hasher();
        key.feed(&mut hasher);
        KeyDigest(hasher.finish())
    }

    /// [`digest`](Self::digest) of [`Key::ip`].
    #[inline]
    pub(super) fn digest_v4(&self, ip: Ipv4Addr) -> KeyDigest {
        #[cfg(test)]
        DIGESTS.with(|digests| digests.set(digests.get() + 1));
        let mut hasher = self.0.build_hasher();
        feed_v4(&mut hasher, ip);
        KeyDigest(hasher.finish())
    }

    /// Returns the salt of the limit `id`.
    #[inline]
    pub(crate) fn salt(&self, id: u64) -> LimitSalt {
        LimitSalt(self.0.hash_one((SALT, id)))
    }
}

/// Tells salts and keys apart where they are hashed.
const SALT: u64 = 1 << 40;

#[cfg(test)]
thread_local! {
    /// Number of keys hashed on this thread.
    pub(crate) static DIGESTS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Keyed 64-bit hash of a key alone, shared by the limits that count by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyDigest(u64);

/// Keyed hash of a limit: two limits never share a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitSalt(u64);

impl KeyDigest {
    /// Returns the hash of the key as counted by the limit with this salt. Both are uniform and secret, so that their
    /// difference is too.
    #[inline]
    pub(crate) const fn of(self, limit: LimitSalt) -> KeyHash {
        KeyHash(self.0 ^ limit.0)
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(key: &Key<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        key.encode(&mut out);
        out
    }

    #[test]
    fn distinct_keys_have_distinct_encodings_and_hashes() {
        let keys = [
            Key::text("user", ""),
            Key::text("user", "a"),
            Key::text("use", "ra"),
            Key::bytes("user", vec![0xff, 0xfe]),
            Key::number("user", 97),
            Key::number("user", 0),
            Key::number("user", u64::from_be_bytes(*b"aaaaaaaa")),
            Key::text("user", "aaaaaaaa"),
            Key::field("x-a", b"1"),
            Key::field("x-b", b"1"),
            Key::bytes("header", &b"1"[..]),
            Key::ip("10.0.0.1".parse().expect("an address")),
            Key::ip("::ffff:10.0.0.1".parse().expect("an address")),
            Key::text("a", "b").pair(Key::text("c", "d")),
            Key::text("a", "").pair(Key::text("bc", "d")),
        ];
        let hasher = KeyHasher::random();
        let hash = |id, key: &Key<'_>| hasher.digest(key).of(hasher.salt(id));
        for (i, a) in keys.iter().enumerate() {
            assert_eq!(hash(1, a), hash(1, &a.clone()));
            assert_ne!(hash(1, a), hash(2, a));
            for (id, b) in keys[i + 1..].iter().flat_map(|b| [(1, b), (2, b)]) {
                assert_ne!(encoded(a), encoded(b));
                assert_ne!(hash(1, a), hash(id, b));
            }
        }
    }

    #[test]
    fn each_hasher_has_a_secret_of_its_own() {
        let key = Key::text("user", "alice");
        assert_ne!(KeyHasher::random().digest(&key), KeyHasher::random().digest(&key));
    }

    #[test]
    fn a_kept_key_is_the_same_key() {
        let hasher = KeyHasher::random();
        for length in [0, 1, SHORT - 1, SHORT, SHORT + 1, 300] {
            let bytes = vec![b'k'; length];
            for key in [
                Key::bytes("user", &*bytes),
                Key::bytes("user", bytes.clone()),
                Key::field("x-a", &bytes),
                Key::number("user", 7).pair(Key::bytes("tenant", &*bytes)),
                Key::ip("10.0.0.1".parse().expect("an address")),
            ] {
                let kept = key.clone().keep();
                assert_eq!(kept, key);
                assert_eq!(kept.clone().keep(), key);
                assert_eq!(encoded(&kept), encoded(&key));
                assert_eq!(hasher.digest(&kept), hasher.digest(&key));
            }
        }
    }
}
