//! [`OutcomeCharge`]: charges of limits that count outcomes, settled by the response.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use smallvec::SmallVec;

use super::limiter::Limiter;
use crate::base::body::BodyWatch;
use crate::base::clock::Timestamp;
use crate::base::detached_context;
use crate::base::maybe_ready::MaybeReady;
use crate::limit::algorithm::check::{Check, Settlement};
use crate::limit::policy::count::{Count, grpc_status};
use crate::limit::policy::grpc;

/// Charges of one request. Dropped unsettled, they stay counted: a client that leaves before the response must not be able to
/// try for free.
pub(crate) struct OutcomeCharge {
    pending: PendingCharges,
    charges: SmallVec<[(Check, Count); 1]>,
    at: Timestamp,
    degraded: bool,
}

/// Charges that are unsettled until this is dropped.
struct PendingCharges {
    limiter: Arc<Limiter>,
    keys: SmallVec<[u64; 1]>,
}

impl Drop for PendingCharges {
    fn drop(&mut self) {
        self.keys.iter().for_each(|key| self.limiter.unsettled.end(*key));
    }
}

impl OutcomeCharge {
    pub(super) fn new(
        limiter: Arc<Limiter>,
        charges: SmallVec<[(Check, Count); 1]>,
        at: Timestamp,
        degraded: bool,
    ) -> Self {
        let keys: SmallVec<[u64; 1]> = charges.iter().map(|(check, _)| check.key.to_bits()).collect();
        keys.iter().for_each(|key| limiter.unsettled.begin(*key));
        Self { pending: PendingCharges { limiter, keys }, charges, at, degraded }
    }

    /// Settles the charges by the head of a response, or returns what settles them by its trailers.
    pub(super) fn settle_by<B>(self, response: &Response<B>) -> Option<Box<dyn BodyWatch>> {
        let failed = response.status() != StatusCode::OK;
        if failed || !grpc::is_grpc(response.headers()) {
            self.settle(response.status());
            return None;
        }
        let Some(status) = grpc_status(response.headers()) else { return Some(Box::new(TrailerWatch(Some(self)))) };
        self.settle(status);
        None
    }

    /// Refunds the charges of limits that do not count this outcome.
    pub(super) fn settle(self, status: StatusCode) {
        let Self { pending, charges, at, degraded } = self;
        let due = charges.iter().filter(|(_, count)| !count.counts(status));
        let refunds: SmallVec<[Settlement; 2]> = due.map(|(check, _)| Settlement::new(*check, at, 0)).collect();
        if refunds.is_empty() {
            return;
        }
        let limiter = pending.limiter.clone();
        let now = limiter.clock.now();
        if let Some(fallback) = &limiter.fallback {
            fallback.settle(&refunds, now);
        }
        if degraded {
            return;
        }
        // Those who wait are woken when the store knows of the refund. A failure costs at most the refund.
        if let MaybeReady::Pending(refunded) = limiter.store.settle(&refunds, now)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(detached_context::carry(Box::pin(async move {
                let _ = refunded.await;
                drop(pending);
            })));
        }
    }
}

/// Waits for the status of a gRPC response, which comes last.
struct TrailerWatch(Option<OutcomeCharge>);

impl BodyWatch for TrailerWatch {
    fn ended(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(charge) = self.0.take() {
            // A response that ends without a status is one of status UNKNOWN.
            let status = trailers.and_then(grpc_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            charge.settle(status);
        }
    }
}

impl fmt::Debug for OutcomeCharge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutcomeCharge").field("charges", &self.charges).finish_non_exhaustive()
    }
}
