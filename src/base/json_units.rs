//! Units of statistics in JSON: milliseconds, seconds, and points in time.
//!
//! A key names its unit: `_ms`, `_seconds`, `_bytes`, and `_total` for counters that only grow.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// Writes a span in milliseconds.
pub(crate) fn millis<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64() * 1e3)
}

/// Writes a span in milliseconds, or null.
pub(crate) fn maybe_millis<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(|span| span.as_secs_f64() * 1e3).serialize(serializer)
}

/// Writes a span in seconds.
pub(crate) fn seconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64())
}

/// Writes a span in seconds, or null.
pub(crate) fn maybe_seconds<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(|span| span.as_secs_f64()).serialize(serializer)
}

/// Writes a point in time in milliseconds since 1970.
pub(crate) fn unix_millis<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
