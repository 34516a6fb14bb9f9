//! Completed look-ups, and responses from what is stored.

use std::sync::Arc;

use http::{HeaderMap, Response};

use super::fetch::FetchJob;
use super::lookup::{Lookup, LookupResult, LookupStep};
use super::respond;
use super::shared::{CacheRequest, CacheShared};
use super::stats::record_outcome;
use crate::base::body::Body;
use crate::base::detached_context::CacheNote;
use crate::cache::engine::record::Entry;
use crate::cache::http::cache_status::Report;
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::Freshness;

pub(super) async fn complete_lookup(
    core: &CacheShared,
    params: &CacheRequest,
    headers: &HeaderMap,
    mut search: Lookup,
) -> (Option<Box<CacheKey>>, LookupResult) {
    loop {
        let result = search.result.await;
        match core.step(params, headers, search.read, result, core.clock.now()) {
            LookupStep::Next(next) => search = next,
            LookupStep::Done(variant, found) => return (variant, found),
        }
    }
}

/// Looks up once more; returns a fresh entry.
pub(super) async fn find_fresh(core: &CacheShared, params: &CacheRequest, headers: &HeaderMap) -> Option<Arc<Entry>> {
    let search = core.primary_lookup(params);
    match complete_lookup(core, params, headers, search).await {
        (_, LookupResult::Entry(entry, Freshness::Fresh)) => Some(entry),
        _ => None,
    }
}

/// Returns the entry of a fetch that completed between this request's look-up and its leadership.
pub(super) fn completed_meanwhile<O, B>(job: &FetchJob<O, B>) -> Option<Arc<Entry>> {
    job.core
        .completed_meanwhile(&job.params, job.request.headers())
        .filter(|entry| respond::satisfies(entry, job.view()))
}

/// Responds with a fresh entry.
pub(super) fn hit<O, B, I>(job: &FetchJob<O, B>, entry: &Entry) -> Response<Body<I>> {
    record_outcome(&job.params.route.hits, CacheNote::Hit);
    job.core.counters.avoided(entry.meta.took);
    job.core.mark_useful(&job.params.rule);
    respond::from_entry(&job.core, entry, job.view(), job.core.clock.now(), Report::default())
}

/// Responds with a stale entry.
pub(super) fn stale<O, B, I>(job: &FetchJob<O, B>, entry: &Entry, report: Report) -> Response<Body<I>> {
    record_outcome(&job.params.route.stale, CacheNote::Stale);
    respond::from_entry(&job.core, entry, job.view(), job.core.clock.now(), report)
}
