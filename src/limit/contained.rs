//! [`Contained`]: a store that others wrote, kept from taking requests down.

use std::sync::Arc;

use super::store::RemoteStats;
use super::{Check, LimitStore, LimitStoreStats, Settlement, Verdicts};
use crate::answer::Answer;
use crate::clock::Timestamp;
use crate::contain::{contain, contain_now};
use crate::error::Error;
use crate::key::FleetSecret;

/// Every method of the store, its panics and delays turned into errors.
pub(super) struct Contained(pub(super) Arc<dyn LimitStore>);

impl LimitStore for Contained {
    fn decide(&self, checks: &[Check], now: Timestamp) -> Answer<Result<Verdicts, Error>> {
        contain("limits", || self.0.decide(checks, now))
    }

    fn peek(&self, checks: &[Check], now: Timestamp) -> Answer<Result<Verdicts, Error>> {
        contain("limits", || self.0.peek(checks, now))
    }

    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> Answer<Result<(), Error>> {
        contain("limits", || self.0.settle(settlements, now))
    }

    fn stats(&self) -> LimitStoreStats {
        contain_now(|| self.0.stats())
    }

    fn secret(&self) -> Option<FleetSecret> {
        contain_now(|| self.0.secret())
    }

    fn generation(&self) -> u64 {
        contain_now(|| self.0.generation())
    }

    fn remote(&self) -> Option<RemoteStats> {
        contain_now(|| self.0.remote())
    }
}
