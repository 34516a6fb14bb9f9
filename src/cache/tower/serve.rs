//! Serving after a look-up: lead a fetch, wait for one, or fetch without sharing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::completion::Beginning;
use super::empty_body::empty_body;
use super::fetch::{CacheResult, FetchJob, RefreshFailed, fetch};
use super::fetch_progress::FetchProgress;
use super::follow::FollowingRequest;
use super::lead::{fetch_without_sharing, join_or_lead, lead_unless_completed};
use super::lookup::{Lookup, LookupResult};
use super::next_step::NextStep;
use super::origin::Origin;
use super::serve_stored::{complete_lookup, completed_meanwhile, hit, stale};
use super::soft_timeout::StaleFallback;
use super::stats::count;
use super::{partial, respond};
use crate::base::clock::Timestamp;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::engine::coalesce::caller;
use crate::cache::engine::coalesce::table::Role;
use crate::cache::engine::record::{Entry, Stored};
use crate::cache::engine::refresh::Refresh;
use crate::cache::http::cache_status::{Forward, Report};
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::Freshness;
use crate::cache::http::reason::Reason;
use crate::cache::http::request_flags::RequestFlags;
use crate::cache::http::settings::Profile;
use crate::cache::http::validators;

/// Completes the look-up and acts on its result.
pub(super) async fn run<O: Origin<B>, B: Send + 'static>(
    mut job: FetchJob<O, B>,
    search: Lookup,
) -> CacheResult<O::Body, O::Error> {
    job.asked = search.asked.clone();
    let (variant, found) = complete_lookup(&job.core, &job.params, job.request.headers(), search).await;
    handle_lookup(job, variant, found).finish().await
}

/// Acts on the result of a look-up; requests coalesce by `variant`, or by the primary key.
pub(super) fn handle_lookup<O: Origin<B>, B: Send + 'static>(
    mut job: FetchJob<O, B>,
    variant: Option<Box<CacheKey>>,
    found: LookupResult,
) -> NextStep<CacheResult<O::Body, O::Error>> {
    let key = variant.map_or_else(|| job.params.key.clone(), |variant| *variant);
    let now = job.core.clock.now();
    match found {
        LookupResult::Entry(entry, _) if !respond::satisfies(&entry, job.view()) => {
            job.forward = Forward::Partial;
            if now < entry.meta.deadlines.fresh_until && partial::is_beginning(&entry) {
                let empty_body = empty_body(job.core.empty_body.as_ref());
                job.beginning = empty_body.map(|empty_body| Beginning { entry, empty_body });
            }
        }
        LookupResult::Entry(entry, Freshness::Fresh) => return NextStep::Respond(Ok(hit(&job, &entry))),
        LookupResult::Entry(entry, Freshness::RefreshAhead) => {
            let response = hit(&job, &entry);
            refresh(Box::new(job), &key, entry);
            return NextStep::Respond(Ok(response));
        }
        LookupResult::Entry(entry, Freshness::BudgetStretched) => {
            job.core.counters.avoided(entry.meta.took);
            job.params.route.bypass(Reason::Budget);
            let report = Report { detail: Some(Reason::Budget), ..Report::default() };
            return NextStep::Respond(Ok(stale(&job, &entry, report)));
        }
        LookupResult::Entry(entry, Freshness::StaleWhileRevalidate) => {
            let response = stale(&job, &entry, Report::default());
            job.core.counters.avoided(entry.meta.took);
            refresh(Box::new(job), &key, entry);
            return NextStep::Respond(Ok(response));
        }
        LookupResult::Entry(entry, _) => {
            let fresh = now < entry.meta.deadlines.fresh_until;
            job.forward = if fresh { Forward::Request } else { Forward::Stale };
            job.stale = Some(entry);
        }
        LookupResult::Miss(forward) => job.forward = forward,
        LookupResult::Invalidated(forward) => (job.forward, job.is_refetch) = (forward, true),
    }
    if job.params.directives.as_ref().is_some_and(|directives| directives.only_if_cached) {
        job.params.route.bypass(Reason::OnlyIfCached);
        return NextStep::Respond(Ok(respond::gateway_timeout(&job.core, &job.params.key, job.forward)));
    }
    match StaleFallback::of(&job) {
        Some(fallback) => fallback.unless(start_fetch(job, &key, now)),
        None => start_fetch(job, &key, now),
    }
}

