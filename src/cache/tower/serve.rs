//! Serving after a look-up: lead a fetch, wait for one, or fetch without sharing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;

use super::completion::Beginning;
use super::detached_fetch::{detach, fetch_and_detach};
use super::empty_body::empty_body;
use super::fetch::{CacheResult, FetchJob, fetch};
use super::lookup::{Lookup, LookupResult, LookupStep};
use super::next_step::NextStep;
use super::origin::Origin;
use super::shared::{CacheRequest, CacheShared};
use super::soft_timeout::StaleFallback;
use super::stats::{RouteCounters, count, record_outcome};
use super::{partial, respond};
use crate::base::body::{Body, BodyError, Stream};
use crate::base::clock::Timestamp;
use crate::base::detached_context::CacheNote;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::body_reader::FetchRest;
use crate::cache::engine::coalesce::{FetchProgress, Follower, Leader, Role, StreamingResponse};
use crate::cache::engine::record::Entry;
use crate::cache::engine::tee::{ShareState, Tee};
use crate::cache::http::cache_status::{Forward, Report};
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::{self, Freshness};
use crate::cache::http::reason::Reason;
use crate::cache::http::request_flags::RequestFlags;
use crate::cache::http::settings::Profile;
use crate::cache::http::stored_head::StoredHead;
use crate::cache::http::{client_directives, range, validators, vary};

/// Minimum wait for a body of unknown length, even if the route's fetches usually take less.
const LEAST_WAIT: Duration = Duration::from_millis(50);

/// Completes the look-up and acts on its result.
pub(super) async fn run<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    search: Lookup,
) -> CacheResult<O::Body, O::Error> {
    let (variant, found) = complete_lookup(&job.core, &job.params, job.request.headers(), search).await;
    handle_lookup(job, variant, found).finish().await
}

async fn complete_lookup(
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
        Role::Wait(follower) => NextStep::Wait(Box::pin(follow(Box::new(job), key.clone(), follower))),
    }
}

/// Leads a fetch, unless another one completed between this request's look-up and its leadership.
fn lead_unless_completed<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    leader: Leader,
) -> NextStep<CacheResult<O::Body, O::Error>> {
    if let Some(entry) = completed_meanwhile(&job) {
        return NextStep::Respond(Ok(hit(&job, &entry)));
    }
    let core = job.core.clone();
    NextStep::Lead(fetch_and_detach(job, Some(leader), None), core)
}

