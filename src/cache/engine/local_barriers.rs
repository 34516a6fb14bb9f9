//! [`LocalBarriers`]: invalidations of one process over a store without a log, by the time of its calendar.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::barrier::{Barriers, Validity};
use super::invalidation::Invalidation;
use crate::base::clock::nanos;
use crate::cache::http::key::CacheKey;
use crate::cache::http::record_meta::RecordMeta;

/// Barriers whose generations are microseconds since 1970, so that they compare with entries from before a restart and of
/// other processes, as far as calendars agree.
#[derive(Debug, Default)]
pub(crate) struct LocalBarriers {
    barriers: Barriers,
    /// Latest position: a calendar that is set back does not go back here.
    latest: AtomicU64,
}

impl LocalBarriers {
    /// Returns the position of a fetch that begins now.
    pub(crate) fn position(&self, wall: SystemTime) -> u64 {
        let now = (Self::unix_nanos(wall) / 1_000).max(1);
        self.latest.fetch_max(now, Ordering::AcqRel).max(now)
    }

    /// Invalidates what began until now.
    pub(crate) fn insert(&self, invalidation: &Invalidation, wall: SystemTime) {
        let position = self.position(wall) + 1;
        self.latest.fetch_max(position, Ordering::AcqRel);
        self.barriers.insert_at(invalidation.scope.clone(), invalidation.effect, position);
    }

    pub(crate) fn check(&self, key: &CacheKey, meta: &RecordMeta) -> Validity {
        self.barriers.compare(key, &meta.tags, meta.began.fleet)
    }

    pub(crate) fn unix_nanos(wall: SystemTime) -> u64 {
        wall.duration_since(UNIX_EPOCH).map_or(0, nanos)
    }
}
