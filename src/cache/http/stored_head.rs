//! The head of a stored response: status, fields, age, deadlines, tags.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

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

/// Head of a stored response, shared by all readers.
pub(crate) struct StoredHead {
    pub(crate) status: StatusCode,
    /// End-to-end fields only, with a slot for `Age`.
    pub(crate) headers: HeaderMap,
    /// Age at `stored_at`.
    pub(crate) age: Duration,
    pub(crate) stored_at: Timestamp,
    /// Start of the latest fetch that stored or updated it: of two, the later one wins.
    pub(crate) requested_at: Timestamp,
    pub(crate) deadlines: Deadlines,
    /// §4.2.4: must not be served stale.
    pub(crate) strict: bool,
    /// RFC 8246: not revalidated while fresh.
    pub(crate) immutable: bool,
    pub(crate) tags: Box<[Box<str>]>,
    /// Duration of the fetch, which a hit saves.
    pub(crate) took: Duration,
    /// Log position at the start of the fetch.
    pub(crate) began: LogPosition,
    /// Latest generation at which this entry was found valid.
    pub(crate) checked: AtomicU64,
    /// Time at which level 1 took it, in nanoseconds, where it may keep it for a limited time only.
    pub(crate) copied_at: AtomicU64,
}

/// Longest difference between the starts of two fetches that are compared; beyond it a clock was set back.
const LONGEST_FETCH: Duration = Duration::from_secs(300);

impl StoredHead {
    /// Whether this response may replace that one: its fetch began later, by the clock or after a later invalidation, or so
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

    pub(crate) fn age_at(&self, now: Timestamp) -> Duration {
        self.age + now.since(self.stored_at)
    }

    /// Returns the same head with other fields.
    pub(crate) fn with_headers(&self, headers: HeaderMap) -> Self {
        Self {
            status: self.status,
            headers,
            age: self.age,
            stored_at: self.stored_at,
            requested_at: self.requested_at,
            deadlines: self.deadlines,
            strict: self.strict,
            immutable: self.immutable,
            tags: self.tags.clone(),
            took: self.took,
            began: self.began,
            checked: AtomicU64::new(0),
            copied_at: AtomicU64::new(0),
        }
    }
}
