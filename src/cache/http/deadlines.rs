//! The times that decide how a stored response may be used.

use std::time::Duration;

use crate::base::clock::Timestamp;

/// Until when a response may be used, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadlines {
    /// Before: served as it is.
    pub(crate) fresh_until: Timestamp,
    /// How stale it was already at `fresh_until`: responses may arrive so.
    pub(crate) late: Duration,
    /// After, and while fresh: served, and refreshed ahead of its end.
    pub(crate) refresh_from: Timestamp,
    /// Before: served, and refreshed behind the client's back.
    pub(crate) revalidate_until: Timestamp,
    /// Before: served where the inner service fails in any way.
    pub(crate) error_until: Timestamp,
    /// Before: served where the inner service cannot be reached: an error, 502, 503 or 504.
    pub(crate) down_until: Timestamp,
    /// Before: worth revalidating.
    pub(crate) keep_until: Timestamp,
}
