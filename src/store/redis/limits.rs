//! Limits of a fleet in Redis, decided by one script.
//!
//! In a Cluster keys are spread over sixteen hash tags. Checks of one request on several tags are sent in parallel and
//! refunded if one refuses: meanwhile the charged units may cause other refusals.

mod protocol;
mod script;

use tokio::time::Instant;

use super::connect::Conn;
use super::limit_mode::LimitMode;
use super::settings::Redis;
use crate::base::error::Error;
use crate::resilience::guard::Fault;
use crate::store::remote_limits::backend::{CallReply, LimitBackend};
use crate::store::remote_limits::engine::LimitEngine;
use crate::store::remote_limits::group::CheckGroup;
use crate::store::remote_limits::handle::RemoteLimits;
use protocol::{Answers, encode};
use script::{Script, ScriptKeys};

/// Number of hash tags in a Cluster.
const TAGS: u64 = 16;

impl RemoteLimits {
    /// Creates a limit store in Redis; connects on first use, and does not fail while Redis is down.
    ///
    /// # Errors
    /// If a setting is invalid.
    ///
    /// # Examples
    /// ```
    /// use tollgate::store::RemoteLimits;
    /// use tollgate::store::redis::Redis;
    ///
    /// let store = RemoteLimits::redis(&Redis::new("redis://127.0.0.1")?)?;
    /// # let _ = store;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn redis(redis: &Redis) -> Result<Self, Error> {
        RedisScript::engine(redis).map(Self::new)
    }
}

/// Limits as one script.
struct RedisScript {
    script: Script,
    names: ScriptKeys,
    tags: u64,
}

impl RedisScript {
    fn engine(redis: &Redis) -> Result<LimitEngine<Self>, Error> {
        redis.check()?;
        let tags = if redis.address.is_cluster() { TAGS } else { 1 };
        let script = Self { script: Script::new(), names: ScriptKeys::new(&redis.prefix, tags), tags };
        let (guard, secret) = redis.guard_limits();
        let is_leased = redis.mode == LimitMode::Leased;
        Ok(LimitEngine::new(script, guard, secret, is_leased, redis.time.clone()))
    }
}

impl LimitBackend for RedisScript {
    type Connection = Conn;

    // The server processes one call while others are in transit.
    const WORKERS: usize = 4;

    fn tags(&self) -> u64 {
        self.tags
    }

    fn tag(&self, key: u64) -> u64 {
        self.names.tag(key)
    }

    async fn call(
        &self,
        connection: Conn,
        groups: &[&CheckGroup],
        now: Option<u64>,
        _by: Instant,
    ) -> Result<CallReply, Fault> {
        let values = self.script.call(connection, &self.names, &encode(groups.iter().copied()), now).await?;
        Answers::decode(&values, groups).ok_or_else(mismatched_reply)
    }
}

fn mismatched_reply() -> Fault {
    Fault::Lost(Error::store("redis: the limit script returned an unexpected reply", "does not match the request"))
}

#[cfg(test)]
mod tests;