/// Fetches for this request alone, leads a fetch, or follows one.
fn start_fetch<O: Origin<B>, B: Send + 'static>(
    mut job: FetchJob<O, B>,
    key: &CacheKey,
    now: Timestamp,
) -> NextStep<CacheResult<O::Body, O::Error>> {
    // A HEAD response has no body to share, a part is no response for others, and the origin evaluates a client's
    // conditions if nothing is stored (profile `shared`): these fetch without sharing.
    let shared = job.core.settings.profile == Profile::Shared;
    let own_condition = shared && job.stale.is_none() && job.params.flags.has(RequestFlags::CONDITION);
    let revalidatable = |entry: &Arc<Entry>| entry.partial.is_none() && validators::has_validator(&entry.meta.headers);
    let own_part = job.params.wants_part() && !job.stale.as_ref().is_some_and(revalidatable);
    if job.params.head_only || own_part || own_condition {
        job.unchanged = true;
        return NextStep::Unshared(fetch_without_sharing(job, None));
    }
    if job.stale.is_none()
        && job.beginning.is_none()
        && job.forward == Forward::UriMiss
        && job.core.is_uncovered(&job.params, now)
    {
        job.unchanged = true;
        return NextStep::Unshared(fetch_without_sharing(job, None));
    }
    if job.core.hit_for_miss.is_marked(&job.params.key, job.core.clock.now()) {
        return NextStep::Unshared(fetch_without_sharing(job, Some(Reason::HitForMiss)));
    }
    match join_or_lead(&job.core, &job.params, key) {
        Role::Lead(leader) => lead_unless_completed(job, leader),
        Role::Wait(follower) => {
            let (caller, deadlines) = FollowingRequest::new(job, key);
            NextStep::Wait(Box::pin(caller::follow(caller, follower, deadlines)))
        }
        Role::Alone(gate) => {
            let (caller, deadlines) = FollowingRequest::new(job, key);
            NextStep::Wait(Box::pin(caller::go_alone(caller, gate, Reason::WaitedTooLong, deadlines)))
        }
    }
}

/// Refreshes an entry in the background while it is served, at most once at a time (RFC 5861 §3).
fn refresh<O: Origin<B>, B: Send + 'static>(mut job: Box<FetchJob<O, B>>, key: &CacheKey, entry: Arc<Entry>) {
    let core = job.core.clone();
    // Neither a HEAD nor a part refreshes a body; the next GET does.
    if job.params.head_only || job.params.wants_part() {
        return;
    }
    let engine = core.engine();
    if !engine.may_refresh(&job.params.key, core.clock.now()) {
        return;
    }
    let Role::Lead(leader) = join_or_lead(&core, &job.params, key) else { return };
    if completed_meanwhile(&job).is_some_and(|newer| newer.meta.stored_at > entry.meta.stored_at) {
        return;
    }
    let refresh_failed = RefreshFailed::default();
    (job.forward, job.refresh) = (Forward::Stale, Some(refresh_failed.clone()));
    // The lease lasts as long as requests wait for a fetch in this process.
    let (lease, publish) = (core.settings.wait, FetchProgress::of as fn(Stored) -> _);
    let refresh = Refresh { key: job.params.key.clone(), old: Stored::Entry(entry.clone()), leader, lease, publish };
    engine.refresh(refresh, move |leader| async move {
        job.stale = Some(entry);
        // A refresh without a head by the idle timeout is aborted.
        let fetched = Box::pin(fetch(*job, Some(leader), None));
        let Ok(fetched) = tokio::time::timeout(core.settings.idle, fetched).await else { return false };
        // No client reads the response: a body that stalls is aborted by the idle timeout.
        drop(fetched.response);
        if let Some(rest) = fetched.rest {
            rest.await;
        }
        !fetched.failed && !refresh_failed.load(Ordering::Relaxed)
    });
}

/// Shadow mode: responds with the inner service's response, and stores it on a miss.
pub(super) fn shadow<O: Origin<B>, B: Send + 'static>(
    mut job: Box<FetchJob<O, B>>,
) -> BoxFuture<CacheResult<O::Body, O::Error>> {
    Box::pin(async move {
        (job.unchanged, job.is_shadow) = (true, true);
        let search = job.core.start_lookup(&job.params, job.core.clock.now());
        if let (_, LookupResult::Entry(entry, freshness)) =
            complete_lookup(&job.core, &job.params, job.request.headers(), search).await
            && !matches!(freshness, Freshness::Stale { .. })
            && respond::satisfies(&entry, job.view())
        {
            count(&job.params.route.shadowed);
            job.core.counters.called();
            let FetchJob { origin, request, .. } = *job;
            return origin.fetch(request).await;
        }
        fetch_without_sharing(*job, None).await
    })
}

/// POST: never looked up, never shared; its response invalidates, and may be stored for later GETs.
pub(super) fn post<O: Origin<B>, B: Send + 'static>(
    mut job: Box<FetchJob<O, B>>,
) -> BoxFuture<CacheResult<O::Body, O::Error>> {
    Box::pin(async move {
        job.unchanged = true;
        fetch_without_sharing(*job, None).await
    })
}
