//! [`CacheKey`]: key of a stored response.
//!
//! A key is a list of length-prefixed parts, so that delimiters cannot make two requests collide: scheme, authority,
//! path, query | key fields, identity | variant. The parts before the first bar name the *resource*, the target of
//! unsafe requests and of invalidations by URL. Entries hold the full key, which is compared on each look-up; the
//! 64-bit hash only selects the slot. `key_builder.rs` derives keys from requests.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::LazyLock;

use smallvec::SmallVec;

use crate::base::codec::{Reader, Writer};

/// Random per process, so that clients cannot construct colliding keys.
static SECRET: LazyLock<foldhash::quality::RandomState> = LazyLock::new(Default::default);

/// Key of a stored response. `Debug` prints only its hash, since keys may hold identities.
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
    /// End of the parts that name the resource.
    resource: u32,
    bytes: SmallVec<[u8; 104]>,
}

impl CacheKey {
    /// Creates a key from its encoding, of which the first `resource` bytes name the resource. For stores that read
    /// keys back, and their tests.
    ///
    /// ```
    /// use tollgate::cache::CacheKey;
    ///
    /// assert_eq!(CacheKey::from_bytes(b"any bytes", 3).as_bytes(), b"any bytes");
    /// ```
    #[must_use]
    pub fn from_bytes(bytes: &[u8], resource: usize) -> Self {
        Self::seal(SmallVec::from_slice(bytes), resource.min(bytes.len()))
    }

    /// Returns the encoding, under which stores outside this process index entries. It changes only in releases that
    /// say so.
    ///
    /// ```
    /// use tollgate::cache::CacheKey;
    ///
    /// assert_eq!(CacheKey::from_bytes(b"any bytes", 3).as_bytes(), b"any bytes");
    /// ```
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the part of the encoding that names the resource: scheme, authority, path and query.
    ///
    /// ```
    /// use tollgate::cache::CacheKey;
    ///
    /// assert_eq!(CacheKey::from_bytes(b"any bytes", 3).resource(), b"any");
    /// ```
    #[must_use]
    pub fn resource(&self) -> &[u8] {
        &self.bytes[..self.resource as usize]
    }

    /// Returns the hash under the secret of this process.
    pub(crate) const fn hash64(&self) -> u64 {
        self.hash
    }

    /// Returns the secondary key of a variant: the primary key with the encoding of the selecting fields.
    pub(crate) fn variant(&self, suffix: &[u8]) -> Self {
        let mut key = Writer(SmallVec::from_slice(&self.bytes));
        key.bytes(suffix);
        Self::seal(key.0, self.resource as usize)
    }

    /// Creates a key from its encoding.
    #[inline]
    pub(crate) fn seal(bytes: SmallVec<[u8; 104]>, resource: usize) -> Self {
        let mut hasher = SECRET.build_hasher();
        hasher.write(&bytes);
        let resource = u32::try_from(resource).unwrap_or(u32::MAX);
        Self { hash: hasher.finish(), resource, bytes }
    }
}

impl Clone for CacheKey {
    fn clone(&self) -> Self {
        // One copy: `SmallVec::clone` copies byte by byte.
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

/// URL parts decoded from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) scheme: &'a [u8],
    pub(crate) authority: &'a [u8],
    pub(crate) path: &'a [u8],
    /// Query with its question mark; empty if there is none.
    pub(crate) query: &'a [u8],
}

impl<'a> Target<'a> {
    /// Decodes the resource part of a key; `None` if the encoding is not of this crate.
    pub(crate) fn of(resource: &'a [u8]) -> Option<Self> {
        let (scheme, rest) = split(resource)?;
        let (authority, rest) = split(rest)?;
        let (path, rest) = split(rest)?;
        let (query, _) = split(rest)?;
        Some(Self { scheme, authority, path, query })
    }
}

/// Splits off one length-prefixed part.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = Reader(bytes);
    Some((rest.bytes()?, rest.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_share_the_resource() {
        let key = CacheKey::from_bytes(b"resource and more", 8);
        assert_eq!((key.resource(), key.variant(b"x").resource()), (&b"resource"[..], &b"resource"[..]));
        assert_ne!(key.variant(b"x"), key);
        assert_ne!(key.variant(b"x"), key.variant(b"y"));
        assert_eq!(Target::of(b"\0\0\0\xffa"), None);
    }
}
