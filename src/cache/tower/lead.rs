//! Leading: fetches for a request and those that follow it, and fetches for one request only.
//!
//! A rule with a [`lease_ttl`](crate::cache::Rule::lease_ttl) asks the store for a lease: the look-up asks if nothing is stored,
//! and storing releases it, which takes two round trips in all.

use std::sync::Arc;

use futures_util::FutureExt;

use super::fetch::{CacheResult, FetchJob, Fetched, fetch};
use super::fetch_progress::FetchProgress;
use super::next_step::NextStep;
use super::origin::Origin;
use super::respond;
use super::serve_stored::{completed_meanwhile, find_fresh, hit};
use super::shared::{CacheRequest, CacheShared};
use crate::base::maybe_ready::BoxFuture;
use crate::cache::engine::coalesce::detached_fetch::detach;
use crate::cache::engine::coalesce::table::{Leader, Role};
use crate::cache::engine::fetch_bounds::refetch_deadline;
use crate::cache::engine::fetch_permit::{FetchPermit, HeldLease, MissLease};
use crate::cache::engine::record::Stored;
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::Freshness;
use crate::cache::http::reason::Reason;

pub(super) fn join_or_lead(core: &Arc<CacheShared>, params: &CacheRequest, key: &CacheKey) -> Role<FetchProgress> {
    core.fetches.join_or_lead(key, core.barriers.generation(), |began| core.is_invalidated(&params.key, began))
}

/// Leads a fetch, unless another one completed between this request's look-up and its leadership.
pub(super) fn lead_unless_completed<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    leader: Leader<FetchProgress>,
) -> NextStep<CacheResult<O::Body, O::Error>> {
    if let Some(entry) = completed_meanwhile(&job) {
        return NextStep::Respond(Ok(hit(&job, &entry)));
    }
    let (slots, idle) = (job.core.bounds.detached.clone(), job.core.settings.idle);
    let asked = if job.core.in_process { None } else { job.asked.clone().or_else(|| job.core.miss_lease(&job.params)) };
    let fetched = match asked {
        None if !job.is_refetch => fetch_and_detach(job, Some(leader), None),
        asked => fetch_with_permit(job, leader, asked),
    };
    NextStep::Lead { fetched, slots, idle }
}

/// Fetches with a lease, unless another process stores the response meanwhile, and within the bound on fetches of what was
/// invalidated.
fn fetch_with_permit<O: Origin<B>, B: Send + 'static>(
    mut job: FetchJob<O, B>,
    leader: Leader<FetchProgress>,
    asked: Option<Arc<MissLease>>,
) -> BoxFuture<CacheResult<O::Body, O::Error>> {
    Box::pin(async move {
        let queue_until = refetch_deadline(job.core.settings.wait);
        let permit = match asked {
            Some(asked) => acquire_permit(&job.core, &job.params, &asked).await,
            None => FetchPermit::Free,
        };
        match permit {
            FetchPermit::Stored(_) => {
                let found = find_fresh(&job.core, &job.params, job.request.headers()).await;
                if let Some(entry) = found.filter(|entry| respond::satisfies(entry, job.view())) {
                    let response = hit(&job, &entry);
                    leader.publish(FetchProgress::Stored(entry));
                    return Ok(response);
                }
            }
            FetchPermit::Leased(lease) => {
                job.lease = Some(Box::new(HeldLease::new(job.core.engine(), lease)));
            }
            // Those who wait in this process fetch at once too.
            FetchPermit::Uncacheable => {
                let (core, key) = (&job.core, &job.params.key);
                core.hit_for_miss.mark(key, core.clock.now(), core.settings.hit_for_miss);
                leader.publish(FetchProgress::NotShareable);
            }
            FetchPermit::Free | FetchPermit::Held => {}
        }
        // Released when the head is there.
        let _refetch = match job.is_refetch {
            true => job.core.bounds.refetch(queue_until).await,
            false => None,
        };
        detach_rest(fetch(job, Some(leader), None).await)
    })
}

async fn acquire_permit(core: &CacheShared, params: &CacheRequest, asked: &MissLease) -> FetchPermit {
    let usable = |stored: &Stored| match stored {
        Stored::Entry(entry) => core.entry_freshness(&params.key, entry, core.clock.now()) == Freshness::Fresh,
        // A variant may be stored by now.
        Stored::Vary(_) => true,
        Stored::Value(_) => false,
    };
    asked.acquire_permit(&core.engine(), &params.key, core.settings.wait, usable).await
}

/// Fetches; the rest of the body is read in a detached task.
pub(super) fn fetch_and_detach<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    leader: Option<Leader<FetchProgress>>,
    reason: Option<Reason>,
) -> BoxFuture<CacheResult<O::Body, O::Error>> {
    Box::pin(fetch(job, leader, reason).map(detach_rest))
}

/// Returns the response; the rest of its body is read in a detached task.
pub(super) fn detach_rest<B, E>(fetched: Fetched<B, E>) -> CacheResult<B, E> {
    if let Some(rest) = fetched.rest {
        detach(rest);
    }
    fetched.response
}

/// Fetches for this request only; the fetch is cancelled with its client.
pub(super) fn fetch_without_sharing<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    reason: Option<Reason>,
) -> BoxFuture<CacheResult<O::Body, O::Error>> {
    if let Some(reason) = reason {
        job.params.route.bypass(reason);
    }
    fetch_and_detach(job, None, reason)
}
