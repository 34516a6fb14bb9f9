//! [`RedisCredits`]: credits booked in Redis, by all nodes of a fleet.
//!
//! One hash for each upstream and window: what was booked and what was given back, both only added to (`HINCRBY`), so
//! that
//! a Redis that forgot is told from one that was given back to. It goes an hour after the window has ended
//! (`PEXPIREAT`).
//! One round trip for all windows of a booking. An answer that is lost leaves a booking behind: too much is counted,
//! never
//! too little.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::pipe;

use super::connect::Conn;
use super::settings::Redis;
use crate::base::error::Error;
use crate::base::event::{Events, Hook};
use crate::base::maybe_ready::MaybeReady;
use crate::base::outage::Outage;
use crate::identity::FleetSecret;
use crate::resilience::guard::FailOpen;
use crate::upstream::{Balance, Booking, CreditStore};

/// A window is forgotten this long after it has ended.
const KEPT: Duration = Duration::from_secs(3_600);
/// For the first connection.
const FIRST: Duration = Duration::from_millis(200);

/// Credits in Redis. Clones share everything.
///
/// ```
/// use std::sync::Arc;
/// use tollgate::store::redis::{Redis, RedisCredits};
/// use tollgate::upstream::{Credits, UpstreamLayer};
///
/// let redis = Redis::new("redis://127.0.0.1")?;
/// let layer = UpstreamLayer::builder("github")
///     .quota(Credits::per_hour(5_000))
///     .store(Arc::new(RedisCredits::new(&redis)?))
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone)]
pub struct RedisCredits {
    guard: FailOpen<Conn>,
    secret: FleetSecret,
    prefix: Arc<str>,
}

impl RedisCredits {
    /// Credits in this Redis. Nothing fails where it is down.
    ///
    /// # Errors
    /// Where a setting is wrong.
    pub fn new(redis: &Redis) -> Result<Self, Error> {
        redis.check()?;
        let secret = redis.secret.as_ref().map_or_else(FleetSecret::unknown, FleetSecret::new);
        let guard = redis.guard_credits(&secret, Events::default());
        Ok(Self { guard, secret, prefix: redis.prefix.as_str().into() })
    }

    /// What a window is called: neither upstream nor quota can be read there.
    fn name(&self, booking: &Booking) -> Result<String, Outage> {
        let described = format!("{}\u{1f}{}\u{1f}{}", booking.upstream, booking.window, booking.start);
        let hash = self.secret.name(described.as_bytes()).ok_or(Outage::Disconnected)?;
        Ok(format!("{}:credits:{hash:016x}", self.prefix))
    }

    async fn add(self, bookings: Vec<Booking>) -> Result<Vec<Balance>, Outage> {
        // A process that has just begun waits for its first connection: what its predecessor spent is known only there.
        if self.guard.generation() == 0 {
            let mut connects = self.guard.connects();
            // Where none is made in time, that is an outage like any other.
            drop(tokio::time::timeout(FIRST, connects.wait_for(|made| *made > 0)).await);
        }
        self.guard.check()?;
        let names = bookings.iter().map(|booking| self.name(booking)).collect::<Result<Vec<_>, _>>()?;
        self.guard
            .call(|connection| async move {
                let asked = names.iter().zip(&bookings).map(|(name, booking)| {
                    let mut connection = connection.clone();
                    async move {
                        let mut add = pipe();
                        let field = if booking.credits < 0 { "returned" } else { "booked" };
                        add.cmd("HINCRBY").arg(name).arg(field).arg(booking.credits.unsigned_abs()).ignore();
                        add.cmd("PEXPIREAT").arg(name).arg(gone(booking)).ignore();
                        add.cmd("HMGET").arg(name).arg("booked").arg("returned");
                        let ((booked, returned),): ((Option<u64>, Option<u64>),) = connection.query_all(&add).await?;
                        Ok(Balance { booked: booked.unwrap_or(0), returned: returned.unwrap_or(0) })
                    }
                });
                futures_util::future::try_join_all(asked).await
            })
            .await
    }
}

/// When its key is, in milliseconds since 1970.
fn gone(booking: &Booking) -> u64 {
    let gone = booking.ends.checked_add(KEPT).unwrap_or(booking.ends);
    let since = gone.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2)
}

impl CreditStore for RedisCredits {
    fn book(&self, bookings: &[Booking]) -> MaybeReady<Result<Vec<Balance>, Error>> {
        let (credits, bookings) = (self.clone(), bookings.to_vec());
        MaybeReady::Pending(Box::pin(async move {
            credits.add(bookings).await.map_err(|outage| Error::outage("credits", outage))
        }))
    }

    fn listen(&self, hook: Hook) {
        self.guard.listen(Events::new(Some(hook)));
    }
}

impl fmt::Debug for RedisCredits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCredits").field("guard", &self.guard).finish_non_exhaustive()
    }
}
