//! [`RedisCredits`]: credits in Redis, shared by all nodes of a fleet.
//!
//! One hash per upstream and window holds the booked and the returned units. Both only increase (`HINCRBY`), which
//! distinguishes a Redis that lost data from one with returned units. It expires an hour after the window has ended
//! (`PEXPIREAT`). A booking takes one round trip for all its windows. A lost reply leaves its booking in place: the
//! count is too high, never too low.

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

/// Time for which a window's hash is retained after its end.
const RETENTION: Duration = Duration::from_secs(3_600);
/// Timeout of the first connection.
const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Credit store in Redis. Clones share state.
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
    /// Creates a credit store; connects on first use, and does not fail while Redis is down.
    ///
    /// # Errors
    /// If a setting is invalid.
    ///
    /// # Examples
    /// ```
    /// use tollgate::store::redis::{Redis, RedisCredits};
    ///
    /// let credits = RedisCredits::new(&Redis::new("redis://127.0.0.1")?)?;
    /// # let _ = credits;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn new(redis: &Redis) -> Result<Self, Error> {
        redis.check()?;
        let secret = redis.secret.as_ref().map_or_else(FleetSecret::unknown, FleetSecret::new);
        let guard = redis.guard_credits(&secret, Events::default());
        Ok(Self { guard, secret, prefix: redis.prefix.as_str().into() })
    }

    /// Returns the key of a window, a hash that reveals neither upstream nor quota.
    fn name(&self, booking: &Booking) -> Result<String, Outage> {
        let described = format!("{}\u{1f}{}\u{1f}{}", booking.upstream, booking.window, booking.start);
        let hash = self.secret.name(described.as_bytes()).ok_or(Outage::Disconnected)?;
        Ok(format!("{}:credits:{hash:016x}", self.prefix))
    }

    async fn add(self, bookings: Vec<Booking>) -> Result<Vec<Balance>, Outage> {
        // A process that has just started waits for its first connection, since only Redis knows the units spent
        // before.
        if self.guard.generation() == 0 {
            let mut connects = self.guard.connects();
            // If none is established in time, this is an outage.
            drop(tokio::time::timeout(FIRST_CONNECT_TIMEOUT, connects.wait_for(|made| *made > 0)).await);
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
                        add.cmd("PEXPIREAT").arg(name).arg(expires_at_ms(booking)).ignore();
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

/// Returns the expiry of a window's key, in milliseconds since 1970.
fn expires_at_ms(booking: &Booking) -> u64 {
    let expires_at_ms = booking.ends.checked_add(RETENTION).unwrap_or(booking.ends);
    let since = expires_at_ms.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
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
