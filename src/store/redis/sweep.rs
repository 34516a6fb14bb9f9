//! Removal of entries by URL pattern, found by `SCAN` in bounded steps. `KEYS`, which blocks the server, is never used.

use std::future::Future;
use std::time::Duration;

use redis::cmd;

use super::backplane::Backplane;
use super::connect::{Conn, Primary};
use crate::base::clock::runtime_now;
use crate::base::error::Error;
use crate::base::outage::Outage;
use crate::cache::CacheKey;
use crate::cache::engine::codec;
use crate::cache::http::glob;
use crate::resilience::guard::Fault;

/// Approximate number of keys per step.
const STEP: usize = 128;
/// Timeout of a command, generous since the operation is administrative.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of bytes read from a value to decode its key.
const HEAD_BYTES: isize = 8 * 1024;

/// Removes the matching entries from Redis and from all processes; returns their number.
pub(super) async fn sweep(backplane: &Backplane, pattern: &str) -> Result<u64, Error> {
    let primaries = call(backplane, async |mut connection| connection.primaries().await).await.map_err(outage_error)?;
    let mut removed = 0;
    for primary in primaries {
        removed += sweep_one(backplane, &primary, pattern).await?;
    }
    Ok(removed)
}

async fn sweep_one(backplane: &Backplane, primary: &Primary, pattern: &str) -> Result<u64, Error> {
    let mut removed = 0;
    let mut cursor = 0;
    loop {
        let names: Vec<String>;
        (cursor, names) = scan_step(backplane, primary, cursor).await.map_err(outage_error)?;
        let heads = heads(backplane, &names).await.map_err(outage_error)?;
        let keys = heads.iter().map(|head| codec::decode_key(head));
        let matching: Vec<(String, CacheKey)> = names
            .into_iter()
            .zip(keys)
            .filter_map(|(name, key)| Some((name, key?)))
            .filter(|(_, key)| glob::matches_url(pattern, key))
            .collect();
        removed += unlink(backplane, &matching).await.map_err(outage_error)?;
        if cursor == 0 {
            return Ok(removed);
        }
    }
}

fn outage_error(outage: Outage) -> Error {
    Error::store(format!("cannot scan all entries: {outage}"), outage)
}

async fn call<T, Fut>(backplane: &Backplane, f: impl FnOnce(Conn) -> Fut) -> Result<T, Outage>
where
    Fut: Future<Output = Result<T, Fault>>,
{
    backplane.guard.call_by(runtime_now() + COMMAND_TIMEOUT, f).await
}

async fn scan_step(backplane: &Backplane, primary: &Primary, cursor: u64) -> Result<(u64, Vec<String>), Outage> {
    let mut scan = cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(format!("{}:entry:*", backplane.redis.prefix)).arg("COUNT").arg(STEP);
    call(backplane, async |mut connection| connection.query_at(primary, &scan).await).await
}

async fn heads(backplane: &Backplane, names: &[String]) -> Result<Vec<Vec<u8>>, Outage> {
    let reads = names.iter().map(|name| async move {
        let mut read = cmd("GETRANGE");
        read.arg(name).arg(0).arg(HEAD_BYTES);
        call(backplane, async |mut connection| connection.query(&read).await).await
    });
    // Pipelined over one connection.
    futures_util::future::try_join_all(reads).await
}

async fn unlink(backplane: &Backplane, matching: &[(String, CacheKey)]) -> Result<u64, Outage> {
    // One command per key, since each is in a slot of its own; pipelined.
    let removals = matching.iter().map(|(name, _)| async move {
        let mut unlink = cmd("UNLINK");
        unlink.arg(name);
        call::<u64, _>(backplane, async |mut connection| connection.query(&unlink).await).await
    });
    let removed = futures_util::future::try_join_all(removals).await?.iter().sum();
    for (_, key) in matching {
        backplane.publish_removal(key).await;
    }
    Ok(removed)
}
