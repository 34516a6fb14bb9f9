//! One fetch, and what its answer comes to. Decided on the head; only then is the body touched:
//!
//! 1. an error or a failure (500, 502, 503, 504) while a stale entry may stand in: that entry;
//! 2. any other error: to the client whose fetch it is, unchanged;
//! 3. 304 to our own question: what is stored, refreshed (`freshen.rs`);
//! 4. 206 to our own question: what is stored, completed (`partial.rs`);
//! 5. a response that may be kept: its head at once, its body as it arrives, to everybody who waits (`keep.rs`);
//! 6. any other response: to the client whose fetch it is, untouched; the others go alone at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::control::Store;
use super::core::{Ask, Core};
use super::entry::{Began, Entry};
use super::facts::Facts;
use super::flight::{Lead, Progress};
use super::freshness::Moments;
use super::judge::{self, Case};
use super::origin::Origin;
use super::reason::Reason;
use super::respond::{self, Asker};
use super::settle::Unsettled;
use super::stats::answered;
use super::status::{Forward, Report};
use super::{range, validate, vary};
use crate::body::Body;
use crate::carrier::CacheNote;
use crate::clock::Timestamp;
use crate::error::BoxError;

/// What a request comes to.
pub(crate) type Answer<B, E> = Result<Response<Body<B>>, E>;

/// What is left to do after the answer's head has gone out: read the body, and store it.
pub(crate) type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request that the store did not answer.
pub(crate) struct Job<O, B> {
    pub(crate) core: Arc<Core>,
    pub(crate) origin: O,
    pub(crate) request: Request<B>,
    pub(crate) ask: Ask,
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

impl<O, B> Job<O, B> {
    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker { headers: self.request.headers(), facts: self.ask.facts, head_only: self.ask.head_only }
    }
}

