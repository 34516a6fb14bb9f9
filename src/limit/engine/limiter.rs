//! [`Limiter`]: the flow from a head to a ruling, shared by every clone of the layer.
//!
//! head → dues → verdicts → ruling → reply. The store is the only step that may wait.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{Extensions, Response};
use smallvec::SmallVec;

use super::fallback::Fallback;
use super::reload::ReloadedLimits;
use super::reservation::Reservation;
use super::shared_limits::Waiting;
use super::stats::{LimitCounters, RateLimitStats};
use super::store::LimitStore;
use crate::base::clock::{Clock, Timestamp};
use crate::base::detached_context::{self, LimitNote};
use crate::base::error::Error;
use crate::base::event::{Event, Events, Once};
use crate::base::maybe_ready::MaybeReady;
use crate::base::mode::Switch;
use crate::base::request_head::RequestHead;
use crate::identity::KeyExtractor;
use crate::limit::algorithm::check::Settlement;
use crate::limit::algorithm::quota::Quota;
use crate::limit::algorithm::verdict::{Verdict, Verdicts};
use crate::limit::policy::compiled::{Checks, CompiledLimits, RequestSubject};
use crate::limit::policy::decision::{Decision, LimitLabel, Outcome, Part, Term};
use crate::limit::policy::headers::{Draft, DraftFields, RateLimitHeaders, Style, write_retry_after};
use crate::limit::policy::reject::OnReject;
use crate::store::governor::NodeCeiling;

/// How many requests are looked at for a misconfigured identity.
const INSPECTED: u32 = 100;

const UNKNOWN_PEER: &str = "the client's address is unknown, so such requests share one bucket: serve with \
    into_make_service_with_connect_info::<SocketAddr>() and the feature `axum`, or leave a PeerAddr in the extensions";

pub(crate) type Exempt = Arc<dyn for<'a> Fn(&RequestHead<'a>) -> bool + Send + Sync>;

pub(crate) struct Limiter {
    pub(crate) plan: CompiledLimits,
    pub(crate) store: Arc<dyn LimitStore>,
    /// Decides where `store` fails; `None` where the store is this process's own, which does not.
    pub(crate) fallback: Option<Fallback>,
    pub(crate) node: Option<NodeLimit>,
    pub(crate) exempt: Vec<Exempt>,
    pub(crate) reject: Arc<dyn OnReject>,
    pub(crate) style: Style,
    pub(crate) clock: Clock,
    pub(crate) events: Events,
    pub(crate) counters: LimitCounters,
    pub(crate) warnings: Warnings,
    pub(crate) live: ReloadedLimits,
}

/// The per-node ceiling with its place among the limits.
#[derive(Debug)]
pub(crate) struct NodeLimit {
    pub(crate) ceiling: NodeCeiling,
    pub(crate) label: LimitLabel,
    pub(crate) quota: Quota,
    pub(crate) cost: u32,
}

/// Warnings given so far.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    inspected: AtomicU32,
    anonymous: Once,
    unknown_tier: Once,
    findings: crate::base::lock::Mutex<Vec<&'static str>>,
}

/// Next step for a request. Not generic, so that the services around it stay small enough to be inlined.
pub(crate) enum LimitStep {
    /// To the inner service.
    Admit(ResponseEdits),
    /// Back to the client.
    Refuse(Box<Response<Bytes>>),
    /// The store answers later.
    Wait(Box<Waiting>),
}

/// Changes to the response of an admitted request.
#[derive(Debug, Default)]
pub(crate) struct ResponseEdits {
    reply: Option<RateLimitHeaders>,
    aside: Option<Box<Aside>>,
}

/// Rarely needed parts, boxed.
#[derive(Debug, Default)]
struct Aside {
    draft: Option<DraftFields>,
    decision: Option<Decision>,
    reservation: Option<Reservation>,
    discount: Option<Discount>,
}

/// Refund if the cache answers.
#[derive(Debug)]
struct Discount {
    limiter: Arc<Limiter>,
    settlements: SmallVec<[Settlement; 2]>,
    degraded: bool,
}

impl ResponseEdits {
    /// Leaves the reservation for the handler.
    #[inline]
    pub(crate) fn prepare(&mut self, extensions: &mut Extensions) {
        if let Some(aside) = &mut self.aside
            && let Some(reservation) = aside.reservation.take()
        {
            extensions.insert(reservation);
        }
    }

    /// Says in the response how the client stands.
    #[inline(always)]
    pub(crate) fn write<B>(&mut self, response: &mut Response<B>) {
        if let Some(reply) = self.reply.take() {
            reply.write(response.headers_mut());
        }
        if let Some(aside) = self.aside.take() {
            aside.write(response);
        }
    }
}

