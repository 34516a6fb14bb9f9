//! [`LimitStore`]: storage of the keys' states.

use std::time::Duration;

use serde::Serialize;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::event::Hook;
use crate::base::maybe_ready::MaybeReady;
use crate::identity::FleetSecret;
use crate::limit::algorithm::check::{Check, Settlement};
use crate::limit::algorithm::verdict::{Verdict, Verdicts};

/// Size of a store.
///
/// ```
/// use tollgate::limit::LimitStoreStats;
///
/// assert_eq!(LimitStoreStats::new(3, 100_000, 0).keys, 3);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LimitStoreStats {
    /// Keys stored now.
    pub keys: u64,
    /// Capacity in keys; zero if the store has no bound of its own.
    pub capacity: u64,
    /// Live keys evicted to make room.
    #[serde(rename = "evicted_total")]
    pub evicted: u64,
}

impl LimitStoreStats {
    /// Creates the statistics from their values.
    ///
    /// ```
    /// use tollgate::limit::LimitStoreStats;
    ///
    /// assert_eq!(LimitStoreStats::new(12, 100_000, 0).keys, 12);
    /// ```
    #[must_use]
    pub const fn new(keys: u64, capacity: u64, evicted: u64) -> Self {
        Self { keys, capacity, evicted }
    }
}

/// State of a remote store.
///
/// ```
/// let stats = tollgate::limit::RemoteStats::default();
/// assert_eq!((stats.up, stats.decisions), (false, 0));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RemoteStats {
    /// Name of the store: `redis limits` or `postgres limits`.
    pub store: String,
    /// Whether the store is reachable and used.
    pub up: bool,
    /// Connections established.
    #[serde(rename = "connections_total")]
    pub connections: u64,
    /// Decisions made by the store or on its behalf.
    #[serde(rename = "decisions_total")]
    pub decisions: u64,
    /// Decisions paid from a lease, without a round trip.
    #[serde(rename = "leased_total")]
    pub leased: u64,
    /// Rejections repeated from memory, without a round trip.
    #[serde(rename = "remembered_total")]
    pub remembered: u64,
    /// Commands sent.
    #[serde(rename = "commands_total")]
    pub commands: u64,
    /// Commands that failed or timed out.
    #[serde(rename = "failures_total")]
    pub failures: u64,
    /// Last error, if any.
    pub last_error: Option<String>,
}

/// Stores the usage of keys, in this process or remotely.
///
/// # Contract
/// * `decide` charges **all or none**: if any enforced check is rejected, no check is charged. A check in shadow
///   neither blocks the others nor is charged if it would itself be rejected.
/// * Verdicts are in the order of the checks; `remaining` and `reset` are those after the charge.
/// * Concurrent calls never admit more in total than sequential calls would.
/// * The number of keys is bounded, and a key at its limit is never evicted for a new one.
///
/// In-process stores return [`MaybeReady::Ready`]. An error never reaches a request: the layer decides locally
/// instead. The test suite [`testing::contract`](https://docs.rs/tollgate/latest/tollgate/testing/) verifies an
/// implementation.
///
/// ```
/// use tollgate::{Error, MaybeReady, Timestamp};
/// use tollgate::limit::{Check, LimitStore, LimitStoreStats, Settlement, Verdicts};
/// use tollgate::store::memory::MemoryLimits;
///
/// /// Delegates to the in-process engine.
/// struct Logged(MemoryLimits);
///
/// impl LimitStore for Logged {
///     fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
///         eprintln!("{} checks", checks.len());
///         self.0.decide(checks, now)
///     }
///     fn peek(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
///         self.0.peek(checks, now)
///     }
///     fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>> {
///         self.0.settle(settlements, now)
///     }
///     fn stats(&self) -> LimitStoreStats {
///         self.0.stats()
///     }
/// }
/// # let _ = Logged(MemoryLimits::new(100));
/// ```
pub trait LimitStore: Send + Sync + 'static {
    /// Charges all checks, or none.
    ///
    /// # Errors
    /// Returns an error if the store is unavailable; the layer then decides locally.
    fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>>;

    /// Charges one check synchronously, if the store can; otherwise returns `None`, and `decide` is called.
    ///
    /// An optimisation that the layer applies only to its own engine, because nearly every request has one check. A
    /// user-supplied store is always called through `decide`, which is isolated and counted.
    fn decide_one(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        let _ = (check, now);
        None
    }

    /// Returns the verdicts without charging.
    ///
    /// # Errors
    /// Returns an error if the store is unavailable.
    fn peek(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>>;

    /// Corrects earlier charges to their actual cost: the difference is refunded, or charged even if it does not fit.
    ///
    /// # Errors
    /// Returns an error if the store is unavailable.
    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>>;

    /// Resets the usage of these keys. Defaults to an error, for stores that cannot.
    ///
    /// # Errors
    /// Returns an error if the store is unavailable, or cannot reset keys.
    fn reset(&self, checks: &[Check]) -> MaybeReady<Result<(), Error>> {
        let _ = checks;
        MaybeReady::Ready(Err(Error::store("limits: the store cannot reset keys", "reset is not implemented")))
    }

    /// Publishes a record under a name, such as a grant, to all nodes of a fleet, for `ttl`; zero removes it. Defaults to
    /// nothing, for in-process stores.
    ///
    /// # Errors
    /// Returns an error if the store is unavailable, or holds too many records.
    fn publish(&self, name: u64, record: &[u8], ttl: Duration) -> MaybeReady<Result<(), Error>> {
        let _ = (name, record, ttl);
        MaybeReady::Ready(Ok(()))
    }

    /// Returns the version of the published records, and, unless that is the `known` one, all of them with the time they
    /// have left. Defaults to none, for in-process stores.
    ///
    /// # Errors
    /// Returns an error if the store is unavailable.
    #[expect(clippy::type_complexity, reason = "a type of its own would be one more to learn")]
    fn published(&self, known: u64) -> MaybeReady<Result<(u64, Vec<(u64, Vec<u8>, Duration)>), Error>> {
        MaybeReady::Ready(Ok((known, Vec::new())))
    }

    /// Returns the size of the store.
    fn stats(&self) -> LimitStoreStats;

    /// Returns the secret under which the nodes of a fleet hash keys; checks then carry [fleet hashes](Check::fleet).
    /// Defaults to `None`, for in-process stores.
    fn secret(&self) -> Option<FleetSecret> {
        None
    }

    /// Resolves when the store can be asked for the first time, or has kept requests waiting for as long as a decision
    /// may take. Afterwards it is always ready, connected or not. Defaults to ready, for in-process stores.
    fn ready(&self) -> MaybeReady<()> {
        MaybeReady::Ready(())
    }

    /// Returns a number that changes whenever the store may have lost its data, for example after a reconnection.
    fn generation(&self) -> u64 {
        0
    }

    /// Registers a hook for events of a remote store. Called once, when a layer with a hook is built.
    fn listen(&self, hook: Hook) {
        drop(hook);
    }

    /// Returns what this process has reserved and will not use. Called once, after the last request. Defaults to nothing.
    ///
    /// # Errors
    /// Returns an error if the store is unavailable.
    fn shutdown(&self) -> MaybeReady<Result<(), Error>> {
        MaybeReady::Ready(Ok(()))
    }

    /// Returns the state of a remote store; `None` for in-process stores.
    fn remote(&self) -> Option<RemoteStats> {
        None
    }
}
