//! [`CreditEngine`]: credits of upstreams in a remote store, the same for every engine ([`CreditBackend`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::base::error::Error;
use crate::base::event::{Events, Hook};
use crate::base::maybe_ready::MaybeReady;
use crate::base::outage::Outage;
use crate::identity::FleetSecret;
use crate::resilience::guard::{FailOpen, Fault};
use crate::upstream::{Balance, Booking, CreditStore};

/// Time for which a window's balance is retained after its end.
const RETENTION: Duration = Duration::from_secs(3_600);

/// Booking under a name that reveals neither upstream nor quota.
#[derive(Clone, Debug)]
pub(crate) struct NamedBooking {
    pub(crate) name: u64,
    pub(crate) booking: Booking,
}

/// Engine that keeps the credits of a fleet.
pub(crate) trait CreditBackend: Send + Sync + 'static {
    /// Connection to the store.
    type Connection: Clone + Send + Sync + 'static;

    /// Books all of these, and returns the balance of each.
    ///
    /// # Errors
    /// If the store did not answer, or rejected the bookings.
    fn book(
        &self,
        connection: Self::Connection,
        bookings: &[NamedBooking],
    ) -> impl Future<Output = Result<Vec<Balance>, Fault>> + Send;
}

impl NamedBooking {
    /// Returns the time at which the balance expires, in milliseconds since 1970.
    pub(crate) fn expires_at_ms(&self) -> u64 {
        let ends = self.booking.ends;
        let since =
            ends.checked_add(RETENTION).unwrap_or(ends).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2)
    }
}

/// Credits in a remote store.
pub(super) struct CreditEngine<B: CreditBackend> {
    guard: FailOpen<B::Connection>,
    secret: FleetSecret,
    backend: Arc<B>,
}

impl<B: CreditBackend> CreditEngine<B> {
    pub(super) fn new(backend: B, guard: FailOpen<B::Connection>, secret: FleetSecret) -> Self {
        Self { guard, secret, backend: Arc::new(backend) }
    }
}

impl<B: CreditBackend> CreditStore for CreditEngine<B> {
    fn book(&self, bookings: &[Booking]) -> MaybeReady<Result<Vec<Balance>, Error>> {
        let (guard, secret, backend) = (self.guard.clone(), self.secret.clone(), self.backend.clone());
        let bookings = bookings.to_vec();
        MaybeReady::Pending(Box::pin(async move {
            add(&guard, &secret, &*backend, bookings).await.map_err(|outage| Error::outage("credits", outage))
        }))
    }

    fn listen(&self, hook: Hook) {
        self.guard.listen(Events::new(Some(hook)));
    }
}

async fn add<B: CreditBackend>(
    guard: &FailOpen<B::Connection>,
    secret: &FleetSecret,
    backend: &B,
    bookings: Vec<Booking>,
) -> Result<Vec<Balance>, Outage> {
    // A process that has just started waits for its first connection, since only the store knows the units spent before.
    guard.first_connection().await;
    guard.check()?;
    let named = bookings.into_iter().map(|booking| named(secret, booking)).collect::<Result<Vec<_>, _>>()?;
    guard.call(async |connection| backend.book(connection, &named).await).await
}

fn named(secret: &FleetSecret, booking: Booking) -> Result<NamedBooking, Outage> {
    let described = format!("{}\u{1f}{}\u{1f}{}", booking.upstream, booking.window, booking.start);
    let name = secret.name(described.as_bytes()).ok_or(Outage::Disconnected)?;
    Ok(NamedBooking { name, booking })
}
