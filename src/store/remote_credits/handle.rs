//! [`RemoteCredits`]: [`CreditStore`] shared by a fleet, whatever engine keeps it.

use std::fmt;
use std::sync::Arc;

use super::engine::{CreditBackend, CreditEngine};
use crate::base::error::Error;
use crate::base::event::Hook;
use crate::base::maybe_ready::MaybeReady;
use crate::identity::FleetSecret;
use crate::resilience::guard::FailOpen;
use crate::upstream::{Balance, Booking, CreditStore};

/// Credit store in a server that a fleet shares. Clones share state.
///
/// ```
/// # #[cfg(feature = "redis")] {
/// use std::sync::Arc;
/// use tollgate::store::RemoteCredits;
/// use tollgate::store::redis::Redis;
/// use tollgate::upstream::{Credits, UpstreamLayer};
///
/// let redis = Redis::new("redis://127.0.0.1")?;
/// let layer = UpstreamLayer::builder("github")
///     .quota(Credits::per_hour(5_000))
///     .store(Arc::new(RemoteCredits::redis(&redis)?))
///     .build()?;
/// # let _ = layer;
/// # }
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone)]
pub struct RemoteCredits {
    engine: Arc<dyn CreditStore>,
}

impl RemoteCredits {
    pub(in crate::store) fn new<B: CreditBackend>(
        backend: B,
        guard: FailOpen<B::Connection>,
        secret: FleetSecret,
    ) -> Self {
        Self { engine: Arc::new(CreditEngine::new(backend, guard, secret)) }
    }
}

impl CreditStore for RemoteCredits {
    fn book(&self, bookings: &[Booking]) -> MaybeReady<Result<Vec<Balance>, Error>> {
        self.engine.book(bookings)
    }

    fn listen(&self, hook: Hook) {
        self.engine.listen(hook);
    }
}

impl fmt::Debug for RemoteCredits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteCredits").finish_non_exhaustive()
    }
}
