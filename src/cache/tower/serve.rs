//! What happens when the store has no fresh answer: lead, wait, or go alone.
//!
//! A leader's fetch runs in a task of its own, so that a client that leaves cancels nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{Either, select};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use super::fetch::{CacheResult, FetchJob, fetch};
use super::lookup::{Lookup, LookupResult, LookupStep};
use super::origin::Origin;
use super::shared::{CacheRequest, CacheShared};
use super::stats::{RouteCounters, answered, count};
use super::{partial, respond};
use crate::base::body::{Body, BodyError, Stream};
use crate::base::clock::Timestamp;
use crate::base::detached_context::{CacheNote, carry};
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

/// A body of unknown length is waited for at least as long, even where its route usually takes less.
const LEAST_WAIT: Duration = Duration::from_millis(50);

/// Looks up to the end, then does what was found demands.
pub(crate) async fn run<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    search: Lookup,
) -> CacheResult<O::Body, O::Error> {
    let (variant, found) = look(&job.core, &job.ask, job.request.headers(), search).await;
    handle_lookup(job, variant, found).await
}

async fn look(
    core: &CacheShared,
    ask: &CacheRequest,
    headers: &HeaderMap,
    mut search: Lookup,
) -> (Option<Box<CacheKey>>, LookupResult) {
    loop {
        let answer = search.answer.await;
        match core.step(ask, headers, search.asked, answer, core.clock.now()) {
            LookupStep::Next(next) => search = next,
            LookupStep::Done(variant, found) => return (variant, found),
        }
    }
}

/// Acts on what was found; requests share a fetch by `variant`, or by the primary key.
pub(crate) async fn handle_lookup<O: Origin<B>, B: Send + 'static>(
    mut job: FetchJob<O, B>,
    variant: Option<Box<CacheKey>>,
    found: LookupResult,
) -> CacheResult<O::Body, O::Error> {
    let key = variant.map_or_else(|| job.ask.key.clone(), |variant| *variant);
    let now = job.core.clock.now();
    match found {
        LookupResult::Entry(entry, _) if !respond::holds(&entry, job.asker()) => {
            job.forward = Forward::Partial;
            if now < entry.meta.deadlines.fresh_until && partial::is_beginning(&entry) {
                job.beginning = Some(entry);
            }
        }
        LookupResult::Entry(entry, Freshness::Fresh) => return Ok(hit(&job, &entry)),
        LookupResult::Entry(entry, Freshness::RefreshAhead) => {
            let response = hit(&job, &entry);
            refresh(job, &key, entry);
            return Ok(response);
        }
        LookupResult::Entry(entry, Freshness::BudgetStretched) => {
            job.core.counters.avoided(entry.meta.took);
            job.ask.route.bypass(Reason::Budget);
            return Ok(stale(&job, &entry, Report { detail: Some(Reason::Budget), ..Report::default() }));
        }
        LookupResult::Entry(entry, Freshness::StaleWhileRevalidate) => {
            let response = stale(&job, &entry, Report::default());
            job.core.counters.avoided(entry.meta.took);
            refresh(job, &key, entry);
            return Ok(response);
        }
        LookupResult::Entry(entry, _) => {
            let fresh = now < entry.meta.deadlines.fresh_until;
            job.forward = if fresh { Forward::Request } else { Forward::Stale };
            job.stale = Some(entry);
        }
        LookupResult::Nothing(forward) => job.forward = forward,
    }
    if job.ask.directives.as_ref().is_some_and(|directives| directives.only_if_cached) {
        job.ask.route.bypass(Reason::OnlyIfCached);
        return Ok(respond::not_cached(&job.core, &job.ask.key, job.forward));
    }
    // A HEAD has no body to share, a part is no answer to others, and a client's own condition is the origin's to
    // judge where nothing is stored (profile `shared`): these go by themselves.
    let shared = job.core.settings.profile == Profile::Shared;
    let own_condition = shared && job.stale.is_none() && job.ask.flags.has(RequestFlags::CONDITION);
    let revalidatable = |entry: &Arc<Entry>| entry.partial.is_none() && validators::has_validator(&entry.meta.headers);
    let own_part = job.ask.wants_part() && !job.stale.as_ref().is_some_and(revalidatable);
    if job.ask.head_only || own_part || own_condition {
        job.unchanged = true;
        return bypass(job, None).await;
    }
    if job.core.hit_for_miss.is_marked(&job.ask.key, job.core.clock.now()) {
        return bypass(job, Some(Reason::HitForMiss)).await;
    }
    together(job, key).await
}

