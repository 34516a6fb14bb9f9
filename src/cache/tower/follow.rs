//! Following: responses to requests that share the fetch of another one.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;

use super::fetch::{CacheResult, FetchJob};
use super::fetch_progress::{FetchProgress, StreamingResponse};
use super::lead::{fetch_without_sharing, join_or_lead, lead_unless_completed};
use super::lookup::LookupResult;
use super::origin::Origin;
use super::respond;
use super::serve_stored::{complete_lookup, find_fresh, hit, stale};
use super::shared::{CacheRequest, CacheShared};
use super::stats::{RouteCounters, record_outcome};
use crate::base::body::{Body, BodyError, Stream};
use crate::base::clock::Timestamp;
use crate::base::detached_context::CacheNote;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::body_reader::FetchRest;
use crate::cache::engine::coalesce::caller::{Caller, NotShared};
use crate::cache::engine::coalesce::deadlines::FetchDeadlines;
use crate::cache::engine::coalesce::table::{Leader, Role};
use crate::cache::engine::record::Entry;
use crate::cache::engine::tee::{ShareState, Tee};
use crate::cache::http::cache_status::Report;
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::{self, Freshness};
use crate::cache::http::reason::Reason;
use crate::cache::http::stored_head::StoredHead;
use crate::cache::http::{client_directives, range, validators, vary};

/// Minimum wait for a body of unknown length, even if the route's fetches usually take less.
const LEAST_WAIT: Duration = Duration::from_millis(50);

/// A request that follows a fetch.
pub(super) struct FollowingRequest<O, B> {
    job: Box<FetchJob<O, B>>,
    /// Key by which it coalesces.
    key: CacheKey,
    arrived: Timestamp,
    /// Number of variants whose fetches it has followed.
    variants: u32,
}

impl<O, B> FollowingRequest<O, B> {
    pub(super) fn new(job: FetchJob<O, B>, key: &CacheKey) -> (Self, FetchDeadlines) {
        let deadlines = FetchDeadlines::new(None, job.core.settings.wait, None);
        let arrived = job.core.clock.now();
        (Self { job: Box::new(job), key: key.clone(), arrived, variants: 0 }, deadlines)
    }

    /// Follows the fetch of another variant from now on, unless that leads nowhere.
    fn coalesce_by(&mut self, variant: Option<CacheKey>) -> NotShared {
        // Fetches that vary on different fields may name each other's keys.
        self.variants += 1;
        match variant.filter(|own| *own != self.key && self.variants <= 2) {
            Some(own) => {
                self.key = own;
                NotShared::OtherKey
            }
            None => NotShared::NotShareable(Reason::FetchFailed),
        }
    }
}