/// Follows a fetch.
async fn follow<O: Origin<B>, B: Send + 'static>(
    job: Box<FetchJob<O, B>>,
    mut key: CacheKey,
    mut follower: Follower,
) -> CacheResult<O::Body, O::Error> {
    let core = job.core.clone();
    let arrived = core.clock.now();
    let mut deadline = std::pin::pin!(tokio::time::sleep(core.settings.wait));
    let mut variants = 0;
    loop {
        let outcome = {
            let outcome = std::pin::pin!(follower.wait_for_progress());
            match select(outcome, deadline.as_mut()).await {
                Either::Left((progress, _)) => progress.ok_or(Reason::FetchFailed),
                Either::Right(_) => Err(Reason::WaitedTooLong),
            }
        };
        let progress = match outcome {
            Ok(progress) => progress,
            Err(reason) => return fetch_with_fallback_permit(job, follower, reason).await,
        };
        match progress {
            FetchProgress::NotShareable => return fetch_without_sharing(*job, Some(Reason::HitForMiss)).await,
            FetchProgress::Streaming(streaming) if matches_request(&job, &streaming, arrived) => {
                let shareable = until_shareable(&core, &job.params.route, &streaming.tee, deadline.as_mut()).await;
                match shareable {
                    // The head may have been invalidated during the wait for the body.
                    Ok(ShareState::Ready) if is_new_enough(&job, &streaming.meta, arrived) => {
                        return Ok(respond_while_streaming(job, &streaming));
                    }
                    Ok(ShareState::Ready) => return fetch_without_sharing(*job, Some(Reason::FetchFailed)).await,
                    // Make room in the table for a new fetch that later requests share.
                    Ok(ShareState::Stalled) => core.fetches.remove(&key, Some(&follower)),
                    Ok(ShareState::TooLarge) => return fetch_without_sharing(*job, Some(Reason::TooLarge)).await,
                    Ok(ShareState::Failed) => {
                        return fetch_with_fallback_permit(job, follower, Reason::FetchFailed).await;
                    }
                    Err(reason) => return fetch_with_fallback_permit(job, follower, reason).await,
                }
            }
            FetchProgress::Stored(entry) if is_new_enough(&job, &entry.meta, arrived) => {
                return Ok(respond_from_revalidated(&job, &entry));
            }
            // It varies on a field in which this request differs: coalesce by the variant.
            FetchProgress::Streaming(streaming) if !streaming.names.is_empty() => {
                let selection = vary::selection(&streaming.names, job.request.headers(), core.settings.profile);
                let own = job.params.key.variant(&selection);
                // Fetches that vary on different fields may name each other's keys.
                variants += 1;
                if own == key || variants > 2 {
                    return fetch_without_sharing(*job, Some(Reason::FetchFailed)).await;
                }
                key = own;
            }
            // The head arrived before this request, and is too old for it by now.
            FetchProgress::Streaming(_) | FetchProgress::Stored(_) => {
                return fetch_without_sharing(*job, Some(Reason::FetchFailed)).await;
            }
        }
        follower = match join_or_lead(&core, &job.params, &key) {
            Role::Lead(leader) => return lead_unless_completed(*job, leader).finish().await,
            Role::Wait(next) => next,
        };
    }
}

/// Waits until followers can read a body that is arriving. A body of unknown length is readable once complete: the wait
/// is bounded by the usual duration of the route's fetches.
///
/// # Errors
/// [`Reason::WaitedTooLong`].
async fn until_shareable(
    core: &CacheShared,
    route: &RouteCounters,
    tee: &Tee,
    deadline: Pin<&mut tokio::time::Sleep>,
) -> Result<ShareState, Reason> {
    let wait = core.settings.wait;
    // A body of promised length is read as it arrives: its first byte is waited for like its head.
    let unknown = route.fetch_times.p95().filter(|_| !tee.is_promised());
    let usual = unknown.map_or(wait, |usual| usual.clamp(LEAST_WAIT.min(wait), wait));
    let shareable = std::pin::pin!(tokio::time::timeout(usual, tee.until_shareable()));
    match select(shareable, deadline).await {
        Either::Left((Ok(shareable), _)) => Ok(shareable),
        Either::Left((Err(_), _)) | Either::Right(_) => Err(Reason::WaitedTooLong),
    }
}

/// Returns the entry of a fetch that completed between this request's look-up and its leadership.
fn completed_meanwhile<O, B>(job: &FetchJob<O, B>) -> Option<Arc<Entry>> {
    job.core
        .completed_meanwhile(&job.params, job.request.headers())
        .filter(|entry| respond::satisfies(entry, job.view()))
}

fn join_or_lead(core: &Arc<CacheShared>, params: &CacheRequest, key: &CacheKey) -> Role {
    core.fetches.join_or_lead(key, core.barriers.generation(), |began| core.is_invalidated(&params.key, began))
}

/// Responds with a fresh entry.
fn hit<O, B, I>(job: &FetchJob<O, B>, entry: &Entry) -> Response<Body<I>> {
    record_outcome(&job.params.route.hits, CacheNote::Hit);
    job.core.counters.avoided(entry.meta.took);
    job.core.mark_useful(&job.params.rule);
    respond::from_entry(&job.core, entry, job.view(), job.core.clock.now(), Report::default())
}

