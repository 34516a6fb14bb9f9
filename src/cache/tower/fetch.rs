//! One fetch, and what its answer comes to. Decided on the head; only then is the body touched:
//!
//! 1. an error or a failure (500, 502, 503, 504) while a stale entry may stand in: that entry;
//! 2. any other error: to the client whose fetch it is, unchanged;
//! 3. 304 to our own question: what is stored, refreshed (`update_entry.rs`);
//! 4. 206 to our own question: what is stored, completed (`partial.rs`);
//! 5. a response that may be kept: its head at once, its body as it arrives, to everybody who waits (`store_response.rs`);
//! 6. any other response: to the client whose fetch it is, untouched; the others go alone at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::origin::Origin;
use super::respond::{self, Asker};
use super::shared::{CacheRequest, CacheShared};
use super::stats::answered;
use super::unsafe_invalidation::UnsafeRequest;
use crate::base::body::Body;
use crate::base::clock::Timestamp;
use crate::base::detached_context::CacheNote;
use crate::base::error::BoxError;
use crate::cache::engine::coalesce::{FetchProgress, Leader};
use crate::cache::engine::record::Entry;
use crate::cache::http::cache_status::{Forward, Report};
use crate::cache::http::freshness::ExchangeTimes;
use crate::cache::http::reason::Reason;
use crate::cache::http::request_flags::RequestFlags;
use crate::cache::http::storability::{self, StoreContext};
use crate::cache::http::store_hint::StoreHint;
use crate::cache::http::stored_head::LogPosition;
use crate::cache::http::{range, validators, vary};

/// What a request comes to.
pub(crate) type CacheResult<B, E> = Result<Response<Body<B>>, E>;

/// What is left to do after the answer's head has gone out: read the body, and store it.
pub(crate) type BodyTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request that the store did not answer.
pub(crate) struct FetchJob<O, B> {
    pub(crate) core: Arc<CacheShared>,
    pub(crate) origin: O,
    pub(crate) request: Request<B>,
    pub(crate) ask: CacheRequest,
    /// What was found, too old to be served.
    pub(crate) stale: Option<Arc<Entry>>,
    /// What was found, fresh, but only the beginning of what is wanted.
    pub(crate) beginning: Option<Arc<Entry>>,
    /// Whether the request is forwarded as the client made it.
    pub(crate) unchanged: bool,
    /// Whether the client is given what the inner service says, as it says it: the cache only looks.
    pub(crate) is_shadow: bool,
    pub(crate) forward: Forward,
}

impl<O, B> FetchJob<O, B> {
    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker { headers: self.request.headers(), flags: self.ask.flags, head_only: self.ask.head_only }
    }
}

/// What we asked in place of the client's own request.
#[derive(Clone)]
pub(crate) enum OriginRequest {
    /// Nothing: the client's request as it is.
    Theirs,
    /// The whole response.
    Whole,
    /// Whether this entry is still current.
    IsCurrent(Arc<Entry>),
    /// The rest of this entry.
    TheRest(Arc<Entry>),
}

/// A fetch under way: the job without its request.
pub(crate) struct RunningFetch {
    pub(crate) core: Arc<CacheShared>,
    pub(crate) ask: CacheRequest,
    /// The client's own fields.
    pub(crate) headers: HeaderMap,
    pub(crate) stale: Option<Arc<Entry>>,
    pub(crate) forward: Forward,
    pub(crate) is_shadow: bool,
    pub(crate) lead: Option<Leader>,
    /// Why this request goes alone.
    pub(crate) detail: Option<Reason>,
    pub(crate) asked: Timestamp,
    pub(crate) began: LogPosition,
    pub(crate) question: OriginRequest,
}

