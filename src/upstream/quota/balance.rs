//! Bookings of credits in a window, and the resulting balances.

use std::sync::Arc;
use std::time::SystemTime;

/// Booking of credits in one window of one upstream.
///
/// ```
/// use tollgate::upstream::{Balance, Booking};
///
/// fn apply(balance: Balance, booking: &Booking) -> Balance {
///     balance.after(booking.credits)
/// }
/// # let _ = apply;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Booking {
    /// Name of the upstream, as given to the layer: layers with the same name share their credits.
    pub upstream: Arc<str>,
    /// Name of the window, such as `month`, with what distinguishes windows of the same length.
    pub window: &'static str,
    /// First second of the window, as Unix time.
    pub start: i64,
    /// End of the window; the store may delete it an hour later.
    pub ends: SystemTime,
    /// Credits to book; negative to return them, zero to query.
    pub credits: i64,
}

/// Balance of one window: credits booked by all processes.
///
/// ```
/// use tollgate::upstream::Balance;
///
/// let balance = Balance::default().after(100).after(-30);
/// assert_eq!((balance.booked, balance.returned), (100, 30));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// All credits ever booked. If a store returns less than before, it has lost data and is corrected.
    pub booked: u64,
    /// Credits that were returned.
    pub returned: u64,
}

impl Balance {
    /// Returns the balance after a booking.
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
