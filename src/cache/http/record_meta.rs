//! Metadata of a stored record, whatever its payload: times, tags, and its place in the order of events.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::cache::http::deadlines::Deadlines;

/// Numbers of the latest known invalidations when a fetch began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// Number in this process.
    pub(crate) local: u64,
    /// Number in the shared log, as far as the store has observed it: see
    /// [`CacheStore::generation`](crate::cache::CacheStore::generation).
    pub(crate) fleet: u64,
}

impl LogPosition {
    /// Whether this position is before that one: by the shared log if both know it, which copies keep.
    pub(crate) const fn is_before(self, other: Self) -> bool {
        match self.fleet > 0 && other.fleet > 0 {
            true => self.fleet < other.fleet,
            false => self.local < other.local,
        }
    }
}

/// Memory of a record beside its payload: keys, maps, counters.
pub(crate) const RECORD_OVERHEAD: u64 = 1024;

/// Times, tags and order of a stored record.
pub(crate) struct RecordMeta {
    pub(crate) stored_at: Timestamp,
    /// Start of the latest fetch that stored or updated it: of two, the later one wins.
    pub(crate) requested_at: Timestamp,
    pub(crate) deadlines: Deadlines,
    /// RFC 9111 §4.2.4: must not be served stale.
    pub(crate) strict: bool,
    pub(crate) tags: Box<[Box<str>]>,
    /// Duration of the fetch, which a hit saves.
    pub(crate) took: Duration,
    /// Log position at the start of the fetch.
    pub(crate) began: LogPosition,
    /// Latest generation at which the record was found valid.
    pub(crate) checked: AtomicU64,
    /// Time at which level 1 took it, in nanoseconds, where it may keep it for a limited time only.
    pub(crate) copied_at: AtomicU64,
}

/// Longest difference between the starts of two fetches that are compared; beyond it a clock was set back.
const LONGEST_FETCH: Duration = Duration::from_secs(300);

impl RecordMeta {
    /// Whether this record may replace that one: its fetch began later, by the clock or after a later invalidation, or so
    /// much earlier that a clock was set back.
    pub(crate) fn may_replace(&self, old: &Self) -> bool {
        old.requested_at <= self.requested_at
            || old.began.is_before(self.began)
            || old.requested_at.since(self.requested_at) > LONGEST_FETCH
    }

    /// Returns the time since the freshness lifetime ended.
    pub(crate) fn staleness_at(&self, now: Timestamp) -> Duration {
        now.since(self.deadlines.fresh_until) + self.deadlines.initial_staleness
    }

    /// Expires the record at `now`.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        let deadlines = &mut self.deadlines;
        let (fresh_until, expired) = (deadlines.fresh_until, deadlines.fresh_until.min(now));
        // The windows in which it may be served stale follow its expiry.
        for until in [&mut deadlines.revalidate_until, &mut deadlines.error_until, &mut deadlines.unreachable_until] {
            *until = expired + until.since(fresh_until);
        }
        (deadlines.fresh_until, deadlines.refresh_from) = (expired, deadlines.refresh_from.min(now));
    }
}

impl Clone for RecordMeta {
    /// Copies what was recorded, not what was found out since.
    fn clone(&self) -> Self {
        Self {
            stored_at: self.stored_at,
            requested_at: self.requested_at,
            deadlines: self.deadlines,
            strict: self.strict,
            tags: self.tags.clone(),
            took: self.took,
            began: self.began,
            checked: AtomicU64::new(0),
            copied_at: AtomicU64::new(0),
        }
    }
}
