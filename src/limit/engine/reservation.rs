//! [`Reservation`]: what a request was charged, for the handler to settle.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use super::limiter::Limiter;
use crate::base::clock::Timestamp;
use crate::limit::algorithm::check::{Check, Settlement};

/// Charges of limits marked [`Limit::reserve`](crate::limit::Limit::reserve), left in the request's extensions.
///
/// Dropping it settles the estimate: a client that leaves early has still been served in part. Only
/// [`release`](Self::release) gives everything back, and a refund never creates burst.
///
/// ```
/// use axum::Extension;
/// use tollgate::limit::Reservation;
///
/// async fn complete(Extension(reserved): Extension<Reservation>) -> &'static str {
///     let tokens_used = 42;
///     reserved.commit(tokens_used);
///     "…"
/// }
/// ```
#[derive(Clone)]
pub struct Reservation {
    limiter: Arc<Limiter>,
    checks: SmallVec<[Check; 2]>,
    at: Timestamp,
    settled: Arc<AtomicBool>,
    /// Charged in this process only.
    degraded: bool,
}

impl Reservation {
    pub(crate) fn new(limiter: Arc<Limiter>, checks: SmallVec<[Check; 2]>, at: Timestamp, degraded: bool) -> Self {
        Self { limiter, checks, at, settled: Arc::default(), degraded }
    }

    /// Returns the reserved units of the first limit that reserves.
    #[must_use]
    pub fn reserved(&self) -> u32 {
        self.checks.first().map_or(0, |check| check.cost)
    }

    /// The request really cost `actual`: the difference is given back, or charged whether it still fits or not. Only
    /// the first settlement of a request counts.
    pub fn commit(self, actual: u32) {
        if self.settled.swap(true, Ordering::AcqRel) {
            return;
        }
        let settlements: SmallVec<[Settlement; 2]> =
            self.checks.iter().map(|check| Settlement::new(*check, self.at, actual)).collect();
        self.limiter.settle(&settlements, self.limiter.clock.now(), self.degraded);
    }

    /// The request cost nothing.
    pub fn release(self) {
        self.commit(0);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("reserved", &self.reserved()).finish_non_exhaustive()
    }
}
