//! Deadlines that bound the use of a stored response.

use std::time::Duration;

use crate::base::clock::Timestamp;

/// Points in time that decide how a stored response may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadlines {
    /// Until then, serve the response as fresh.
    pub(crate) fresh_until: Timestamp,
    /// Staleness at `fresh_until`: responses may be stale on arrival.
    pub(crate) initial_staleness: Duration,
    /// From then until `fresh_until`, serve the response and refresh it in the background.
    pub(crate) refresh_from: Timestamp,
    /// Until then, serve the stale response and revalidate in the background.
    pub(crate) revalidate_until: Timestamp,
    /// Until then, serve the stale response if the inner service fails in any way.
    pub(crate) error_until: Timestamp,
    /// Until then, serve the stale response if the inner service is unreachable: an error, 502, 503 or 504.
    pub(crate) unreachable_until: Timestamp,
    /// Until then, retain the response for revalidation.
    pub(crate) retain_until: Timestamp,
}
