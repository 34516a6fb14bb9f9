//! [`LimitStore`]: where keys' states live.

use serde::Serialize;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::event::Hook;
use crate::base::maybe_ready::MaybeReady;
use crate::identity::FleetSecret;
use crate::limit::algorithm::check::{Check, Settlement};
use crate::limit::algorithm::verdict::{Verdict, Verdicts};

/// Size of a store, for `stats()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LimitStoreStats {
    /// Keys held now.
    pub keys: u64,
    /// The most keys it will hold; zero where it has no bound of its own.
    pub capacity: u64,
    /// Live keys pushed out to make room.
    pub evicted: u64,
}

impl LimitStoreStats {
    /// The figures of a store.
    #[must_use]
    pub const fn new(keys: u64, capacity: u64, evicted: u64) -> Self {
        Self { keys, capacity, evicted }
    }
}

/// How a remote store is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RemoteStats {
    /// Which store, in one word.
    pub store: String,
    /// Whether it is asked and answers.
    pub up: bool,
    /// How many connections have been made.
    pub connections: u64,
    /// Decisions made with it.
    pub decisions: u64,
    /// Of these, decisions paid for in advance: without a round trip.
    pub leased: u64,
    /// Of these, refusals remembered: without a round trip.
    pub remembered: u64,
    /// Commands sent.
    pub commands: u64,
    /// Commands that failed or were not answered in time.
    pub failures: u64,
    /// What went wrong last, if anything.
    pub last_error: Option<String>,
}

/// Keeps what keys have done, in this process or elsewhere.
///
/// # Contract
/// * `decide` takes **all or none**: where any enforced check is refused, none of them is charged. A check in dry-run
///   neither prevents the others nor is charged where it would itself be refused.
/// * Verdicts come in the order of the checks; `remaining` and `reset` are those after the charge.
/// * Concurrent calls never admit more together than one after the other would.
/// * Keys held are bounded, and a key at its limit is not forgotten to make room for a new one.
///
/// In-process stores answer [`MaybeReady::Ready`]. An error never reaches a request: the layer decides locally instead.
pub trait LimitStore: Send + Sync + 'static {
    /// Charges all checks, or none.
    fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>>;

    /// Charges one check, as [`decide`](Self::decide) would a list of it, where that takes no waiting; the default,
    /// `None`, asks `decide`. A matter of speed alone, which the layer uses of its own engine: nearly every request
    /// owes
    /// one check. A store of yours is always asked through `decide`, so that what it does is contained and counted
    /// here.
    fn decide_one(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        let _ = (check, now);
        None
    }

    /// Returns the verdicts without charging.
    fn peek(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>>;

    /// Corrects earlier charges to what they really cost: the difference is refunded, or charged whether it fits or
    /// not.
    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>>;

    /// Returns the size of the store.
    fn stats(&self) -> LimitStoreStats;

    /// What the fleet's nodes hash keys under, where a fleet shares this store: checks then carry
    /// [names](Check::fleet) made from it. `None`, as in process, where nobody else counts here.
    fn secret(&self) -> Option<FleetSecret> {
        None
    }

    /// Changes whenever the store may have forgotten what it held, as after a reconnection.
    fn generation(&self) -> u64 {
        0
    }

    /// Where a remote store is to say that it went away or is back: called once, when a layer with a hook is built.
    fn listen(&self, hook: Hook) {
        drop(hook);
    }

    /// How a remote store is doing; `None` in process.
    fn remote(&self) -> Option<RemoteStats> {
        None
    }
}
