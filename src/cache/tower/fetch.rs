//! Fetch: one request to the inner service, and the handling of its response, decided on the head:
//!
//! 1. an error or failure status (500, 502, 503, 504) while a stale entry may be served: that entry;
//! 2. any other error: to the client that triggered the fetch, unchanged;
//! 3. 304 to a revalidation: the stored response, updated (`update_from_304.rs`);
//! 4. 206 to a request for the rest: the stored response, completed (`partial.rs`);
//! 5. a storable response: its head at once, its body as it arrives, to all followers (`stream_and_store.rs`);
//! 6. any other response: to the client that triggered the fetch, unchanged; followers fetch without sharing, at once.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::completion::{self, Beginning, Called};
use super::fetch_progress::FetchProgress;
use super::origin::Origin;
use super::partial;
use super::respond::{self, RequestView};
use super::shared::{CacheRequest, CacheShared};
use super::stats::record_outcome;
use super::unsafe_invalidation::UnsafeRequest;
use crate::base::body::Body;
use crate::base::clock::Timestamp;
use crate::base::detached_context::CacheNote;
use crate::base::error::BoxError;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::coalesce::table::Leader;
use crate::cache::engine::fetch_permit::{HeldLease, MissLease};
use crate::cache::engine::record::Entry;
use crate::cache::http::cache_status::{Forward, Report};
use crate::cache::http::freshness::ExchangeTimes;
use crate::cache::http::reason::Reason;
use crate::cache::http::record_meta::LogPosition;
use crate::cache::http::request_flags::RequestFlags;
use crate::cache::http::settings::Profile;
use crate::cache::http::storability::{self, StoreContext};
use crate::cache::http::store_hint::StoreHint;
use crate::cache::http::{policy, validators, vary};

/// Result of a request.
pub(super) type CacheResult<B, E> = Result<Response<Body<B>>, E>;

/// Remaining work after the head was sent: reading the body and storing it.
pub(super) type BodyTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether the body of a background refresh was not stored.
pub(super) type RefreshFailed = Arc<AtomicBool>;

/// A request that missed the store.
pub(super) struct FetchJob<O, B> {
    pub(super) core: Arc<CacheShared>,
    pub(super) origin: O,
    pub(super) request: Request<B>,
    pub(super) params: CacheRequest,
    /// Stale entry to revalidate.
    pub(super) stale: Option<Arc<Entry>>,
    /// Fresh entry that holds only the beginning of the requested bytes.
    pub(super) beginning: Option<Beginning<B>>,
    /// Whether the request is forwarded unchanged.
    pub(super) unchanged: bool,
    /// Whether the inner service's response is forwarded unchanged, in shadow mode.
    pub(super) is_shadow: bool,
    pub(super) forward: Forward,
    /// Whether the stored entry was invalidated.
    pub(super) is_refetch: bool,
    /// Set for a background refresh, whose response no client reads.
    pub(super) refresh: Option<RefreshFailed>,
    /// Lease that the look-up has asked for.
    pub(super) asked: Option<Arc<MissLease>>,
    /// Lease that is held.
    pub(super) lease: Option<Box<HeldLease>>,
}

/// Outcome of a fetch.
pub(super) struct Fetched<B, E> {
    pub(super) response: CacheResult<B, E>,
    /// Remaining work after the head: reading the body and storing it.
    pub(super) rest: Option<BodyTask>,
    /// Whether the inner service failed.
    pub(super) failed: bool,
}

impl<O, B> FetchJob<O, B> {
    pub(super) fn view(&self) -> RequestView<'_> {
        RequestView { headers: self.request.headers(), flags: self.params.flags, head_only: self.params.head_only }
    }
}

/// Request sent to the inner service in place of the client's.
#[derive(Clone)]
pub(super) enum OriginRequest {
    /// The client's request, unchanged.
    Unchanged,
    /// An unconditional request for the whole response.
    Full,
    /// A revalidation of this entry.
    Revalidation(Arc<Entry>),
    /// A request for the rest of this entry.
    Rest(Arc<Entry>),
}

