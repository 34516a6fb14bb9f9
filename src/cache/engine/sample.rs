//! Sample entries for the contract tests of stores (feature `testing`).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::codec::{self, FleetClock};
use super::record::{Entry, Stored, StoredBody};
use crate::base::clock::Timestamp;
use crate::cache::http::deadlines::Deadlines;
use crate::cache::http::key::CacheKey;
use crate::cache::http::record_meta::{LogPosition, RecordMeta};
use crate::cache::http::stored_head::StoredHead;

/// Creates an entry that is fresh for a minute and has the tag `a-tag`.
pub(crate) fn entry_for_tests(
    key: &CacheKey,
    fields: &[(&'static str, &'static str)],
    body: Bytes,
    now: Timestamp,
    fleet: u64,
) -> Stored {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let until = now + Duration::from_secs(60);
    let deadlines = Deadlines {
        fresh_until: until,
        initial_staleness: Duration::ZERO,
        refresh_from: until,
        revalidate_until: until,
        error_until: until,
        unreachable_until: until,
        retain_until: until,
    };
    let record = RecordMeta {
        stored_at: now,
        requested_at: now,
        deadlines,
        strict: false,
        tags: [Box::from("a-tag")].into(),
        took: Duration::ZERO,
        began: LogPosition { local: 0, fleet },
        checked: AtomicU64::new(0),
        copied_at: AtomicU64::new(0),
    };
    let meta = StoredHead { record, status: StatusCode::OK, headers, age: Duration::ZERO, immutable: false };
    let length = body.len() as u64;
    Stored::Entry(Arc::new(Entry {
        key: key.clone(),
        meta: Arc::new(meta),
        body: StoredBody::one(body),
        length,
        partial: None,
    }))
}

impl Entry {
    pub(crate) fn body_for_tests(&self) -> Vec<u8> {
        self.body.chunks().concat()
    }
}

/// Returns the bytes of an entry whose fetch began at that time after 1970.
pub(crate) fn encoded_for_tests(key: &CacheKey, began: Timestamp) -> Bytes {
    let stored = entry_for_tests(key, &[], Bytes::from_static(b"body"), began, 1);
    codec::encode(&stored, FleetClock::reading(Timestamp::ZERO, 0), 0, usize::MAX).into()
}
