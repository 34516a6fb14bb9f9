//! [`CreditStore`]: records credits before they are spent, so that restarts and other nodes lose nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::base::error::Error;
use crate::base::event::Hook;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::MaybeReady;
use crate::upstream::quota::balance::{Balance, Booking};

/// Store of booked credits, shared by processes.
///
/// Every method delays calls and must be fast, and no implementation may lose what it has acknowledged.
///
/// ```
/// use tollgate::MaybeReady;
/// use tollgate::upstream::{Balance, Booking, CreditStore, MemoryCredits};
///
/// /// Delegates to the in-process store.
/// struct Logged(MemoryCredits);
///
/// impl CreditStore for Logged {
///     fn book(&self, bookings: &[Booking]) -> MaybeReady<Result<Vec<Balance>, tollgate::Error>> {
///         eprintln!("{} bookings", bookings.len());
///         self.0.book(bookings)
///     }
/// }
/// # let _ = Logged(MemoryCredits::default());
/// ```
pub trait CreditStore: Send + Sync + 'static {
    /// Books all of these, and returns the resulting balance of each window.
    ///
    /// # Errors
    /// Returns an error if the store did not answer. Bookings that it may have made stay: too much is counted, never
    /// too little.
    fn book(&self, bookings: &[Booking]) -> MaybeReady<Result<Vec<Balance>, Error>>;

    /// Registers a hook for the store's outages.
    fn listen(&self, hook: Hook) {
        drop(hook);
    }
}

/// In-process credit store, which several layers can share.
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