/// Leads a flight, or waits for one.
async fn together<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    mut key: CacheKey,
) -> CacheResult<O::Body, O::Error> {
    let core = job.core.clone();
    let arrived = core.clock.now();
    let mut deadline = std::pin::pin!(tokio::time::sleep(core.settings.wait));
    loop {
        let mut waiter = match join(&core, &job.ask, &key) {
            Role::Lead(lead) => {
                return match landed(&job) {
                    Some(entry) => Ok(hit(&job, &entry)),
                    None => in_a_task(job, lead).await,
                };
            }
            Role::Wait(waiter) => waiter,
        };
        let decided = {
            let decided = std::pin::pin!(waiter.wait_for_progress());
            match select(decided, deadline.as_mut()).await {
                Either::Left((progress, _)) => progress.ok_or(Reason::FlightFailed),
                Either::Right(_) => Err(Reason::WaitedTooLong),
            }
        };
        let progress = match decided {
            Ok(progress) => progress,
            Err(reason) => return a_few_at_a_time(job, waiter, reason).await,
        };
        match progress {
            FetchProgress::NotShareable => return bypass(job, Some(Reason::HitForMiss)).await,
            FetchProgress::Streaming(live) if suits(&job, &live, arrived) => {
                let share = shared(&core, &job.ask.route, &live.tee, deadline.as_mut()).await;
                match share {
                    // Its head may have been invalidated while its body was waited for.
                    Ok(ShareState::Ready) if is_new_enough(&job, &live.meta, arrived) => {
                        return Ok(share_live(job, &live));
                    }
                    Ok(ShareState::Ready) => return bypass(job, Some(Reason::FlightFailed)).await,
                    // No one else waits for it: who comes next fetches anew, for all who come after.
                    Ok(ShareState::Stalled) => core.fetches.remove(&key, Some(&waiter)),
                    Ok(ShareState::TooLarge) => return bypass(job, Some(Reason::TooLarge)).await,
                    Ok(ShareState::Failed) => return a_few_at_a_time(job, waiter, Reason::FlightFailed).await,
                    Err(reason) => return a_few_at_a_time(job, waiter, reason).await,
                }
            }
            FetchProgress::Stored(entry) if is_new_enough(&job, &entry.meta, arrived) => {
                return Ok(share_stored(&job, &entry));
            }
            // It varies on something this request does not share: fetch with those that do.
            FetchProgress::Streaming(live) if !live.names.is_empty() => {
                let selection = vary::selection(&live.names, job.request.headers(), core.settings.profile);
                let own = job.ask.key.variant(&selection);
                if own == key {
                    return bypass(job, Some(Reason::FlightFailed)).await;
                }
                key = own;
            }
            // Its head came before this request, and is too old for it by now.
            FetchProgress::Streaming(_) | FetchProgress::Stored(_) => {
                return bypass(job, Some(Reason::FlightFailed)).await;
            }
        }
    }
}

/// Waits until a body that is arriving can be read by this request. One of unknown length is read when it is complete: that
/// is waited for as long as a whole fetch of the route usually takes.
///
/// # Errors
/// [`Reason::WaitedTooLong`].
async fn shared(
    core: &CacheShared,
    route: &RouteCounters,
    tee: &Tee,
    deadline: Pin<&mut tokio::time::Sleep>,
) -> Result<ShareState, Reason> {
    let wait = core.settings.wait;
    let usual = route.took.p95().map_or(wait, |usual| usual.clamp(LEAST_WAIT.min(wait), wait));
    let share = std::pin::pin!(tokio::time::timeout(usual, tee.shared()));
    match select(share, deadline).await {
        Either::Left((Ok(share), _)) => Ok(share),
        Either::Left((Err(_), _)) | Either::Right(_) => Err(Reason::WaitedTooLong),
    }
}

/// A flight that landed between this request's look-up and its turn to lead has brought what it would fetch.
fn landed<O, B>(job: &FetchJob<O, B>) -> Option<Arc<Entry>> {
    job.core.landed(&job.ask, job.request.headers()).filter(|entry| respond::holds(entry, job.asker()))
}

fn join(core: &Arc<CacheShared>, ask: &CacheRequest, key: &CacheKey) -> Role {
    core.fetches.join_or_lead(key, core.barriers.generation(), |began| core.is_void(&ask.key, began))
}

