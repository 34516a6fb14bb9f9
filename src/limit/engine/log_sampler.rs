//! [`LogSampler`]: bounds the log lines of refusals.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::clock::Timestamp;

/// Number of refusals that are logged in a second.
const LOGGED_PER_SECOND: u64 = 10;

/// Selects what is logged: the first few of each second.
#[derive(Debug, Default)]
pub(super) struct LogSampler(AtomicU64);

impl LogSampler {
    /// Whether an event at this time is logged.
    pub(super) fn admits(&self, at: Timestamp) -> bool {
        let second = (at.as_nanos() / 1_000_000_000) << 8;
        let seen = self.0.load(Ordering::Relaxed);
        let seen = if seen >> 8 == second >> 8 { seen } else { second };
        let admits = seen & 0xFF < LOGGED_PER_SECOND;
        if admits {
            self.0.store(seen + 1, Ordering::Relaxed);
        }
        admits
    }
}
