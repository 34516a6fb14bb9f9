//! Credits of upstreams in Redis: one hash per upstream and window, with the booked and the returned units.

use std::sync::Arc;

use redis::pipe;

use super::connect::Conn;
use super::settings::Redis;
use crate::base::error::Error;
use crate::resilience::guard::Fault;
use crate::store::remote_credits::engine::{CreditBackend, NamedBooking};
use crate::store::remote_credits::handle::RemoteCredits;
use crate::upstream::Balance;

impl RemoteCredits {
    /// Creates a credit store in Redis; connects on first use, and does not fail while Redis is down.
    ///
    /// # Errors
    /// If a setting is invalid.
    ///
    /// # Examples
    /// ```
    /// use tollgate::store::RemoteCredits;
    /// use tollgate::store::redis::Redis;
    ///
    /// let credits = RemoteCredits::redis(&Redis::new("redis://127.0.0.1")?)?;
    /// # let _ = credits;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn redis(redis: &Redis) -> Result<Self, Error> {
        redis.check()?;
        let (guard, secret) = redis.guard_credits();
        Ok(Self::new(RedisHashes { prefix: redis.prefix.as_str().into() }, guard, secret))
    }
}

struct RedisHashes {
    prefix: Arc<str>,
}

impl CreditBackend for RedisHashes {
    type Connection = Conn;

    async fn book(&self, connection: Conn, bookings: &[NamedBooking]) -> Result<Vec<Balance>, Fault> {
        let booked = bookings.iter().map(|named| {
            let mut connection = connection.clone();
            async move {
                let (name, credits) = (format!("{}:credits:{:016x}", self.prefix, named.name), named.booking.credits);
                let field = if credits < 0 { "returned" } else { "booked" };
                let mut add = pipe();
                add.cmd("HINCRBY").arg(&name).arg(field).arg(credits.unsigned_abs()).ignore();
                add.cmd("PEXPIREAT").arg(&name).arg(named.expires_at_ms()).ignore();
                add.cmd("HMGET").arg(&name).arg("booked").arg("returned");
                let ((booked, returned),): ((Option<u64>, Option<u64>),) = connection.query_all(&add).await?;
                Ok(Balance { booked: booked.unwrap_or(0), returned: returned.unwrap_or(0) })
            }
        });
        futures_util::future::try_join_all(booked).await
    }
}