/// A fetch under way: the job without its request.
pub(super) struct RunningFetch {
    pub(super) core: Arc<CacheShared>,
    pub(super) params: CacheRequest,
    /// Header fields of the client's request.
    pub(super) headers: HeaderMap,
    pub(super) stale: Option<Arc<Entry>>,
    pub(super) forward: Forward,
    pub(super) is_shadow: bool,
    pub(super) refresh: Option<RefreshFailed>,
    pub(super) leader: Option<Leader<FetchProgress>>,
    /// Reason for fetching without sharing.
    pub(super) detail: Option<Reason>,
    pub(super) requested_at: Timestamp,
    pub(super) began: LogPosition,
    pub(super) question: OriginRequest,
    pub(super) lease: Option<Box<HeldLease>>,
}

/// Next step after the head of a response.
pub(super) enum HeadStep<I> {
    /// Send the response; the task reads the rest of its body.
    Respond(Response<Body<I>>, Option<BodyTask>),
    /// Wait for the store.
    Wait(Pin<Box<dyn Future<Output = Response<Body<I>>> + Send>>),
}

/// Calls the inner service, and handles its response. The future holds the call and the parts of the job that are needed
/// afterwards.
pub(super) fn fetch<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    leader: Option<Leader<FetchProgress>>,
    detail: Option<Reason>,
) -> impl Future<Output = Fetched<O::Body, O::Error>> + Send {
    let FetchJob { core, origin, mut request, params, stale, beginning, unchanged, .. } = job;
    let (is_shadow, refresh, forward, lease) = (job.is_shadow, job.refresh, job.forward, job.lease);
    let headers = request.headers().clone();
    let client_headers = unchanged || (stale.is_none() && detail == Some(Reason::HitForMiss));
    let question = match client_headers {
        true => OriginRequest::Unchanged,
        false => rewrite_request(request.headers_mut(), stale.as_ref(), beginning.as_ref()),
    };
    let (requested_at, began) = (core.clock.now(), core.log_position());
    core.counters.called();
    let unsafe_request =
        params.post.then(|| UnsafeRequest::new(core.clone(), Method::POST, params.key.clone(), &params.rule));
    let mut errand = RunningFetch {
        core,
        params,
        headers,
        stale,
        forward,
        is_shadow,
        refresh,
        leader,
        detail,
        requested_at,
        began,
        question,
        lease,
    };
    let beginning = beginning.filter(|_| matches!(errand.question, OriginRequest::Rest(_)));
    let call = completion::call(origin, request, beginning);
    async move {
        let called = match call.await {
            Called::AsAsked(response) => response,
            Called::Whole(response) => {
                errand.became_whole();
                response
            }
        };
        match called {
            Ok(response) => {
                if let Some(unsafe_request) = unsafe_request {
                    unsafe_request.on_response(response.status(), response.headers());
                }
                let failed = errand.failure_class(Some(response.status())).is_some_and(policy::is_failure);
                let mut received = Some((errand, response));
                let step = poll_fn(|cx| match received.take() {
                    Some((errand, response)) => Poll::Ready(errand.handle_response(response, cx)),
                    None => Poll::Pending,
                });
                match step.await {
                    HeadStep::Respond(response, rest) => Fetched { response: Ok(response), rest, failed },
                    HeadStep::Wait(response) => Fetched { response: Ok(response.await), rest: None, failed },
                }
            }
            Err(error) => Fetched { response: errand.handle_error(error), rest: None, failed: true },
        }
    }
}

/// Replaces the client's conditions by those of a revalidation or a full fetch.
fn rewrite_request<B>(
    request: &mut HeaderMap,
    stale: Option<&Arc<Entry>>,
    beginning: Option<&Beginning<B>>,
) -> OriginRequest {
    if let Some(entry) = stale.filter(|entry| validators::has_validator(&entry.meta.headers)) {
        validators::make_conditional(request, &entry.meta.headers);
        return OriginRequest::Revalidation(entry.clone());
    }
    validators::remove_conditions(request);
    if let Some(beginning) = beginning {
        return OriginRequest::Rest(beginning.entry.clone());
    }
    OriginRequest::Full
}

impl RunningFetch {
    /// Notes that the stored beginning is not completed: it belongs to a representation that is gone, or to a service that
    /// serves no parts any more.
    fn became_whole(&mut self) {
        self.question = OriginRequest::Full;
        self.core.remove_key(&self.params.key);
    }

