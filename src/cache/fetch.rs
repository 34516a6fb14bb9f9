//! One fetch, and what its answer comes to. Decided on the head; only then is the body touched:
//!
//! 1. an error or a failure (500, 502, 503, 504) while a stale entry may stand in: that entry;
//! 2. any other error: to the client whose fetch it is, unchanged;
//! 3. 304 to our own question: what is stored, refreshed;
//! 4. a response that may be kept: its head at once, its body as it arrives, to everybody who waits;
//! 5. any other response: to the client whose fetch it is, untouched; the others go alone at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::response::Parts;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;

use super::control::Store;
use super::core::{Ask, Core};
use super::entry::{self, Entry, Meta};
use super::flight::{Lead, Live, Progress};
use super::keep::Keeping;
use super::origin::Origin;
use super::policy::{self, Case, Plan};
use super::reason::Reason;
use super::respond::{self, Asker};
use super::settings::Profile;
use super::stats::count;
use super::status::{Forward, Report};
use super::tee::{Bounds, Pump, Tee, Turn};
use super::{validate, vary};
use crate::body::{Body, BodyError};
use crate::clock::Timestamp;

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
    pub(crate) forward: Forward,
}

impl<O, B> Job<O, B> {
    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker { headers: self.request.headers(), facts: self.ask.facts, head_only: self.ask.head_only }
    }
}

/// A fetch under way: the job without its request.
struct Errand {
    core: Arc<Core>,
    ask: Ask,
    /// The client's own fields.
    headers: HeaderMap,
    stale: Option<Arc<Entry>>,
    forward: Forward,
    lead: Option<Lead>,
    /// Why this request goes alone.
    detail: Option<Reason>,
    asked: Timestamp,
    generation: u64,
    /// Whether we asked if `stale` is still current.
    revalidating: bool,
}

/// Asks the inner service, and acts on its answer.
pub(crate) async fn fetch<O: Origin<B>, B: Send + 'static>(
    job: Job<O, B>,
    lead: Option<Lead>,
    detail: Option<Reason>,
) -> (Answer<O::Body, O::Error>, Option<Rest>) {
    let Job { core, origin, mut request, ask, stale, forward } = job;
    let headers = request.headers().clone();
    let mut revalidating = false;
    if !ask.head_only && detail != Some(Reason::HitForMiss) {
        match stale.as_ref().filter(|entry| validate::has_validator(&entry.meta.headers)) {
            Some(entry) => {
                validate::make_conditional(request.headers_mut(), &entry.meta.headers);
                revalidating = true;
            }
            None => validate::unconditional(request.headers_mut()),
        }
    }
    let (asked, generation) = (core.clock.now(), core.barriers.generation());
    core.counters.called();
    let errand = Errand { core, ask, headers, stale, forward, lead, detail, asked, generation, revalidating };
    match origin.fetch(request).await {
        Ok(response) => errand.answered(response).await,
        Err(error) => match errand.stand_in() {
            Some(response) => (Ok(response), None),
            None => {
                count(&errand.ask.route.misses);
                (Err(error), None)
            }
        },
    }
}