/// Responds with a stale entry.
fn stale<O, B, I>(job: &FetchJob<O, B>, entry: &Entry, report: Report) -> Response<Body<I>> {
    record_outcome(&job.params.route.stale, CacheNote::Stale);
    respond::from_entry(&job.core, entry, job.view(), job.core.clock.now(), report)
}

/// Refreshes an entry in the background while it is served, at most once at a time (RFC 5861 §3).
fn refresh<O: Origin<B>, B: Send + 'static>(mut job: Box<FetchJob<O, B>>, key: &CacheKey, entry: Arc<Entry>) {
    let core = job.core.clone();
    // Neither a HEAD nor a part refreshes a body; the next GET does.
    if job.params.head_only || job.params.wants_part() {
        return;
    }
    if let Role::Lead(leader) = join_or_lead(&core, &job.params, key) {
        if completed_meanwhile(&job).is_some_and(|newer| newer.meta.stored_at > entry.meta.stored_at) {
            return;
        }
        let Some(slot) = core.refreshes.try_acquire() else { return };
        job.forward = Forward::Stale;
        let key = key.clone();
        detach(async move {
            if core.is_refreshed_elsewhere(&key, &entry, &leader).await {
                return;
            }
            job.stale = Some(entry);
            // A refresh without a head by the idle timeout is aborted.
            let fetched = Box::pin(fetch(*job, Some(leader), None));
            let fetched = tokio::time::timeout(core.settings.idle, fetched).await;
            if let Ok((_, Some(fetch_rest))) = fetched {
                fetch_rest.await;
            }
            drop(slot);
        });
    }
}

/// Waits for a permit, looks up once more, and fetches without sharing; permits protect a failing inner service.
async fn fetch_with_fallback_permit<O: Origin<B>, B: Send + 'static>(
    job: Box<FetchJob<O, B>>,
    follower: Follower,
    reason: Reason,
) -> CacheResult<O::Body, O::Error> {
    let core = job.core.clone();
    let now = core.clock.now();
    let is_valid = |entry: &Arc<Entry>| core.barriers.check(&job.params.key, &entry.meta) != Validity::Void;
    let usable = |entry: &&Arc<Entry>| is_valid(entry) && job.params.may_serve_stale_for(None, &entry.meta, now);
    if let Some(entry) = job.stale.as_ref().filter(usable) {
        let report = Report { detail: Some(reason), ..Report::forward(job.forward) };
        return Ok(stale(&job, entry, report));
    }
    let turn = tokio::time::timeout(core.settings.wait, follower.fallback_permits().acquire()).await;
    // A response may have been stored meanwhile.
    let search = core.start_lookup(&job.params.key, now);
    if let (_, LookupResult::Entry(entry, Freshness::Fresh)) =
        complete_lookup(&core, &job.params, job.request.headers(), search).await
    {
        return Ok(hit(&job, &entry));
    }
    let response = fetch_without_sharing(*job, Some(reason)).await;
    drop(turn);
    response
}

/// Fetches for this request only; the fetch is cancelled with its client.
fn fetch_without_sharing<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    reason: Option<Reason>,
) -> BoxFuture<CacheResult<O::Body, O::Error>> {
    if let Some(reason) = reason {
        job.params.route.bypass(reason);
    }
    fetch_and_detach(job, None, reason)
}

