//! Records of a fleet in Redis: one hash per kind. Each value begins with its expiry in milliseconds since 1970, as 15 digits.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, cmd};

use super::connect::Conn;
use super::settings::Redis;
use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::resilience::guard::{FailOpen, Fault};
use crate::store::fleet_records::port::{FleetRecord, FleetRecords, MAX_RECORD_BYTES, MAX_RECORDS, refused};

/// Removes what has expired; then writes field `ARGV[1]` for `ARGV[3]` milliseconds, unless there are `ARGV[4]`, or without
/// arguments returns all fields with their remaining milliseconds.
const SCRIPT: &str = "local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local found, n = {}, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local left = tonumber(string.sub(all[i + 1], 1, 15)) - now
  if left <= 0 then
    redis.call('HDEL', KEYS[1], all[i])
  else
    n = n + 1
    if all[i] == ARGV[1] then n = n - 1 end
    if not ARGV[1] then
      found[#found + 1] = all[i]
      found[#found + 1] = string.sub(all[i + 1], 16)
      found[#found + 1] = left
    end
  end
end
if not ARGV[1] then return found end
if n >= tonumber(ARGV[4]) then return 0 end
return redis.call('HSET', KEYS[1], ARGV[1], string.format('%015d', now + ARGV[3]) .. ARGV[2]) + 1";

/// Writes field `ARGV[1]` for `ARGV[3]` milliseconds if it has the contents `ARGV[4]`, or if it is missing and there is none.
#[cfg(feature = "jobs")]
const REPLACE: &str = "local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and tonumber(string.sub(known, 1, 15)) <= now then known = nil end
if not known and ARGV[4] or known and string.sub(known, 16) ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%015d', now + ARGV[3]) .. ARGV[2])
return 1";

/// Hashes of records, behind a guard of their own.
pub(crate) struct RecordHashes {
    guard: FailOpen<Conn>,
    prefix: Arc<str>,
}

impl RecordHashes {
    pub(crate) fn new(redis: &Redis) -> Self {
        Self { guard: redis.guard_records(), prefix: redis.prefix.as_str().into() }
    }

    fn script(&self, kind: &'static str) -> Cmd {
        let mut script = cmd("EVAL");
        script.arg(SCRIPT).arg(1).arg(self.key(kind));
        script
    }

    fn key(&self, kind: &'static str) -> String {
        format!("{}:records:{kind}", self.prefix)
    }

    fn call<T: redis::FromRedisValue + Send + 'static>(
        &self,
        kind: &'static str,
        command: Cmd,
    ) -> BoxFuture<Result<T, Error>> {
        let guard = self.guard.clone();
        Box::pin(async move {
            guard.first_connection().await;
            let replied = guard.call(async |mut connection: Conn| connection.query::<T>(&command).await).await;
            replied.map_err(|outage| Error::outage(kind, outage))
        })
    }
}

impl FleetRecords for RecordHashes {
    fn put(&self, kind: &'static str, record: FleetRecord) -> BoxFuture<Result<(), Error>> {
        if record.contents.len() > MAX_RECORD_BYTES {
            return Box::pin(std::future::ready(Err(refused(kind))));
        }
        let mut script = self.script(kind);
        script.arg(record.name).arg(record.contents).arg(left(record.left)).arg(MAX_RECORDS);
        let reply = self.call::<u64>(kind, script);
        Box::pin(async move { if reply.await? == 0 { Err(refused(kind)) } else { Ok(()) } })
    }

    #[cfg(feature = "jobs")]
    fn replace(
        &self,
        kind: &'static str,
        record: FleetRecord,
        expected: Option<Vec<u8>>,
    ) -> BoxFuture<Result<bool, Error>> {
        let mut script = cmd("EVAL");
        script.arg(REPLACE).arg(1).arg(self.key(kind)).arg(record.name).arg(record.contents).arg(left(record.left));
        if let Some(expected) = expected {
            script.arg(expected);
        }
        let reply = self.call::<u64>(kind, script);
        Box::pin(async move { Ok(reply.await? == 1) })
    }

    fn remove(&self, kind: &'static str, name: &str) -> BoxFuture<Result<(), Error>> {
        let mut remove = cmd("HDEL");
        remove.arg(self.key(kind)).arg(name);
        let removed = self.call::<u64>(kind, remove);
        Box::pin(async move { removed.await.map(drop) })
    }

    fn list(&self, kind: &'static str) -> BoxFuture<Result<Vec<FleetRecord>, Error>> {
        let found = self.call::<Vec<redis::Value>>(kind, self.script(kind));
        Box::pin(async move { decode(&found.await?).map_err(Fault::into_error) })
    }
}

/// Returns milliseconds, at most three thousand years.
fn left(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).min(100_000_000_000_000)
}

fn decode(found: &[redis::Value]) -> Result<Vec<FleetRecord>, Fault> {
    let value = |error: redis::ParsingError| Fault::Refused(Error::store("redis: unreadable records", error));
    let record = |fields: &[redis::Value]| {
        let name = redis::from_redis_value(fields[0].clone()).map_err(value)?;
        let contents = redis::from_redis_value(fields[1].clone()).map_err(value)?;
        let left = Duration::from_millis(redis::from_redis_value(fields[2].clone()).map_err(value)?);
        Ok(FleetRecord { name, contents, left })
    };
    found.chunks_exact(3).map(record).collect()
}
