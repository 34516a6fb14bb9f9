//! Removal of entries by URL pattern, found by a scan in bounded steps.

use std::time::Duration;

use super::backplane::Backplane;
use crate::base::clock::runtime_now;
use crate::base::error::Error;
use crate::base::outage::Outage;
use crate::cache::CacheKey;
use crate::cache::engine::codec;
use crate::cache::http::glob;

/// Timeout of a step, generous since the operation is administrative.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// Removes the matching entries from the server and from all processes; returns their number.
pub(super) async fn sweep(backplane: &Backplane, pattern: &str) -> Result<u64, Error> {
    let prefix = format!("{}:entry:", backplane.settings.prefix);
    let (mut removed, mut cursor) = (0, None);
    loop {
        let (prefix, from) = (prefix.clone(), cursor);
        let step = backplane.call_by(runtime_now() + STEP_TIMEOUT, |bytes| bytes.scan(prefix, from));
        let page = step.await.map_err(outage_error)?;
        let keys = page.heads.into_iter().filter_map(|(name, head)| Some((name, codec::decode_key(&head)?)));
        let matching = keys.filter(|(_, key)| glob::matches_url(pattern, key)).collect();
        removed += remove(backplane, matching).await.map_err(outage_error)?;
        cursor = page.next;
        if cursor.is_none() {
            return Ok(removed);
        }
    }
}

fn outage_error(outage: Outage) -> Error {
    Error::store(format!("cannot scan all entries: {outage}"), outage)
}

async fn remove(backplane: &Backplane, matching: Vec<(String, CacheKey)>) -> Result<u64, Outage> {
    if matching.is_empty() {
        return Ok(0);
    }
    let (names, keys): (Vec<String>, Vec<CacheKey>) = matching.into_iter().unzip();
    let removed = backplane.call_by(runtime_now() + STEP_TIMEOUT, |bytes| bytes.remove(names)).await?;
    for key in &keys {
        backplane.publish_removal(key).await;
    }
    Ok(removed)
}