impl Errand {
    async fn answered<I, E>(self, mut response: Response<Body<I>>) -> (Answer<I, E>, Option<Rest>)
    where
        I: http_body::Body<Data = bytes::Bytes, Error: Into<crate::error::BoxError>> + Send + 'static,
    {
        if policy::is_failure(response.status())
            && let Some(stale) = self.stand_in()
        {
            return (Ok(stale), None);
        }
        if self.revalidating
            && response.status() == StatusCode::NOT_MODIFIED
            && let Some(entry) = self.stale.clone()
        {
            // The body, of which there is none, need not be `Sync`: only the head is borrowed while storing.
            let (answer, _) = response.into_parts();
            return (Ok(self.freshen(&entry, &answer).await), None);
        }
        count(&self.ask.route.misses);
        if self.ask.head_only {
            self.describe(&mut response, None, false);
            return (Ok(response), None);
        }
        let handler = response.extensions().get::<Store>();
        match policy::judge(&self.case(), response.status(), response.headers(), handler) {
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

    fn case(&self) -> Case<'_> {
        let answered = self.core.clock.now();
        Case {
            settings: &self.core.settings,
            rule: self.core.rules.rule(self.ask.rule),
            facts: self.ask.facts,
            identified: self.ask.identified,
            moments: super::freshness::Moments { asked: self.asked, answered, wall: self.core.clock.wall() },
            noise: self.ask.key.hash64() ^ answered.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    fn asker(&self) -> Asker<'_> {
        Asker { headers: &self.headers, facts: self.ask.facts, head_only: self.ask.head_only }
    }

    /// A stale entry in place of a failure, where one may stand in.
    fn stand_in<I>(&self) -> Option<Response<Body<I>>> {
        let now = self.core.clock.now();
        let entry = self.stale.as_ref().filter(|entry| now < entry.meta.windows.error_until)?;
        count(&self.ask.route.stale);
        let report = Report { detail: self.detail, ..Report::forward(self.forward) };
        Some(respond::stored(&self.core, entry, self.asker(), now, report))
    }

    /// The answer is for this client alone.
    fn pass(&self, reason: Reason, status: StatusCode) {
        let core = &self.core;
        self.ask.route.bypass(reason);
        core.warn_if_useless(self.ask.rule, reason);
        core.passing.mark(&self.ask.key, core.clock.now(), core.settings.hit_for_miss);
        // RFC 9111 §4.3.3: a full response to our question replaces what is stored; one that may not be stored leaves
        // nothing in its place. A failure says nothing about the representation.
        if self.stale.is_some() && !status.is_server_error() {
            core.forget(&self.ask.key);
        }
        if let Some(lead) = &self.lead {
            lead.tell(Progress::Alone);
        }
    }

    fn describe<I>(&self, response: &mut Response<I>, detail: Option<Reason>, stored: bool) {
        let forward_status = Some(response.status());
        let report = Report { forward_status, stored, detail: detail.or(self.detail), ..Report::forward(self.forward) };
        respond::passed(&self.core, response, report);
    }

    /// RFC 9111 §4.3.4: refreshes what is stored from a 304.
    async fn freshen<I>(&self, old: &Arc<Entry>, answer: &Parts) -> Response<Body<I>> {
        let core = &self.core;
        count(&self.ask.route.revalidated);
        let report = Report { forward_status: Some(answer.status), ..Report::forward(self.forward) };
        let respond = |entry: &Entry| respond::stored(core, entry, self.asker(), core.clock.now(), report);
        let news = entry::storable(&answer.headers, &[]);
        if !validate::freshens(&old.meta.headers, &news) {
            // It confirms the one tag we asked about, but names another: serve it this once, trust it no more.
            core.forget(&self.ask.key);
            return respond(old);
        }
        let mut headers = old.meta.headers.clone();
        headers.remove(header::AGE);
        if !news.contains_key(header::DATE) {
            headers.remove(header::DATE);
        }
        validate::update(&mut headers, &news);
        match policy::judge(&self.case(), old.meta.status, &headers, answer.extensions.get::<Store>()) {
            Ok(plan) => {
                let (names, selection) = self.selection(&plan);
                let headers = entry::storable(&headers, &plan.strip);
                let mut meta = entry::meta(old.meta.status, headers, plan, self.generation);
                // A hit goes on saving what the full fetch took.
                meta.took = meta.took.max(old.meta.took);
                let keeping = Keeping::new(core, &self.ask, names, selection, Arc::new(meta));
                match keeping.put(old.body.clone(), old.length).await {
                    Ok(entry) => {
                        if let Some(lead) = &self.lead {
                            lead.tell(Progress::Stored(entry.clone()));
                        }
                        respond(&entry)
                    }
                    Err(_) => respond(old),
                }
            }
            Err(reason) => {
                self.pass(reason, answer.status);
                respond(&Entry { meta: Arc::new(old.meta.with_headers(headers)), ..Entry::clone(old) })
            }
        }
    }

    fn selection(&self, plan: &Plan) -> (Arc<[http::HeaderName]>, Box<[u8]>) {
        let selection = match plan.vary.is_empty() {
            true => Vec::new(),
            false => vary::selection(&plan.vary, &self.headers, self.core.settings.profile),
        };
        (plan.vary.as_slice().into(), selection.into())
    }

    /// Sends the head out, and reads the body into the store while clients read along.
    async fn keep<I>(mut self, response: Response<Body<I>>, plan: Plan) -> (Response<Body<I>>, Option<Rest>)
    where
        I: http_body::Body<Data = bytes::Bytes, Error: Into<crate::error::BoxError>> + Send + 'static,
    {
        let (names, selection) = self.selection(&plan);
        let (mut parts, body) = response.into_parts();
        let headers = entry::storable(&parts.headers, &plan.strip);
        let meta = Arc::new(entry::meta(parts.status, headers, plan, self.generation));
        // Decided a moment ago: the length is one number or none. A body that knows its own needs no field.
        let promised = policy::promised_length(&meta.headers).unwrap_or_default();
        let promised = promised.or_else(|| http_body::Body::size_hint(&body).exact());
        let tee = Tee::new(promised, self.core.held.clone());
        let keeping = Keeping::new(&self.core, &self.ask, names.clone(), selection.clone(), meta.clone());
        let lead = self.lead.take();
        if let Some(lead) = &lead {
            lead.tell(Progress::Live(Arc::new(Live { meta: meta.clone(), names, selection, tee: tee.clone() })));
        }
        copy_date(&mut parts.headers, &meta);
        let client = Body::stream(Box::pin(tee.reader(true)));
        let mut response = Response::from_parts(parts, client);
        if respond::has_it(self.asker(), response.status(), response.headers()) {
            response = validate::into_not_modified(response);
        }
        self.describe(&mut response, None, true);
        let settings = &self.core.settings;
        let bounds = Bounds { entry: settings.max_entry, all: settings.in_flight };
        let body = Box::pin(body.map_err(BodyError::into_inner));
        let mut rest: Rest = Box::pin(store_body(keeping, Pump::new(tee.clone(), body, bounds), tee, lead));
        // A body that is already there is stored before its head goes out: one task less.
        match futures_util::future::poll_immediate(&mut rest).await {
            Some(()) => (response, None),
            None => (response, Some(rest)),
        }
    }
}

/// RFC 9110 §6.6.1: the first client sees the `Date` that later ones will.
fn copy_date(headers: &mut HeaderMap, meta: &Meta) {
    if let (false, Some(date)) = (headers.contains_key(header::DATE), meta.headers.get(header::DATE)) {
        headers.insert(header::DATE, date.clone());
    }
}

/// Reads the body to its end and commits it. The flight is over when this is.
async fn store_body(keeping: Keeping, mut pump: Pump, tee: Arc<Tee>, lead: Option<Lead>) {
    let core = keeping.core.clone();
    let outcome = match pump.run().await {
        Turn::Whole => Ok(()),
        // RFC 9110 §6.5.1: trailers may be discarded; `app` replays a response whole or not at all.
        Turn::Trailers if core.settings.profile == Profile::Shared => Ok(()),
        Turn::Trailers => Err(Reason::Trailers),
        Turn::Broken => Err(Reason::BodyError),
        Turn::TooLarge if core.held.load(Ordering::Relaxed) > core.settings.in_flight => Err(Reason::NoRoom),
        Turn::TooLarge => Err(Reason::TooLarge),
    };
    let outcome = match outcome {
        Ok(()) => {
            let (chunks, length) = tee.collected();
            keeping.commit(chunks, length).await
        }
        Err(reason) => Err(reason),
    };
    if let Err(reason) = outcome {
        keeping.route.bypass(reason);
        core.warn_if_useless(keeping.rule, reason);
        if reason == Reason::TooLarge {
            core.passing.mark(&keeping.key, core.clock.now(), core.settings.hit_for_miss);
        }
    }
    drop(lead);
}