/// Asks the inner service, and acts on its answer.
pub(crate) async fn fetch<O: Origin<B>, B: Send + 'static>(
    job: FetchJob<O, B>,
    lead: Option<Leader>,
    detail: Option<Reason>,
) -> (CacheResult<O::Body, O::Error>, Option<BodyTask>) {
    let FetchJob { core, origin, mut request, ask, stale, beginning, unchanged, is_shadow, forward } = job;
    let headers = request.headers().clone();
    let theirs = unchanged || (stale.is_none() && detail == Some(Reason::HitForMiss));
    let question = match theirs {
        true => OriginRequest::Theirs,
        false => ask_in_their_place(request.headers_mut(), stale.as_ref(), beginning),
    };
    let (asked, began) = (core.clock.now(), core.begin());
    core.counters.called();
    let unsettled = ask.post.then(|| UnsafeRequest::new(core.clone(), Method::POST, ask.key.clone()));
    let errand = RunningFetch { core, ask, headers, stale, forward, is_shadow, lead, detail, asked, began, question };
    match origin.fetch(request).await {
        Ok(response) => {
            if let Some(unsettled) = unsettled {
                unsettled.settle(response.status(), response.headers());
            }
            errand.answered(response).await
        }
        Err(error) => match errand.stand_in(None) {
            Some(response) => (Ok(response), None),
            None => {
                answered(&errand.ask.route.misses, CacheNote::Miss);
                (Err(error), None)
            }
        },
    }
}

/// Replaces the client's conditions by ours, where what comes back is to be stored.
fn ask_in_their_place(
    request: &mut HeaderMap,
    stale: Option<&Arc<Entry>>,
    beginning: Option<Arc<Entry>>,
) -> OriginRequest {
    if let Some(entry) = stale.filter(|entry| validators::has_validator(&entry.meta.headers)) {
        validators::make_conditional(request, &entry.meta.headers);
        return OriginRequest::IsCurrent(entry.clone());
    }
    validators::remove_conditions(request);
    if let Some(entry) = beginning {
        range::request_rest(request, &entry.meta.headers, entry.length);
        return OriginRequest::TheRest(entry);
    }
    OriginRequest::Whole
}

