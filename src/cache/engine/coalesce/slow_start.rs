//! [`SlowStart`]: admits the followers of a failed fetch a few at a time, and soon all of them.
//!
//! Eight callers fetch at once; every 250 ms the number doubles. A fetch that fails for a thousand followers is thereby
//! not repeated a thousand times at once, and a service that recovers serves all of them within two seconds. No caller
//! is rejected: one that has waited as long as for another's fetch goes on.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::base::lock::Mutex;

/// Number of callers that fetch at once in the beginning.
pub(crate) const FIRST: usize = 8;
/// Interval after which the number doubles.
pub(crate) const DOUBLING: Duration = Duration::from_millis(250);
/// Number of doublings after which the number no longer grows.
const MAX_DOUBLINGS: u32 = 12;
/// How long a key is not shared after followers have waited in vain for its fetch.
pub(crate) const UNSHAREABLE: Duration = Duration::from_secs(10);

/// Slow start of one key.
pub(crate) struct SlowStart {
    permits: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Arrival of the first caller.
    opened_at: Option<Instant>,
    doublings: u32,
    /// End of the time in which the key is not shared.
    unshareable_until: Option<Instant>,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { permits: Semaphore::new(FIRST), state: Mutex::default() }
    }
}

impl SlowStart {
    /// Adds the permits that are due; returns when the next are.
    pub(crate) fn grow(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        let opened_at = *state.opened_at.get_or_insert(now);
        while state.doublings < MAX_DOUBLINGS && now.duration_since(opened_at) >= DOUBLING * (state.doublings + 1) {
            self.permits.add_permits(FIRST << state.doublings);
            state.doublings += 1;
        }
        (state.doublings < MAX_DOUBLINGS).then(|| opened_at + DOUBLING * (state.doublings + 1))
    }

    /// Whether it has grown to the end, and limits no one any more.
    pub(crate) fn is_grown(&self, now: Instant) -> bool {
        let grown = |opened_at| now.duration_since(opened_at) >= DOUBLING * MAX_DOUBLINGS;
        self.state.lock().opened_at.is_some_and(grown)
    }

    /// Returns the permits to fetch.
    pub(crate) fn permits(&self) -> &Semaphore {
        &self.permits
    }

    /// Notes that followers have waited in vain: the key is not shared for ten seconds.
    pub(crate) fn mark_unshareable(&self, now: Instant) {
        self.state.lock().unshareable_until = Some(now + UNSHAREABLE);
    }

    /// Whether callers of the key fetch without sharing.
    pub(crate) fn is_unshareable(&self, now: Instant) -> bool {
        self.state.lock().unshareable_until.is_some_and(|until| now < until)
    }
}