/// Shadow mode: responds with the inner service's response, and stores it on a miss.
pub(super) fn shadow<O: Origin<B>, B: Send + 'static>(
    mut job: Box<FetchJob<O, B>>,
) -> BoxFuture<CacheResult<O::Body, O::Error>> {
    Box::pin(async move {
        (job.unchanged, job.is_shadow) = (true, true);
        let search = job.core.start_lookup(&job.params.key, job.core.clock.now());
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

/// Whether a response with this head may be shared. It must be valid, and either younger than the request, or usable
/// from the store. (RFC 9111 §4: collapsing requires permission to reuse.)
fn is_new_enough<O, B>(job: &FetchJob<O, B>, meta: &StoredHead, arrived: Timestamp) -> bool {
    let now = job.core.clock.now();
    if job.core.barriers.check(&job.params.key, meta) != Validity::Valid
        || job.core.may_differ_with_credential(&job.params, meta)
    {
        return false;
    }
    let freshness = match &job.params.directives {
        Some(directives) => {
            client_directives::apply_client_directives(policy::freshness(&meta.deadlines, now), meta, directives, now)
        }
        None => policy::freshness(&meta.deadlines, now),
    };
    arrived <= meta.stored_at || matches!(freshness, Freshness::Fresh | Freshness::RefreshAhead)
}

/// Whether a response that is arriving matches this request.
fn matches_request<O, B>(job: &FetchJob<O, B>, streaming: &StreamingResponse, arrived: Timestamp) -> bool {
    let headers = job.request.headers();
    is_new_enough(job, &streaming.meta, arrived)
        && *streaming.selection == *vary::selection(&streaming.names, headers, job.core.settings.profile)
        && (streaming.names.is_empty() || vary::is_readable(&streaming.meta.headers, headers))
}

/// Creates a follower's response from a body that is arriving.
fn respond_while_streaming<O: Origin<B>, B: Send + 'static>(
    job: Box<FetchJob<O, B>>,
    streaming: &StreamingResponse,
) -> Response<Body<O::Body>> {
    let core = job.core.clone();
    record_outcome(&job.params.route.collapsed, CacheNote::Collapsed);
    core.counters.avoided(streaming.meta.took);
    let report = Report { collapsed: true, ..Report::forward(job.forward) };
    let now = core.clock.now();
    let mut response =
        respond::from_head(&core, &streaming.meta, Body::empty(), &job.params.key, job.view(), now, report);
    if response.status() != StatusCode::NOT_MODIFIED {
        let etag = streaming.meta.headers.get(header::ETAG).filter(|etag| validators::is_strong(etag)).cloned();
        let resume =
            etag.map(|etag| Box::new(move |sent| Box::pin(fetch_rest(job, etag, sent)) as BoxFuture<_>) as FetchRest);
        *response.body_mut() = Body::stream(Box::pin(streaming.tee.follower(resume)));
    }
    response
}

/// Fetches the representation after the first `sent` bytes by a range request of this client.
async fn fetch_rest<O: Origin<B>, B: Send + 'static>(
    job: Box<FetchJob<O, B>>,
    etag: HeaderValue,
    sent: u64,
) -> Option<Stream> {
    let FetchJob { core, origin, mut request, .. } = *job;
    validators::remove_conditions(request.headers_mut());
    let stored = HeaderMap::from_iter([(header::ETAG, etag)]);
    range::request_rest(request.headers_mut(), &stored, sent);
    core.counters.called();
    let (parts, body) = origin.fetch(request).await.ok()?.into_parts();
    let fits =
        range::content_range(&parts.headers).is_some_and(|part| part.span.start == sent && part.span.end == part.total);
    let same = validators::strongly_equal(parts.headers.get(header::ETAG), stored.get(header::ETAG));
    let whole = parts.status == StatusCode::PARTIAL_CONTENT && fits && same;
    whole.then(|| Box::pin(body.map_err(BodyError::into_inner)) as Stream)
}

/// Creates a follower's response from an entry that was revalidated meanwhile.
fn respond_from_revalidated<O, B, I>(job: &FetchJob<O, B>, entry: &Entry) -> Response<Body<I>> {
    let core = &job.core;
    record_outcome(&job.params.route.collapsed, CacheNote::Collapsed);
    core.counters.avoided(entry.meta.took);
    let report = Report { collapsed: true, ..Report::forward(job.forward) };
    respond::from_entry(core, entry, job.view(), core.clock.now(), report)
}
