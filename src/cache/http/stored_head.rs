//! The head of a stored response: status, fields, age.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::record_meta::RecordMeta;
use crate::base::clock::Timestamp;

/// Head of a stored response, shared by all readers.
pub(crate) struct StoredHead {
    pub(crate) record: RecordMeta,
    pub(crate) status: StatusCode,
    /// End-to-end fields only, with a slot for `Age`.
    pub(crate) headers: HeaderMap,
    /// Age at `stored_at`.
    pub(crate) age: Duration,
    /// RFC 8246: not revalidated while fresh.
    pub(crate) immutable: bool,
}

impl StoredHead {
    pub(crate) fn age_at(&self, now: Timestamp) -> Duration {
        self.age + now.since(self.record.stored_at)
    }

    /// Returns the same head with other fields.
    pub(crate) fn with_headers(&self, headers: HeaderMap) -> Self {
        let record = self.record.clone();
        Self { record, status: self.status, headers, age: self.age, immutable: self.immutable }
    }
}

impl Deref for StoredHead {
    type Target = RecordMeta;

    fn deref(&self) -> &RecordMeta {
        &self.record
    }
}

impl DerefMut for StoredHead {
    fn deref_mut(&mut self) -> &mut RecordMeta {
        &mut self.record
    }
}