/// The answer from a fresh entry.
fn hit<O, B, I>(job: &FetchJob<O, B>, entry: &Entry) -> Response<Body<I>> {
    answered(&job.ask.route.hits, CacheNote::Hit);
    job.core.counters.avoided(entry.meta.took);
    job.core.useful(&job.ask.rule);
    respond::stored(&job.core, entry, job.asker(), job.core.clock.now(), Report::default())
}

/// The answer from a stale entry.
fn stale<O, B, I>(job: &FetchJob<O, B>, entry: &Entry, report: Report) -> Response<Body<I>> {
    answered(&job.ask.route.stale, CacheNote::Stale);
    respond::stored(&job.core, entry, job.asker(), job.core.clock.now(), report)
}

/// Lets one request refresh an entry in the background, while all are served from it (RFC 5861 §3).
fn refresh<O: Origin<B>, B: Send + 'static>(mut job: FetchJob<O, B>, key: &CacheKey, entry: Arc<Entry>) {
    let core = job.core.clone();
    // Neither a HEAD nor a part refreshes a body; the next GET does.
    if job.ask.head_only || job.ask.wants_part() {
        return;
    }
    if let Role::Lead(lead) = join(&core, &job.ask, key) {
        if landed(&job).is_some_and(|renewed| renewed.meta.stored_at > entry.meta.stored_at) {
            return;
        }
        let Some(slot) = core.refreshes.try_acquire() else { return };
        job.forward = Forward::Stale;
        let key = key.clone();
        detach(async move {
            if core.is_renewed_elsewhere(&key, &entry, &lead).await {
                return;
            }
            job.stale = Some(entry);
            // No client waits for its head: one that does not come is given up.
            let fetched = tokio::time::timeout(core.settings.idle, fetch(job, Some(lead), None)).await;
            if let Ok((_, Some(rest))) = fetched {
                rest.await;
            }
            drop(slot);
        });
    }
}

/// Waits for a turn, looks once more, and goes alone: after a failure the inner service is not stormed.
async fn a_few_at_a_time<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    waiter: Follower,
    reason: Reason,
) -> CacheResult<O::Body, O::Error> {
    let core = job.core.clone();
    let now = core.clock.now();
    if let Some(entry) = job.stale.as_ref().filter(|entry| job.ask.accepts_instead_of(None, &entry.meta, now)) {
        let report = Report { detail: Some(reason), ..Report::forward(job.forward) };
        return Ok(stale(&job, entry, report));
    }
    let turn = tokio::time::timeout(core.settings.wait, waiter.fallback_permits.acquire()).await;
    // Whoever went before may have stored an answer meanwhile.
    let search = core.search(&job.ask.key, now);
    if let (_, LookupResult::Entry(entry, Freshness::Fresh)) =
        look(&core, &job.ask, job.request.headers(), search).await
    {
        return Ok(hit(&job, &entry));
    }
    let answer = bypass(job, Some(reason)).await;
    drop(turn);
    answer
}

/// Fetches for this request only; a client that leaves takes its fetch along.
async fn bypass<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    reason: Option<Reason>,
) -> CacheResult<O::Body, O::Error> {
    if let Some(reason) = reason {
        job.ask.route.bypass(reason);
    }
    let (answer, rest) = fetch(job, None, reason).await;
    if let Some(rest) = rest {
        detach(rest);
    }
    answer
}

/// Looks only: the inner service answers, whatever is found; what is not found is stored.
pub(crate) async fn shadow<O: Origin<B>, B: Send + 'static>(mut job: FetchJob<O, B>) -> CacheResult<O::Body, O::Error> {
    (job.unchanged, job.is_shadow) = (true, true);
    let search = job.core.search(&job.ask.key, job.core.clock.now());
    if let (_, LookupResult::Entry(entry, freshness)) = look(&job.core, &job.ask, job.request.headers(), search).await
        && !matches!(freshness, Freshness::Stale { .. })
        && respond::holds(&entry, job.asker())
    {
        count(&job.ask.route.shadowed);
        job.core.counters.called();
        return job.origin.fetch(job.request).await;
    }
    bypass(job, None).await
}

/// A POST: never looked up, never shared; its answer invalidates, and may serve a later GET.
pub(crate) async fn post<O: Origin<B>, B: Send + 'static>(mut job: FetchJob<O, B>) -> CacheResult<O::Body, O::Error> {
    job.unchanged = true;
    bypass(job, None).await
}

