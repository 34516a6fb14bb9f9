//! [`IsolatedLimitStore`]: isolates user-supplied stores.

use std::sync::Arc;
use std::time::Duration;

use super::store::{LimitStore, LimitStoreStats, RemoteStats};
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::identity::FleetSecret;
use crate::limit::algorithm::check::{Check, Settlement};
use crate::limit::algorithm::verdict::Verdicts;
use crate::resilience::isolate::{isolate, isolate_now};

/// Wraps a store: panics and timeouts become errors.
pub(crate) struct IsolatedLimitStore(pub(crate) Arc<dyn LimitStore>);

impl LimitStore for IsolatedLimitStore {
    fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        isolate("limits", || self.0.decide(checks, now))
    }

    fn peek(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        isolate("limits", || self.0.peek(checks, now))
    }

    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>> {
        isolate("limits", || self.0.settle(settlements, now))
    }

    fn reset(&self, checks: &[Check]) -> MaybeReady<Result<(), Error>> {
        isolate("limits", || self.0.reset(checks))
    }

    fn publish(&self, name: u64, record: &[u8], ttl: Duration) -> MaybeReady<Result<(), Error>> {
        isolate("limits", || self.0.publish(name, record, ttl))
    }

    fn published(&self, known: u64) -> MaybeReady<Result<(u64, Vec<(u64, Vec<u8>, Duration)>), Error>> {
        isolate("limits", || self.0.published(known))
    }

    fn stats(&self) -> LimitStoreStats {
        isolate_now(|| self.0.stats())
    }

    fn secret(&self) -> Option<FleetSecret> {
        isolate_now(|| self.0.secret())
    }

    fn generation(&self) -> u64 {
        isolate_now(|| self.0.generation())
    }

    fn shutdown(&self) -> MaybeReady<Result<(), Error>> {
        isolate("limits", || self.0.shutdown())
    }

    fn remote(&self) -> Option<RemoteStats> {
        isolate_now(|| self.0.remote())
    }
}
