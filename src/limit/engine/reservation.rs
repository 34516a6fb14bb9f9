//! [`Reservation`]: the charges of a request, for the handler to settle.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use super::limiter::Limiter;
use super::response_edits::Shared;
use crate::base::clock::Timestamp;
use crate::limit::algorithm::check::{Check, Settlement};

/// Charges of limits marked [`Limit::reserve`](crate::limit::Limit::reserve), found in the request's extensions.
///
/// Dropping it settles the estimate: a client that disconnects early has still been served in part. Only
/// [`release`](Self::release) refunds everything, and a refund never creates burst.
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
    checks: SmallVec<[(Check, Shared); 2]>,
    at: Timestamp,
    /// Taken by whichever settles the charges that a cache hit refunds too.
    shared: Arc<AtomicBool>,
    settled: Arc<AtomicBool>,
    /// Whether the charge was made in this process only.
    degraded: bool,
}

impl Reservation {
    pub(crate) fn new(
        limiter: Arc<Limiter>,
        checks: SmallVec<[(Check, Shared); 2]>,
        at: Timestamp,
        shared: Arc<AtomicBool>,
        degraded: bool,
    ) -> Self {
        Self { limiter, checks, at, shared, settled: Arc::default(), degraded }
    }

    /// Returns the reserved units of the first reserving limit.
    ///
    /// ```
    /// use axum::Extension;
    /// use tollgate::limit::Reservation;
    ///
    /// async fn complete(Extension(reserved): Extension<Reservation>) -> String {
    ///     format!("at most {} tokens", reserved.reserved())
    /// }
    /// ```
    #[must_use]
    pub fn reserved(&self) -> u32 {
        self.checks.first().map_or(0, |(check, _)| check.cost)
    }

    /// Settles the actual cost: the difference is refunded, or charged even if it does not fit. Only the first
    /// settlement of a request counts.
    ///
    /// ```
    /// use tollgate::limit::Reservation;
    ///
    /// fn finish(reserved: Reservation, tokens_used: u32) {
    ///     reserved.commit(tokens_used);
    /// }
    /// ```
    pub fn commit(self, actual: u32) {
        if self.settled.swap(true, Ordering::AcqRel) {
            return;
        }
        let shares = self.checks.iter().any(|(_, shared)| *shared);
        let first = !shares || !self.shared.swap(true, Ordering::AcqRel);
        let due = self.checks.iter().filter(|(_, shared)| first || !shared);
        let settlements: SmallVec<[Settlement; 2]> =
            due.map(|(check, _)| Settlement::new(*check, self.at, actual)).collect();
        self.limiter.settle(&settlements, self.limiter.clock.now(), self.degraded);
    }

    /// Refunds everything: the request had no cost.
    ///
    /// ```
    /// use tollgate::limit::Reservation;
    ///
    /// fn cancel(reserved: Reservation) {
    ///     reserved.release();
    /// }
    /// ```
    pub fn release(self) {
        self.commit(0);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("reserved", &self.reserved()).finish_non_exhaustive()
    }
}
