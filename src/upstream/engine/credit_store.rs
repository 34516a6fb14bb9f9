//! [`CreditStore`]: where credits are booked before they are spent, so that a restart or a second node forgets nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::base::error::Error;
use crate::base::event::Hook;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::MaybeReady;
use crate::upstream::quota::balance::{Balance, Booking};

/// A place where credits are booked. Implement it to keep them elsewhere; every method must be as fast as the calls it
/// delays, and none may lose what it has acknowledged.
pub trait CreditStore: Send + Sync + 'static {
    /// Books all of these, and says what is booked in each window by now, these included.
    ///
    /// # Errors
    /// Where the store did not answer. Whatever it may have booked stays booked: too much is counted, never too little.
    fn book(&self, bookings: &[Booking]) -> MaybeReady<Result<Vec<Balance>, Error>>;

    /// Where to report that the store is out of reach, or back.
    fn listen(&self, hook: Hook) {
        drop(hook);
    }
}

/// Credits booked in this process: shared by several layers, and gone with it.
///
/// ```
/// use std::sync::Arc;
/// use tollgate::upstream::{Credits, MemoryCredits, UpstreamLayer};
///
/// let ledger = Arc::new(MemoryCredits::default());
/// let node = || UpstreamLayer::builder("github").quota(Credits::per_hour(5_000)).store(ledger.clone()).build();
/// let (one, other) = (node()?, node()?);   // spend from the same 5 000
/// # let _ = (one, other);
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Default)]
pub struct MemoryCredits(Mutex<HashMap<Account, (i64, Balance)>>);

/// Key of an account: upstream and window.
type Account = (Arc<str>, &'static str);

impl CreditStore for MemoryCredits {
    fn book(&self, bookings: &[Booking]) -> MaybeReady<Result<Vec<Balance>, Error>> {
        let mut accounts = self.0.lock();
        let book = |booking: &Booking| {
            let (start, balance) = accounts.entry((booking.upstream.clone(), booking.window)).or_default();
            if booking.start > *start {
                (*start, *balance) = (booking.start, Balance::default());
            }
            *balance = balance.after(booking.credits);
            *balance
        };
        MaybeReady::Ready(Ok(bookings.iter().map(book).collect()))
    }
}

impl fmt::Debug for MemoryCredits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCredits").finish_non_exhaustive()
    }
}
