//! Hit-for-miss: marks keys whose requests must not be coalesced.
//!
//! A key whose response was not cacheable is marked for a while (10 s), so that requests for it do not wait for one
//! another. A mark that is lost costs a wait, never a wrong response.

use std::time::Duration;

use super::marks::Marks;
use crate::base::clock::Timestamp;
use crate::cache::http::key::CacheKey;

/// Marked keys.
#[derive(Default)]
pub(crate) struct HitForMiss(Marks);

impl HitForMiss {
    /// Marks the key for `span`.
    pub(crate) fn mark(&self, key: &CacheKey, now: Timestamp, span: Duration) {
        self.0.mark(key.hash64(), now, span, 0);
    }

    /// Whether the key is marked.
    pub(crate) fn is_marked(&self, key: &CacheKey, now: Timestamp) -> bool {
        self.0.is_marked(key.hash64(), now)
    }

    /// Removes the mark, since a response was cacheable.
    pub(crate) fn clear(&self, key: &CacheKey) {
        self.0.clear(key.hash64());
    }
}