    /// Serves a stale entry in place of an error, if allowed.
    fn handle_error<I, E>(self, error: E) -> CacheResult<I, E> {
        self.serve_stale_on_error(None).ok_or_else(|| {
            record_outcome(&self.params.route.misses, CacheNote::Miss);
            error
        })
    }

    fn handle_response<I>(mut self, response: Response<Body<I>>, cx: &mut Context<'_>) -> HeadStep<I>
    where
        I: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let status = response.status();
        if let Some(stale) = self.serve_stale_on_error(Some(status)) {
            return HeadStep::Respond(stale, None);
        }
        let mut response = match (&self.question, status) {
            (OriginRequest::Revalidation(entry), StatusCode::NOT_MODIFIED) => {
                let entry = entry.clone();
                // The empty body need not be `Sync`: only the head is borrowed while storing.
                let (head, _) = response.into_parts();
                return HeadStep::Wait(Box::pin(async move { self.update_entry(&entry, &head).await }));
            }
            (OriginRequest::Rest(entry), StatusCode::PARTIAL_CONTENT) => partial::complete(entry, response),
            // RFC 9111 §4.3.4: a 304 to a request without conditions, and without a validator, updates the one response that
            // has none. The client has no copy that it could refer to.
            (OriginRequest::Full, StatusCode::NOT_MODIFIED) if let Some(entry) = self.stale.clone() => {
                let (head, _) = response.into_parts();
                return HeadStep::Wait(Box::pin(async move { self.update_entry(&entry, &head).await }));
            }
            _ => response,
        };
        if !self.may_be_no_miss() {
            record_outcome(&self.params.route.misses, CacheNote::Miss);
        }
        if self.params.head_only {
            return HeadStep::Wait(Box::pin(self.handle_head(response)));
        }
        if self.params.post {
            // The response reflects the state after the invalidation it caused.
            self.began = self.core.log_position();
            if !self.core.is_own_representation(&self.params.key, response.headers()) {
                self.params.route.bypass(Reason::Method);
                self.write_cache_status(&mut response, Some(Reason::Method), false);
                return HeadStep::Respond(response, None);
            }
        }
        let handler = response.extensions().get::<StoreHint>();
        let for_decision =
            storability::evaluate(&self.store_context(status), response.status(), response.headers(), handler);
        match for_decision.and_then(|policy| self.check_min_uses().map(|()| policy)) {
            Ok(policy) => {
                if self.may_be_no_miss() {
                    record_outcome(&self.params.route.misses, CacheNote::Miss);
                }
                let (response, rest) = self.stream_and_store(response, policy, cx);
                HeadStep::Respond(response, rest)
            }
            Err(reason) => {
                self.mark_not_shareable(reason, response.status());
                self.write_cache_status(&mut response, Some(reason), false);
                HeadStep::Respond(response, None)
            }
        }
    }

    /// Whether the request is a miss only if its response is storable: no rule covers it.
    fn may_be_no_miss(&self) -> bool {
        self.core.settings.profile == Profile::App && !self.core.rules.is_configured(&self.params.rule)
    }

    /// Updates the stored response from the response to a HEAD, and forwards it.
    async fn handle_head<I>(self, response: Response<Body<I>>) -> Response<Body<I>> {
        let (parts, body) = response.into_parts();
        self.update_from_head(&parts).await;
        let mut response = Response::from_parts(parts, body);
        self.write_cache_status(&mut response, None, false);
        response
    }

    pub(super) fn store_context(&self, status: StatusCode) -> StoreContext<'_> {
        let received_at = self.core.clock.now();
        let is_error = status.is_client_error() || status.is_server_error();
        let rule = self.core.rules.rule(&self.params.rule);
        StoreContext {
            settings: &self.core.settings,
            rule,
            rule_tags: rule.tags_for(self.core.rules.pattern(&self.params.rule), &self.params.key),
            flags: self.params.flags,
            keyed: self.params.keyed,
            exchange: ExchangeTimes { requested_at: self.requested_at, received_at, wall: self.core.clock.wall() },
            post: self.params.post,
            request_specific: self.was_request_specific(),
            refuses_identity: is_error && !vary::accepts_identity(&self.headers),
            random: self.params.key.hash64() ^ received_at.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// Whether the forwarded request had a `Range`, a condition or an `Expect` specific to this client.
    fn was_request_specific(&self) -> bool {
        let flags = self.params.flags;
        let forwarded = match self.question {
            OriginRequest::Unchanged => {
                flags.has(RequestFlags::RANGE.and(RequestFlags::CONDITION).and(RequestFlags::PRECONDITION))
            }
            OriginRequest::Rest(_) => true,
            OriginRequest::Full | OriginRequest::Revalidation(_) => false,
        };
        forwarded || flags.has(RequestFlags::EXPECT)
    }

    pub(super) fn view(&self) -> RequestView<'_> {
        RequestView { headers: &self.headers, flags: self.params.flags, head_only: self.params.head_only }
    }

