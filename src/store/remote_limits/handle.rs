//! [`RemoteLimits`]: [`LimitStore`] shared by a fleet, whatever engine keeps it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::backend::LimitBackend;
use super::engine::LimitEngine;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::event::Hook;
use crate::base::maybe_ready::MaybeReady;
use crate::identity::FleetSecret;
use crate::limit::{Check, LimitStore, LimitStoreStats, RemoteStats, Settlement, Verdicts};
use crate::resilience::outage_switch::OutageSwitch;

/// Limit store in a server that a fleet shares. Clones share state.
///
/// ```
/// # #[cfg(feature = "redis")] {
/// use std::sync::Arc;
/// use tollgate::limit::{Limit, Quota, RateLimitLayer};
/// use tollgate::store::RemoteLimits;
/// use tollgate::store::redis::{LimitMode, Redis};
///
/// let redis = Redis::new("redis://127.0.0.1")?.limit_mode(LimitMode::Leased);
/// let layer = RateLimitLayer::builder()
///     .limit(Limit::per_ip(Quota::per_minute(100)))
///     .store(Arc::new(RemoteLimits::redis(&redis)?))
///     .build()?;
/// # let _ = layer;
/// # }
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone)]
pub struct RemoteLimits {
    engine: Arc<dyn LimitStore>,
    switch: OutageSwitch,
}

impl RemoteLimits {
    pub(in crate::store) fn new<B: LimitBackend>(engine: LimitEngine<B>) -> Self {
        Self { switch: engine.switch(), engine: Arc::new(engine) }
    }

    /// Returns the switch of the server.
    pub(crate) fn switch(&self) -> OutageSwitch {
        self.switch.clone()
    }
}

impl LimitStore for RemoteLimits {
    fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        self.engine.decide(checks, now)
    }

    fn peek(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        self.engine.peek(checks, now)
    }

    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>> {
        self.engine.settle(settlements, now)
    }

    fn reset(&self, checks: &[Check]) -> MaybeReady<Result<(), Error>> {
        self.engine.reset(checks)
    }

    fn publish(&self, name: u64, record: &[u8], ttl: Duration) -> MaybeReady<Result<(), Error>> {
        self.engine.publish(name, record, ttl)
    }

    fn published(&self, known: u64) -> MaybeReady<Result<(u64, Vec<(u64, Vec<u8>, Duration)>), Error>> {
        self.engine.published(known)
    }

    fn stats(&self) -> LimitStoreStats {
        self.engine.stats()
    }

    fn secret(&self) -> Option<FleetSecret> {
        self.engine.secret()
    }

    fn ready(&self) -> MaybeReady<()> {
        self.engine.ready()
    }

    fn generation(&self) -> u64 {
        self.engine.generation()
    }

    fn listen(&self, hook: Hook) {
        self.engine.listen(hook);
    }

    fn shutdown(&self) -> MaybeReady<Result<(), Error>> {
        self.engine.shutdown()
    }

    fn remote(&self) -> Option<RemoteStats> {
        self.engine.remote()
    }
}

impl fmt::Debug for RemoteLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteLimits").field("remote", &self.engine.remote()).finish_non_exhaustive()
    }
}