impl Aside {
    #[cold]
    #[inline(never)]
    fn write<B>(self: Box<Self>, response: &mut Response<B>) {
        if let Some(draft) = self.draft {
            draft.write(response.headers_mut());
        }
        if let Some(decision) = self.decision {
            response.extensions_mut().insert(decision);
        }
        if let Some(discount) = self.discount.filter(|_| detached_context::answered_from_cache()) {
            let now = discount.limiter.clock.now();
            discount.limiter.settle(&discount.settlements, now, discount.degraded);
        }
    }
}

impl Limiter {
    /// Decides on a request, or asks a store that will answer later.
    pub(crate) fn decide(self: &Arc<Self>, head: &RequestHead<'_>) -> LimitStep {
        if self.exempt.iter().any(|exempt| exempt(head)) {
            return LimitStep::Admit(ResponseEdits::default());
        }
        if self.live.is_special() {
            return self.decide_specially(head);
        }
        let mut seen = RequestSubject::default();
        let Some((check, label)) = self.plan.only(head, &mut seen) else {
            return self.ask(head, self.plan.dues(head), self.clock.now());
        };
        let at = self.clock.now();
        let Some(verdict) = self.store.decide_one(&check, at) else {
            return self.ask(head, Checks::one(check, label, seen), at);
        };
        self.warn(head, seen);
        let (checks, labels, verdicts) = (&[check], &[label], &[verdict]);
        self.finish(head, seen.reserves, Outcome { checks, labels, verdicts, node: None, degraded: false }, at)
    }

    /// Asks the store about everything the request owes.
    pub(crate) fn ask(self: &Arc<Self>, head: &RequestHead<'_>, dues: Checks, at: Timestamp) -> LimitStep {
        self.warn(head, dues.seen);
        if let Some(fallback) = self.fallback.as_ref().filter(|_| !dues.checks.is_empty()) {
            return self.decide_remotely(fallback, head, dues, at);
        }
        let verdicts = match dues.checks.is_empty() {
            true => Verdicts::new(),
            // In process the store answers at once and never fails.
            false => match self.store.decide(&dues.checks, at) {
                MaybeReady::Ready(answer) => answer.unwrap_or_default(),
                MaybeReady::Pending(_) => Verdicts::new(),
            },
        };
        self.rule(head, &dues, &verdicts, at, false)
    }

    #[inline]
    fn warn(&self, head: &RequestHead<'_>, seen: RequestSubject) {
        if seen.anonymous {
            self.events.warn_once(&self.warnings.anonymous, "unknown-peer", UNKNOWN_PEER);
        }
        if seen.unknown_tier {
            let message = "a tier was assigned that does not exist: such requests count as anonymous";
            self.events.warn_once(&self.warnings.unknown_tier, "unknown-tier", message);
        }
        if self.warnings.inspected.load(Ordering::Relaxed) < INSPECTED {
            self.inspect(head);
        }
    }

    /// The end of nearly every request: admitted, with nothing to say but the fields.
    #[inline(always)]
    pub(crate) fn finish(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        reserves: bool,
        ruling: Outcome<'_>,
        at: Timestamp,
    ) -> LimitStep {
        let plain = !reserves && !ruling.degraded && ruling.verdicts.iter().all(Verdict::admits);
        if !plain || self.node.is_some() || self.style.draft.is_some() || self.events.heard() {
            return self.finish_at_length(head, reserves, ruling, at);
        }
        self.counters.count(true, false);
        detached_context::note(|notes| notes.limit = Some(LimitNote::Allowed));
        LimitStep::Admit(ResponseEdits {
            reply: RateLimitHeaders::new(self.style, &ruling, true, || self.clock.wall()),
            aside: None,
        })
    }

    #[inline(never)]
    fn finish_at_length(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        reserves: bool,
        mut ruling: Outcome<'_>,
        at: Timestamp,
    ) -> LimitStep {
        let mut admits = ruling.limits_admit();
        if let (true, Some(node)) = (admits, self.node.as_ref().filter(|_| self.live.switch() == Switch::On)) {
            let term = self.ask_node(node, &ruling, at);
            admits = term.verdict.admits();
            ruling.node = Some(term);
        }
        self.report(head, &ruling, admits);
        detached_context::note(|notes| {
            notes.limit = Some(if admits { LimitNote::Allowed } else { LimitNote::Refused })
        });
        let reply = RateLimitHeaders::new(self.style, &ruling, admits, || self.clock.wall());
        if !admits {
            return LimitStep::Refuse(self.refuse(head, &ruling, reply));
        }
        // Without an enforced limit there is nothing to say of any.
        let draft = if reply.is_some() { self.style.draft } else { None };
        let bare = !ruling.degraded && !reserves && draft.is_none();
        let aside = if bare { None } else { Some(self.aside(reserves, &ruling, draft, at)) };
        LimitStep::Admit(ResponseEdits { reply, aside })
    }

