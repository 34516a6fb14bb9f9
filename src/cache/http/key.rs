//! [`CacheKey`]: what an entry is stored under and compared by.
//!
//! A key is a list of length-prefixed parts, so that no two requests share one by accident of delimiters:
//! scheme, authority, path, query | key fields, identity | variant. The parts before the first bar name the
//! *resource*: what an unsafe request or an invalidation by URL addresses. The full key is kept in the entry and
//! compared when it is read; the 64-bit hash only finds it. How a request becomes one is in `key_builder.rs`.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::LazyLock;

use smallvec::SmallVec;

use crate::base::codec::{Reader, Writer};

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
        let mut key = Writer(SmallVec::from_slice(&self.bytes));
        key.bytes(suffix);
        Self::seal(key.0, self.resource as usize)
    }

    /// The key with this encoding.
    pub(crate) fn seal(bytes: SmallVec<[u8; 104]>, resource: usize) -> Self {
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

/// One length-prefixed part, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = Reader(bytes);
    Some((rest.bytes()?, rest.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_other_keys_of_the_same_resource() {
        let key = CacheKey::from_bytes(b"resource and more", 8);
        assert_eq!((key.resource(), key.variant(b"x").resource()), (&b"resource"[..], &b"resource"[..]));
        assert_ne!(key.variant(b"x"), key);
        assert_ne!(key.variant(b"x"), key.variant(b"y"));
        assert_eq!(Target::of(b"\0\0\0\xffa"), None);
    }
}
