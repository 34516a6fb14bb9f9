//! The head of a stored response: status, fields, age, deadlines, tags.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::base::clock::Timestamp;
use crate::cache::http::deadlines::Deadlines;

/// How many invalidations had happened when a fetch began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// In this process, of which every one is known.
    pub(crate) here: u64,
    /// In the fleet, as far as the store had heard by then: see
    /// [`CacheStore::generation`](crate::cache::CacheStore::generation).
    pub(crate) fleet: u64,
}

/// The head of a stored response, shared by everyone who is being sent it.
pub(crate) struct Meta {
    pub(crate) status: StatusCode,
    /// End-to-end fields only, with a place for `Age`.
    pub(crate) headers: HeaderMap,
    /// Its age at `stored_at`.
    pub(crate) age: Duration,
    pub(crate) stored_at: Timestamp,
    pub(crate) windows: Deadlines,
    /// §4.2.4: never served stale, whoever asks.
    pub(crate) strict: bool,
    /// RFC 8246: not revalidated while fresh.
    pub(crate) immutable: bool,
    pub(crate) tags: Box<[Box<str>]>,
    /// How long the fetch took that a hit saves.
    pub(crate) took: Duration,
    /// The invalidations that had happened when its fetch began.
    pub(crate) began: LogPosition,
    /// The latest generation this entry was compared with, and found valid.
    pub(crate) checked: AtomicU64,
}

impl Meta {
    /// By how much it exceeds its freshness lifetime.
    pub(crate) fn staleness_at(&self, now: Timestamp) -> Duration {
        now.since(self.windows.fresh_until) + self.windows.late
    }

    pub(crate) fn age_at(&self, now: Timestamp) -> Duration {
        self.age + now.since(self.stored_at)
    }

    /// The same head with other fields.
    pub(crate) fn with_headers(&self, headers: HeaderMap) -> Self {
        Self {
            status: self.status,
            headers,
            age: self.age,
            stored_at: self.stored_at,
            windows: self.windows,
            strict: self.strict,
            immutable: self.immutable,
            tags: self.tags.clone(),
            took: self.took,
            began: self.began,
            checked: AtomicU64::new(0),
        }
    }
}
