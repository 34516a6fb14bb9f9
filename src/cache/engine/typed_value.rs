//! [`TypedValue`]: a stored value of a type, decoded or encoded.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::base::clock::Timestamp;
use crate::cache::http::key::CacheKey;
use crate::cache::http::record_meta::{RECORD_OVERHEAD, RecordMeta};

/// Typed value, created by a [`Cached`](crate::cache::Cached) and held by a [`CacheStore`](crate::cache::CacheStore).
///
/// ```
/// use tollgate::cache::TypedValue;
///
/// fn fits(value: &TypedValue, free_bytes: u64) -> bool {
///     value.weight() <= free_bytes
/// }
/// # let _ = fits;
/// ```
#[derive(Clone)]
pub struct TypedValue {
    pub(crate) key: CacheKey,
    pub(crate) meta: RecordMeta,
    /// Size of the value in memory, decoded or not.
    pub(crate) size: u32,
    /// Encoded value; empty if no other process could decode it.
    pub(crate) encoded: Bytes,
    /// The decoded value with its type's version; decoded at most once.
    pub(crate) value: OnceLock<(u32, Arc<dyn Any + Send + Sync>)>,
}

impl TypedValue {
    /// Returns the approximate size in memory, in bytes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let tags: usize = self.meta.tags.iter().map(|tag| tag.len() + 16).sum();
        let bytes = self.encoded.len() + tags + 2 * self.key.as_bytes().len();
        u64::from(self.size) + bytes as u64 + RECORD_OVERHEAD
    }

    /// Returns a copy that became stale at `now`.
    pub(super) fn marked_stale(&self, now: Timestamp) -> Self {
        let mut copy = self.clone();
        copy.meta.expire(now);
        copy
    }
}

impl fmt::Debug for TypedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedValue").field("key", &self.key).finish_non_exhaustive()
    }
}