impl RunningFetch {
    async fn answered<I, E>(mut self, response: Response<Body<I>>) -> (CacheResult<I, E>, Option<BodyTask>)
    where
        I: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let status = response.status();
        if let Some(stale) = self.stand_in(Some(status)) {
            return (Ok(stale), None);
        }
        let mut response = match (self.question.clone(), status) {
            (OriginRequest::IsCurrent(entry), StatusCode::NOT_MODIFIED) => {
                // The body, of which there is none, need not be `Sync`: only the head is borrowed while storing.
                let (answer, _) = response.into_parts();
                return (Ok(self.update_entry(&entry, &answer).await), None);
            }
            (OriginRequest::TheRest(entry), StatusCode::PARTIAL_CONTENT) => match self.complete(&entry, response) {
                Ok(response) => response,
                Err(refusal) => return (Ok(*refusal), None),
            },
            _ => response,
        };
        answered(&self.ask.route.misses, CacheNote::Miss);
        if self.ask.head_only {
            let (parts, body) = response.into_parts();
            self.update_from_head(&parts).await;
            let mut response = Response::from_parts(parts, body);
            self.write_cache_status(&mut response, None, false);
            return (Ok(response), None);
        }
        if self.ask.post {
            // What this answer brings is the state after the invalidation it caused.
            self.began = self.core.begin();
            if !self.core.is_at_home(&self.ask.key, response.headers()) {
                self.ask.route.bypass(Reason::Method);
                self.write_cache_status(&mut response, Some(Reason::Method), false);
                return (Ok(response), None);
            }
        }
        let handler = response.extensions().get::<StoreHint>();
        let judged = storability::evaluate(&self.case(), response.status(), response.headers(), handler);
        match judged.and_then(|plan| self.often_enough().map(|()| plan)) {
            Ok(plan) => {
                let (response, rest) = self.keep(response, plan).await;
                (Ok(response), rest)
            }
            Err(reason) => {
                self.pass(reason, response.status());
                self.write_cache_status(&mut response, Some(reason), false);
                (Ok(response), None)
            }
        }
    }

    pub(crate) fn case(&self) -> StoreContext<'_> {
        let answered = self.core.clock.now();
        StoreContext {
            settings: &self.core.settings,
            rule: self.core.rules.rule(&self.ask.rule),
            flags: self.ask.flags,
            keyed: self.ask.keyed,
            moments: ExchangeTimes { asked: self.asked, answered, wall: self.core.clock.wall() },
            post: self.ask.post,
            own_fields: self.sent_own_fields(),
            refuses_identity: !vary::accepts_identity(&self.headers),
            random: self.ask.key.hash64() ^ answered.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// Whether the inner service was sent a `Range`, a condition or an `Expect` that not everyone sends.
    fn sent_own_fields(&self) -> bool {
        let flags = self.ask.flags;
        let forwarded = match self.question {
            OriginRequest::Theirs => {
                flags.has(RequestFlags::RANGE.and(RequestFlags::CONDITION).and(RequestFlags::PRECONDITION))
            }
            OriginRequest::TheRest(_) => true,
            OriginRequest::Whole | OriginRequest::IsCurrent(_) => false,
        };
        forwarded || flags.has(RequestFlags::EXPECT)
    }

    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker { headers: &self.headers, flags: self.ask.flags, head_only: self.ask.head_only }
    }

    fn often_enough(&self) -> Result<(), Reason> {
        let required = self.core.rules.rule(&self.ask.rule).min_uses;
        // What is stored already has been asked for often enough.
        if required <= 1 || self.stale.is_some() || self.core.min_uses.count(&self.ask.key) >= required {
            return Ok(());
        }
        Err(Reason::MinUses)
    }

    /// A stale entry in place of a failure, where one may stand in.
    fn stand_in<I>(&self, failure: Option<StatusCode>) -> Option<Response<Body<I>>> {
        let now = self.core.clock.now();
        let entry = self.stale.as_ref().filter(|entry| entry.partial.is_none())?;
        if !self.ask.accepts_instead_of(failure, &entry.meta, now) {
            return None;
        }
        answered(&self.ask.route.stale, CacheNote::Stale);
        let forward_status = failure;
        let report = Report { forward_status, detail: self.detail, ..Report::forward(self.forward) };
        Some(respond::stored(&self.core, entry, self.asker(), now, report))
    }

    /// The answer is for this client alone.
    pub(crate) fn pass(&self, reason: Reason, status: StatusCode) {
        let core = &self.core;
        self.ask.route.bypass(reason);
        core.warn_if_useless(&self.ask.rule, reason);
        // A part, or the answer to a client's own condition, says nothing of what a whole answer would be.
        // Nor does a moment without memory.
        if !self.ask.wants_part() && status != StatusCode::NOT_MODIFIED && reason != Reason::NoRoom {
            core.hit_for_miss.mark(&self.ask.key, core.clock.now(), core.settings.hit_for_miss);
        }
        // RFC 9111 §4.3.3: a full response to our question replaces what is stored; one that may not be stored leaves
        // nothing in its place. A failure says nothing about the representation.
        if self.stale.is_some() && !status.is_server_error() && !self.ask.wants_part() {
            core.forget(&self.ask.key);
        }
        if let Some(lead) = &self.lead {
            lead.publish(FetchProgress::NotShareable);
        }
    }

    pub(crate) fn write_cache_status<I>(&self, response: &mut Response<I>, detail: Option<Reason>, stored: bool) {
        if self.is_shadow {
            return;
        }
        let forward_status = Some(response.status());
        let forward = if self.ask.post { Forward::Method } else { self.forward };
        let report = Report { forward_status, stored, detail: detail.or(self.detail), ..Report::forward(forward) };
        respond::passed(&self.core, response, Some(&self.ask.key), report);
    }
}