    #[cold]
    fn aside(
        self: &Arc<Self>,
        reserves: bool,
        ruling: &Outcome<'_>,
        draft: Option<Draft>,
        at: Timestamp,
    ) -> Box<Aside> {
        let reserved = if reserves { self.plan.reserving(ruling) } else { SmallVec::new() };
        let settlements = if reserves { self.plan.discounts(ruling, at) } else { SmallVec::new() };
        let (some_reserved, some_discount) = (!reserved.is_empty(), !settlements.is_empty());
        Box::new(Aside {
            draft: draft.map(|draft| DraftFields::new(&self.plan, draft, ruling)),
            decision: ruling.degraded.then(|| self.decision(ruling)),
            reservation: some_reserved.then(|| Reservation::new(self.clone(), reserved, at, ruling.degraded)),
            discount: some_discount.then(|| Discount { limiter: self.clone(), settlements, degraded: ruling.degraded }),
        })
    }

    #[cold]
    fn refuse(
        &self,
        head: &RequestHead<'_>,
        ruling: &Outcome<'_>,
        reply: Option<RateLimitHeaders>,
    ) -> Box<Response<Bytes>> {
        let decision = self.decision(ruling);
        let mut response = self.reject.reject(head, &decision);
        if let Some(reply) = reply {
            reply.write(response.headers_mut());
            write_retry_after(ruling, response.headers_mut());
        }
        if let Some(draft) = self.style.draft {
            DraftFields::new(&self.plan, draft, ruling).write(response.headers_mut());
        }
        if ruling.degraded {
            response.extensions_mut().insert(decision);
        }
        Box::new(response)
    }

    pub(crate) fn stats(&self) -> RateLimitStats {
        let mut stats = self.counters.snapshot(&self.plan, self.store.stats());
        stats.remote = self.store.remote();
        self.live.tell(&mut stats, |label| &*self.plan.offer(label).name);
        stats
    }

    /// The ceiling cannot give back, so it is asked last, and its refusal gives back what the others took.
    fn ask_node(&self, node: &NodeLimit, ruling: &Outcome<'_>, now: Timestamp) -> Term {
        let verdict = node.ceiling.charge(node.cost);
        if !verdict.admits() {
            let charged = ruling.checks.iter().zip(ruling.verdicts).filter(|(_, verdict)| verdict.admits());
            let refunds: Vec<Settlement> = charged.map(|(check, _)| Settlement::new(*check, now, 0)).collect();
            self.settle(&refunds, now, ruling.degraded);
        }
        Term { label: node.label, quota: node.quota, verdict, enforced: true }
    }

    fn decision(&self, ruling: &Outcome<'_>) -> Decision {
        let part = |term: Term| Part::new(self.plan.offer(term.label).clone(), term);
        let parts = ruling.terms().map(part).collect();
        Decision { parts, overloaded: ruling.overloaded(), degraded: ruling.degraded }
    }

    fn report(&self, head: &RequestHead<'_>, ruling: &Outcome<'_>, admits: bool) {
        self.counters.count(admits, ruling.degraded);
        if !admits {
            self.counters.count_route(self.plan.route_name(head));
        } else if !self.events.heard() && ruling.verdicts.iter().all(Verdict::admits) {
            return;
        }
        for (i, term) in ruling.terms().enumerate() {
            let limit = &*self.plan.offer(term.label).name;
            match term.verdict.wait() {
                Some(retry_after) if term.enforced => {
                    self.counters.count_refusal(term.label);
                    self.events.emit(&Event::Refused { limit, retry_after });
                }
                Some(_) => {
                    self.counters.count_dry(term.label);
                    self.events.emit(&Event::WouldRefuse { limit });
                }
                None if admits && crosses_80_percent(&term, ruling.checks.get(i).map_or(1, |check| check.cost)) => {
                    self.events.emit(&Event::NearLimit { limit });
                }
                None => {}
            }
        }
    }

    /// Checks the first requests for a misconfigured identity; reports each problem once.
    #[cold]
    fn inspect(&self, head: &RequestHead<'_>) {
        self.warnings.inspected.fetch_add(1, Ordering::Relaxed);
        self.plan.identify().inspect(head, &mut |code, message| {
            let mut told = self.warnings.findings.lock();
            if !told.contains(&code) {
                told.push(code);
                self.events.emit(&Event::Warning { code, message });
            }
        });
    }
}

/// Whether this charge took the key past 80 % of its limit.
fn crosses_80_percent(term: &Term, cost: u32) -> bool {
    let capacity = u64::from(term.quota.capacity());
    let used = capacity.saturating_sub(u64::from(term.verdict.remaining()));
    let past = |used: u64| used * 5 >= capacity * 4;
    past(used) && !past(used.saturating_sub(u64::from(cost)))
}

/// Lets a remote settlement finish on its own; an in-process one is done already. Its failure costs at most what was
/// to be given back.
pub(crate) fn settle(answer: MaybeReady<Result<(), Error>>) {
    if let MaybeReady::Pending(future) = answer
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        runtime.spawn(detached_context::carry(future));
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.plan.offers().map(|(_, offer)| &*offer.name).collect();
        f.debug_struct("Limiter").field("limits", &names).field("style", &self.style).finish_non_exhaustive()
    }
}