impl<O: Origin<B>, B: Send + 'static> Caller for FollowingRequest<O, B> {
    type Progress = FetchProgress;
    type Output = CacheResult<O::Body, O::Error>;

    fn join(&self) -> Role<FetchProgress> {
        join_or_lead(&self.job.core, &self.job.params, &self.key)
    }

    async fn share(
        mut self,
        progress: FetchProgress,
        deadlines: &mut FetchDeadlines,
    ) -> Result<Self::Output, (Self, NotShared)> {
        let arrived = self.arrived;
        let why = match progress {
            FetchProgress::NotShareable => NotShared::NotShareable(Reason::HitForMiss),
            FetchProgress::Streaming(streaming) if matches_request(&self.job, &streaming, arrived) => {
                match until_shareable(&self.job.core, &self.job.params.route, &streaming.tee, deadlines).await {
                    // The head may have been invalidated during the wait for the body.
                    Ok(()) if is_new_enough(&self.job, &streaming.meta, arrived) => {
                        return Ok(Ok(respond_while_streaming(self.job, &streaming)));
                    }
                    Ok(()) => NotShared::NotShareable(Reason::FetchFailed),
                    Err(why) => why,
                }
            }
            FetchProgress::Stored(entry)
                if is_new_enough(&self.job, &entry.meta, arrived) && respond::satisfies(&entry, self.job.view()) =>
            {
                let FetchJob { core, params, request, .. } = &*self.job;
                match selects(core, params, request.headers(), &entry).await {
                    Ok(()) => return Ok(Ok(respond_from_revalidated(&self.job, &entry))),
                    Err(own) => self.coalesce_by(own),
                }
            }
            // It varies on a field in which this request differs: coalesce by the variant.
            FetchProgress::Streaming(streaming) if !streaming.names.is_empty() => {
                let (headers, profile) = (self.job.request.headers(), self.job.core.settings.profile);
                let selection = vary::selection(&streaming.names, headers, profile);
                let own = self.job.params.key.variant(&selection);
                self.coalesce_by(Some(own))
            }
            // The head arrived before this request, and is too old for it by now.
            FetchProgress::Streaming(_) | FetchProgress::Stored(_) => NotShared::NotShareable(Reason::FetchFailed),
        };
        Err((self, why))
    }

    fn stale(&self, reason: Reason) -> Option<Self::Output> {
        let (job, now) = (&self.job, self.job.core.clock.now());
        let entry = job.stale.as_ref()?;
        let is_valid = job.core.barriers.check(&job.params.key, &entry.meta) != Validity::Void;
        if !is_valid || !job.params.may_serve_stale_for(None, &entry.meta, now) {
            return None;
        }
        let report = Report { detail: Some(reason), ..Report::forward(job.forward) };
        Some(Ok(stale(job, entry, report)))
    }

    async fn look_up(self) -> Result<Self::Output, Self> {
        let FetchJob { core, params, request, .. } = &*self.job;
        match find_fresh(core, params, request.headers()).await {
            Some(entry) if respond::satisfies(&entry, self.job.view()) => Ok(Ok(hit(&self.job, &entry))),
            _ => Err(self),
        }
    }

    async fn lead(self, leader: Leader<FetchProgress>, _deadlines: FetchDeadlines) -> Self::Output {
        lead_unless_completed(*self.job, leader).finish().await
    }

    fn fetch_alone(self, reason: Reason, _deadlines: FetchDeadlines) -> impl Future<Output = Self::Output> + Send {
        fetch_without_sharing(*self.job, Some(reason))
    }

    fn time_out(self) -> Self::Output {
        Ok(respond::gateway_timeout(&self.job.core, &self.job.params.key, self.job.forward))
    }
}

/// Waits until followers can read a body that is arriving. A body of unknown length is readable once complete: the wait
/// is bounded by the usual duration of the route's fetches.
///
/// # Errors
/// The reason why it is not shared.
async fn until_shareable(
    core: &CacheShared,
    route: &RouteCounters,
    tee: &Tee,
    deadlines: &mut FetchDeadlines,
) -> Result<(), NotShared> {
    let wait = core.settings.wait;
    // A body of promised length is read as it arrives: its first byte is waited for like its head.
    let unknown = route.fetch_times.p95().filter(|_| !tee.is_promised());
    let usual = unknown.map_or(wait, |usual| usual.clamp(LEAST_WAIT.min(wait), wait));
    match deadlines.following(tokio::time::timeout(usual, tee.until_shareable())).await {
        Ok(Ok(ShareState::Ready)) => Ok(()),
        // Later requests share a new fetch.
        Ok(Ok(ShareState::Stalled)) => Err(NotShared::Outdated),
        Ok(Ok(ShareState::TooLarge)) => Err(NotShared::NotShareable(Reason::TooLarge)),
        Ok(Ok(ShareState::Failed)) => Err(NotShared::Failed(Reason::FetchFailed)),
        Ok(Err(_)) => Err(NotShared::Failed(Reason::WaitedTooLong)),
        Err(_) => Err(NotShared::WaitedTooLong),
    }
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

/// Checks whether this request selects a stored response, which the leader has found for its own.
///
/// # Errors
/// The key of the variant that it selects, if any.
async fn selects(
    core: &CacheShared,
    params: &CacheRequest,
    headers: &HeaderMap,
    entry: &Entry,
) -> Result<(), Option<CacheKey>> {
    if !entry.meta.headers.contains_key(header::VARY) {
        return Ok(());
    }
    match complete_lookup(core, params, headers, core.primary_lookup(params)).await {
        (_, LookupResult::Entry(found, _)) if found.key == entry.key => Ok(()),
        (variant, _) => Err(variant.map(|variant| *variant)),
    }
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
