//! An administrator's broom: entries whose URL is meant by a pattern, found by `SCAN` in bounded steps. `KEYS`, which
//! stops the server, is never used.

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

/// About how many names one step looks at.
const STEP: usize = 128;
/// How long one command may take: an administrator can wait, and others are served meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of an entry is read to learn its key.
const BEGINNING: isize = 8 * 1024;

/// Removes what is meant, here and in every process, and says how many.
pub(super) async fn sweep(backplane: &Backplane, pattern: &str) -> Result<u64, Error> {
    let primaries = call(backplane, async |mut connection| connection.primaries().await).await.map_err(away)?;
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
        (cursor, names) = step(backplane, primary, cursor).await.map_err(away)?;
        let beginnings = beginnings(backplane, &names).await.map_err(away)?;
        let keys = beginnings.iter().map(|beginning| codec::decode_key(beginning));
        let meant: Vec<(String, CacheKey)> = names
            .into_iter()
            .zip(keys)
            .filter_map(|(name, key)| Some((name, key?)))
            .filter(|(_, key)| glob::matches_url(pattern, key))
            .collect();
        removed += unlink(backplane, &meant).await.map_err(away)?;
        if cursor == 0 {
            return Ok(removed);
        }
    }
}

fn away(outage: Outage) -> Error {
    Error::store(format!("not all entries were looked at: {outage}"), outage)
}

async fn call<T, Fut>(backplane: &Backplane, f: impl FnOnce(Conn) -> Fut) -> Result<T, Outage>
where
    Fut: Future<Output = Result<T, Fault>>,
{
    backplane.guard.call_by(runtime_now() + PATIENCE, f).await
}

async fn step(backplane: &Backplane, primary: &Primary, cursor: u64) -> Result<(u64, Vec<String>), Outage> {
    let mut scan = cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(format!("{}:entry:*", backplane.redis.prefix)).arg("COUNT").arg(STEP);
    call(backplane, async |mut connection| connection.query_at(primary, &scan).await).await
}

async fn beginnings(backplane: &Backplane, names: &[String]) -> Result<Vec<Vec<u8>>, Outage> {
    let reads = names.iter().map(|name| async move {
        let mut read = cmd("GETRANGE");
        read.arg(name).arg(0).arg(BEGINNING);
        call(backplane, async |mut connection| connection.query(&read).await).await
    });
    // Sent together, answered in order: one connection carries them all.
    futures_util::future::try_join_all(reads).await
}

async fn unlink(backplane: &Backplane, meant: &[(String, CacheKey)]) -> Result<u64, Outage> {
    // One by one, for each lies in a slot of its own; sent together all the same.
    let removals = meant.iter().map(|(name, _)| async move {
        let mut unlink = cmd("UNLINK");
        unlink.arg(name);
        call::<u64, _>(backplane, async |mut connection| connection.query(&unlink).await).await
    });
    let removed = futures_util::future::try_join_all(removals).await?.iter().sum();
    for (_, key) in meant {
        backplane.publish_removal(key).await;
    }
    Ok(removed)
}
