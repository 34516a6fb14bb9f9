//! Bookings of credits in a window, and the balances they leave.

use std::sync::Arc;
use std::time::SystemTime;

/// Booking of credits in one window of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Booking {
    /// The upstream's name, as given to the layer: all that share it share their credits.
    pub upstream: Arc<str>,
    /// The window's name, such as `month`, with what tells it from others of that name.
    pub window: &'static str,
    /// The window's first second, after 1970.
    pub start: i64,
    /// When the window ends: what is booked in it may be forgotten an hour later.
    pub ends: SystemTime,
    /// How many credits; fewer than none are given back, and none only asks.
    pub credits: i64,
}

/// Balance of one window: credits booked by all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// All credits that were ever booked. Where a store says less than it did, it has forgotten, and is told again.
    pub booked: u64,
    /// Those of them that were given back.
    pub returned: u64,
}

impl Balance {
    /// This balance after a booking.
    #[must_use]
    pub const fn after(mut self, credits: i64) -> Self {
        if credits < 0 {
            self.returned = self.returned.saturating_add(credits.unsigned_abs());
        } else {
            self.booked = self.booked.saturating_add(credits.unsigned_abs());
        }
        self
    }
}