    fn check_min_uses(&self) -> Result<(), Reason> {
        let required = self.core.rules.rule(&self.params.rule).min_uses;
        // A stored entry has reached `min_uses` before.
        if required <= 1 || self.stale.is_some() || self.core.min_uses.count(&self.params.key) >= required {
            return Ok(());
        }
        Err(Reason::MinUses)
    }

    /// Returns the status that decides what may replace a failure: to its callers, an upstream that rate-limits has failed.
    fn failure_class(&self, failure: Option<StatusCode>) -> Option<StatusCode> {
        let is_rate_limited = self.core.routing.outbound && failure == Some(StatusCode::TOO_MANY_REQUESTS);
        if is_rate_limited { Some(StatusCode::SERVICE_UNAVAILABLE) } else { failure }
    }

    /// Returns the stale entry if it may replace this failure.
    fn serve_stale_on_error<I>(&self, failure: Option<StatusCode>) -> Option<Response<Body<I>>> {
        let now = self.core.clock.now();
        let entry = self.stale.as_ref().filter(|entry| entry.partial.is_none())?;
        let failure_class = self.failure_class(failure);
        let is_void = self.core.barriers.check(&self.params.key, &entry.meta) == Validity::Void;
        if is_void || !self.params.may_serve_stale_for(failure_class, &entry.meta, now) {
            return None;
        }
        record_outcome(&self.params.route.stale, CacheNote::Stale);
        let forward_status = failure;
        let report = Report { forward_status, detail: self.detail, ..Report::forward(self.forward) };
        Some(respond::from_entry(&self.core, entry, self.view(), now, report))
    }

    /// Marks the response as not shareable.
    pub(super) fn mark_not_shareable(&self, reason: Reason, status: StatusCode) {
        let core = &self.core;
        self.params.route.bypass(reason);
        core.warn_of_unused_rule(&self.params.rule, reason);
        // An error describes the resource only if it says that there is none, and an answer to a credential only its user.
        let is_error = status.is_client_error() || status.is_server_error();
        let is_general = (matches!(status.as_u16(), 404 | 410) || !is_error)
            && !self.params.flags.has(RequestFlags::CREDENTIAL)
            && reason != Reason::RequestSpecific
            && !self.params.wants_part();
        // A partial or conditional response does not predict a full one; neither does a shortage of memory.
        if is_general && status != StatusCode::NOT_MODIFIED && reason != Reason::NoRoom {
            core.hit_for_miss.mark(&self.params.key, core.clock.now(), core.settings.hit_for_miss);
            if let Some(lease) = &self.lease {
                lease.note_uncacheable(core.settings.hit_for_miss);
            }
        }
        // RFC 9111 §4.3.3: a full response to a revalidation replaces the stored one; if it must not be stored, the old
        // one is removed.
        if self.stale.is_some() && is_general {
            core.remove_key(&self.params.key);
        }
        // After an error that is not theirs, followers go on as after any failure: a few at a time.
        let fails_followers = status.is_server_error() || reason == Reason::RequestSpecific;
        if let Some(leader) = self.leader.as_ref().filter(|_| !fails_followers) {
            leader.publish(FetchProgress::NotShareable);
        }
    }

    pub(super) fn write_cache_status<I>(&self, response: &mut Response<I>, detail: Option<Reason>, stored: bool) {
        if self.is_shadow {
            return;
        }
        let forward_status = Some(response.status());
        let forward = if self.params.post { Forward::Method } else { self.forward };
        let report = Report { forward_status, stored, detail: detail.or(self.detail), ..Report::forward(forward) };
        respond::forward(&self.core, response, Some(&self.params.key), report);
    }
}