/// What we asked in place of the client's own request.
#[derive(Clone)]
pub(super) enum Question {
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
pub(super) struct Errand {
    pub(super) core: Arc<Core>,
    pub(super) ask: Ask,
    /// The client's own fields.
    pub(super) headers: HeaderMap,
    pub(super) stale: Option<Arc<Entry>>,
    pub(super) forward: Forward,
    pub(super) is_shadow: bool,
    pub(super) lead: Option<Lead>,
    /// Why this request goes alone.
    pub(super) detail: Option<Reason>,
    pub(super) asked: Timestamp,
    pub(super) began: Began,
    pub(super) question: Question,
}

/// Asks the inner service, and acts on its answer.
pub(crate) async fn fetch<O: Origin<B>, B: Send + 'static>(
    job: Job<O, B>,
    lead: Option<Lead>,
    detail: Option<Reason>,
) -> (Answer<O::Body, O::Error>, Option<Rest>) {
    let Job { core, origin, mut request, ask, stale, beginning, unchanged, is_shadow, forward } = job;
    let headers = request.headers().clone();
    let theirs = unchanged || (stale.is_none() && detail == Some(Reason::HitForMiss));
    let question = match theirs {
        true => Question::Theirs,
        false => ask_in_their_place(request.headers_mut(), stale.as_ref(), beginning),
    };
    let (asked, began) = (core.clock.now(), core.begin());
    core.counters.called();
    let unsettled = ask.post.then(|| Unsettled::new(core.clone(), Method::POST, ask.key.clone()));
    let errand = Errand { core, ask, headers, stale, forward, is_shadow, lead, detail, asked, began, question };
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
fn ask_in_their_place(request: &mut HeaderMap, stale: Option<&Arc<Entry>>, beginning: Option<Arc<Entry>>) -> Question {
    if let Some(entry) = stale.filter(|entry| validate::has_validator(&entry.meta.headers)) {
        validate::make_conditional(request, &entry.meta.headers);
        return Question::IsCurrent(entry.clone());
    }
    validate::unconditional(request);
    if let Some(entry) = beginning {
        range::ask_for_rest(request, &entry.meta.headers, entry.length);
        return Question::TheRest(entry);
    }
    Question::Whole
}

impl Errand {
    async fn answered<I, E>(mut self, response: Response<Body<I>>) -> (Answer<I, E>, Option<Rest>)
    where
        I: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let status = response.status();
        if let Some(stale) = self.stand_in(Some(status)) {
            return (Ok(stale), None);
        }
        let mut response = match (self.question.clone(), status) {
            (Question::IsCurrent(entry), StatusCode::NOT_MODIFIED) => {
                // The body, of which there is none, need not be `Sync`: only the head is borrowed while storing.
                let (answer, _) = response.into_parts();
                return (Ok(self.freshen(&entry, &answer).await), None);
            }
            (Question::TheRest(entry), StatusCode::PARTIAL_CONTENT) => match self.complete(&entry, response) {
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
            self.describe(&mut response, None, false);
            return (Ok(response), None);
        }
        if self.ask.post {
            // What this answer brings is the state after the invalidation it caused.
            self.began = self.core.begin();
            if !self.core.is_at_home(&self.ask.key, response.headers()) {
                self.ask.route.bypass(Reason::Method);
                self.describe(&mut response, Some(Reason::Method), false);
                return (Ok(response), None);
            }
        }
        let handler = response.extensions().get::<Store>();
        let judged = judge::judge(&self.case(), response.status(), response.headers(), handler);
        match judged.and_then(|plan| self.often_enough().map(|()| plan)) {
            Ok(plan) => {
                let (response, rest) = self.keep(response, plan).await;
                (Ok(response), rest)
            }
            Err(reason) => {
                self.pass(reason, response.status());
                self.describe(&mut response, Some(reason), false);
                (Ok(response), None)
            }
        }
    }

    pub(super) fn case(&self) -> Case<'_> {
        let answered = self.core.clock.now();
        Case {
            settings: &self.core.settings,
            rule: self.core.rules.rule(&self.ask.rule),
            facts: self.ask.facts,
            keyed: self.ask.keyed,
            moments: Moments { asked: self.asked, answered, wall: self.core.clock.wall() },
            post: self.ask.post,
            own_fields: self.sent_own_fields(),
            refuses_identity: !vary::accepts_identity(&self.headers),
            noise: self.ask.key.hash64() ^ answered.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// Whether the inner service was sent a `Range`, a condition or an `Expect` that not everyone sends.
    fn sent_own_fields(&self) -> bool {
        let facts = self.ask.facts;
        let forwarded = match self.question {
            Question::Theirs => facts.has(Facts::RANGE.and(Facts::CONDITION).and(Facts::PRECONDITION)),
            Question::TheRest(_) => true,
            Question::Whole | Question::IsCurrent(_) => false,
        };
        forwarded || facts.has(Facts::EXPECT)
    }

    pub(super) fn asker(&self) -> Asker<'_> {
        Asker { headers: &self.headers, facts: self.ask.facts, head_only: self.ask.head_only }
    }

    fn often_enough(&self) -> Result<(), Reason> {
        let wanted = self.core.rules.rule(&self.ask.rule).min_uses;
        // What is stored already has been asked for often enough.
        if wanted <= 1 || self.stale.is_some() || self.core.uses.count(&self.ask.key) >= wanted {
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
    pub(super) fn pass(&self, reason: Reason, status: StatusCode) {
        let core = &self.core;
        self.ask.route.bypass(reason);
        core.warn_if_useless(&self.ask.rule, reason);
        // A part, or the answer to a client's own condition, says nothing of what a whole answer would be.
        // Nor does a moment without memory.
        if !self.ask.wants_part() && status != StatusCode::NOT_MODIFIED && reason != Reason::NoRoom {
            core.passing.mark(&self.ask.key, core.clock.now(), core.settings.hit_for_miss);
        }
        // RFC 9111 §4.3.3: a full response to our question replaces what is stored; one that may not be stored leaves
        // nothing in its place. A failure says nothing about the representation.
        if self.stale.is_some() && !status.is_server_error() && !self.ask.wants_part() {
            core.forget(&self.ask.key);
        }
        if let Some(lead) = &self.lead {
            lead.tell(Progress::Alone);
        }
    }

    pub(super) fn describe<I>(&self, response: &mut Response<I>, detail: Option<Reason>, stored: bool) {
        if self.is_shadow {
            return;
        }
        let forward_status = Some(response.status());
        let forward = if self.ask.post { Forward::Method } else { self.forward };
        let report = Report { forward_status, stored, detail: detail.or(self.detail), ..Report::forward(forward) };
        respond::passed(&self.core, response, Some(&self.ask.key), report);
    }
}