/// Fetches in a task of its own. A panic of the inner service goes on where it would have been without this layer.
async fn in_a_task<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    lead: Leader,
) -> CacheResult<O::Body, O::Error> {
    let core = job.core.clone();
    let task = tokio::spawn(carry(async move {
        let (answer, rest) = fetch(job, Some(lead), None).await;
        if let Some(rest) = rest {
            detach(rest);
        }
        answer
    }));
    match (Outliving { task: Some(task), core }).await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// A fetch that may outlive its client: until the idle deadline, and while few do.
struct Outliving<T: Send + 'static> {
    task: Option<JoinHandle<T>>,
    core: Arc<CacheShared>,
}

impl<T: Send + 'static> Future for Outliving<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = &mut self.task else { return Poll::Pending };
        let done = ready!(Pin::new(task).poll(cx));
        self.task = None;
        Poll::Ready(done)
    }
}

impl<T: Send + 'static> Drop for Outliving<T> {
    fn drop(&mut self) {
        let Some(mut task) = self.task.take() else { return };
        match (self.core.orphans.try_acquire(), Handle::try_current()) {
            (Some(slot), Ok(runtime)) => {
                let idle = self.core.settings.idle;
                runtime.spawn(async move {
                    if tokio::time::timeout(idle, &mut task).await.is_err() {
                        task.abort();
                    }
                    drop(slot);
                });
            }
            _ => task.abort(),
        }
    }
}

fn detach(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(carry(work));
}

/// Whether an answer with this head may be shared: nobody invalidated it, and it is either younger than the request,
/// or may be used for it as if it were stored already. (RFC 9111 §4: collapsing needs permission to reuse.)
fn is_new_enough<O, B>(job: &FetchJob<O, B>, meta: &StoredHead, arrived: Timestamp) -> bool {
    let now = job.core.clock.now();
    if job.core.barriers.check(&job.ask.key, meta) != Validity::Valid || job.core.is_lifted(&job.ask, meta) {
        return false;
    }
    let freshness = match &job.ask.directives {
        Some(directives) => {
            client_directives::apply_client_directives(policy::freshness(&meta.deadlines, now), meta, directives, now)
        }
        None => policy::freshness(&meta.deadlines, now),
    };
    arrived <= meta.stored_at || matches!(freshness, Freshness::Fresh | Freshness::RefreshAhead)
}

/// Whether an answer that is still arriving is for requests like this one.
fn suits<O, B>(job: &FetchJob<O, B>, live: &StreamingResponse, arrived: Timestamp) -> bool {
    let headers = job.request.headers();
    is_new_enough(job, &live.meta, arrived)
        && *live.selection == *vary::selection(&live.names, headers, job.core.settings.profile)
        && (live.names.is_empty() || vary::is_readable(&live.meta.headers, headers))
}

/// The answer for a waiter from a body that is still arriving.
fn share_live<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    live: &StreamingResponse,
) -> Response<Body<O::Body>> {
    let core = job.core.clone();
    answered(&job.ask.route.collapsed, CacheNote::Collapsed);
    core.counters.avoided(live.meta.took);
    let report = Report { collapsed: true, ..Report::forward(job.forward) };
    let now = core.clock.now();
    let mut response = respond::from_meta(&core, &live.meta, Body::empty(), &job.ask.key, job.asker(), now, report);
    if response.status() != StatusCode::NOT_MODIFIED {
        let etag = live.meta.headers.get(header::ETAG).filter(|etag| validators::is_strong(etag)).cloned();
        let resume =
            etag.map(|etag| Box::new(move |sent| Box::pin(rest(job, etag, sent)) as BoxFuture<_>) as FetchRest);
        *response.body_mut() = Body::stream(Box::pin(live.tee.follower(resume)));
    }
    response
}

/// The bytes of the same representation after the first `sent`, fetched by a request of this client's own.
async fn rest<O: Origin<B>, B: Send + 'static>(job: FetchJob<O, B>, etag: HeaderValue, sent: u64) -> Option<Stream> {
    let FetchJob { core, origin, mut request, .. } = job;
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

/// The answer for a waiter from an entry that was revalidated while it waited.
fn share_stored<O, B, I>(job: &FetchJob<O, B>, entry: &Entry) -> Response<Body<I>> {
    let core = &job.core;
    answered(&job.ask.route.collapsed, CacheNote::Collapsed);
    core.counters.avoided(entry.meta.took);
    let report = Report { collapsed: true, ..Report::forward(job.forward) };
    respond::stored(core, entry, job.asker(), core.clock.now(), report)
}
