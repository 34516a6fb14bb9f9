//! [`Limiter`]: the path from a request head to an outcome, shared by all clones of the layer.
//!
//! Head → checks → verdicts → outcome → response fields. Only the store may be asynchronous.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use smallvec::SmallVec;

use super::concurrency::ConcurrencyPlaces;
use super::fallback::Fallback;
use super::log_sampler::LogSampler;
use super::outcome_charge::OutcomeCharge;
use super::overrides::LimitOverrides;
use super::refusals::Refusals;
use super::reload::ReloadedLimits;
use super::reservation::Reservation;
use super::response_edits::{Discount, RareEdits, ResponseEdits};
use super::shared_limits::PendingDecision;
use super::stats::{LimitCounters, RateLimitStats};
use super::store::LimitStore;
use super::unsettled::UnsettledCharges;
use crate::base::clock::{Clock, Timestamp};
use crate::base::detached_context::{self, LimitNote};
use crate::base::error::Error;
use crate::base::event::{Event, Events, Once};
use crate::base::headers;
use crate::base::maybe_ready::MaybeReady;
use crate::base::mode::Mode;
use crate::base::request_head::RequestHead;
use crate::context::RequestContext;
use crate::identity::{ExtractedKeys, KeyExtractor, SharedExtractor, UNRESOLVED, UNRESOLVED_TEXT};
use crate::limit::algorithm::check::Settlement;
use crate::limit::algorithm::quota::Quota;
use crate::limit::algorithm::verdict::{Verdict, Verdicts};
use crate::limit::policy::compiled::{Checks, CompiledLimits, RequestSubject};
use crate::limit::policy::decision::{Decision, LimitDecision, LimitLabel, LimitOutcome, Outcome};
use crate::limit::policy::headers::{Draft, DraftFields, RateLimitHeaders, Style, write_retry_after};
use crate::limit::policy::reference::Reference;
use crate::limit::policy::reject::{OnReject, Rejection, default_response};
use crate::store::governor::NodeCeiling;

/// Number of requests inspected for a misconfigured identity.
const INSPECTED: u32 = 100;

pub(crate) type Exempt = Arc<dyn for<'a> Fn(&RequestHead<'a>, &mut ExtractedKeys) -> bool + Send + Sync>;

pub(crate) struct Limiter {
    pub(crate) limits: CompiledLimits,
    pub(crate) store: Arc<dyn LimitStore>,
    /// Decides if `store` fails; `None` for the in-process store, which does not fail.
    pub(crate) fallback: Option<Fallback>,
    pub(crate) node: Option<NodeLimit>,
    pub(crate) exempt: Vec<Exempt>,
    /// Requests that are refused whatever the limits say.
    pub(crate) denied: Vec<Exempt>,
    /// Refusals of limits that ban, by subject.
    pub(crate) ban_counts: Option<Arc<dyn LimitStore>>,
    /// Extractors that verify every request.
    pub(crate) verifiers: Vec<SharedExtractor>,
    pub(crate) reject: Option<OnReject>,
    pub(crate) refusals: Refusals,
    pub(crate) style: Style,
    pub(crate) clock: Clock,
    pub(crate) events: Events,
    pub(crate) counters: LimitCounters,
    pub(crate) warnings: Warnings,
    pub(crate) reloaded: ReloadedLimits,
    /// Quotas of single subjects.
    pub(crate) overrides: Arc<LimitOverrides>,
    /// Places of limits on requests in progress.
    pub(crate) concurrency: Vec<Arc<ConcurrencyPlaces>>,
    /// Charges of limits that count outcomes.
    pub(crate) unsettled: Arc<UnsettledCharges>,
}

/// Per-node ceiling with its label among the limits.
#[derive(Debug)]
pub(crate) struct NodeLimit {
    pub(crate) ceiling: NodeCeiling,
    pub(crate) label: LimitLabel,
    pub(crate) quota: Quota,
    pub(crate) cost: u32,
}

/// Warnings reported so far.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    inspected: AtomicU32,
    /// One bit for each limit that found no identity.
    anonymous: AtomicU64,
    unknown_tier: Once,
    unresolved: Once,
    findings: crate::base::lock::Mutex<Vec<&'static str>>,
    pub(super) logged: LogSampler,
}

/// Next step for a request. Not generic, so that the calling services stay small enough to be inlined.
pub(crate) enum LimitStep {
    /// Call the inner service.
    Admit(ResponseEdits),
    /// Respond without calling the inner service.
    Reject(Box<Response<Bytes>>),
    /// Wait for the store, a tier look-up or the identity.
    Wait(Box<PendingDecision>),
}

impl Limiter {
    /// Borrows the head of a request, with its route if a limit depends on it.
    #[inline]
    pub(crate) fn head<'a, B>(&self, request: &'a Request<B>, context: &mut RequestContext) -> RequestHead<'a> {
        let patterns = self.limits.patterns();
        if patterns.is_empty() { context.head(request) } else { context.routed_head(request, patterns) }
    }

    /// Verifies the identity of a request, and leaves it in the extensions or waits for it.
    #[cold]
    pub(crate) fn verify<B>(
        self: &Arc<Self>,
        request: &mut Request<B>,
        context: &mut RequestContext,
    ) -> Option<Box<PendingDecision>> {
        let head = self.head(request, context);
        for verifier in &self.verifiers {
            verifier.extract_once(&head, &mut context.keys);
        }
        if context.keys.is_pending() {
            return Some(Box::new(PendingDecision::Identity { limiter: self.clone() }));
        }
        context.keys.leave(request.extensions_mut());
        None
    }

    /// Decides on a request, or starts an asynchronous check.
    pub(crate) fn decide(self: &Arc<Self>, head: &RequestHead<'_>, context: &mut RequestContext) -> LimitStep {
        if self.exempt.iter().any(|exempt| exempt(head, &mut context.keys)) {
            return LimitStep::Admit(ResponseEdits::default());
        }
        if self.reloaded.takes_slow_path() {
            return self.decide_reloaded(head, context);
        }
        let mut seen = RequestSubject { has_waited: context.has_waited(), ..RequestSubject::default() };
        let Some((check, label)) = self.limits.only(head, &mut context.keys, &mut seen) else {
            let at = context.now(&self.clock);
            return self.check(head, self.limits.checks(head, &mut context.keys), at, context);
        };
        if context.keys.is_pending() {
            return self.wait_for_identity();
        }
        let at = context.now(&self.clock);
        let Some(verdict) = self.store.decide_one(&check, at) else {
            return self.check(head, Checks::one(check, label, seen), at, context);
        };
        self.warn(head, seen);
        let (checks, labels, verdicts) = (&[check], &[label], &[verdict]);
        self.finish(head, seen, Outcome { checks, labels, verdicts, node: None, degraded: false }, at)
    }

    /// Sends all checks of the request to the store, unless its identity is pending.
    pub(crate) fn check(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        mut checks: Checks,
        at: Timestamp,
        context: &mut RequestContext,
    ) -> LimitStep {
        checks.seen.has_waited = context.has_waited();
        if context.keys.is_pending() {
            return self.wait_for_identity();
        }
        self.warn(head, checks.seen);
        if let Some(fallback) = self.fallback.as_ref().filter(|_| !checks.list.is_empty()) {
            return self.decide_remotely(fallback, head, &mut context.keys, checks, at);
        }
        let verdicts = match checks.list.is_empty() {
            true => Verdicts::new(),
            // The in-process store is always ready and never fails.
            false => match self.store.decide(&checks.list, at) {
                MaybeReady::Ready(answer) => answer.unwrap_or_default(),
                MaybeReady::Pending(_) => Verdicts::new(),
            },
        };
        self.combine(head, &checks, &verdicts, at, false)
    }

    /// The request is decided when its identity is known; the checks made without it are void.
    #[cold]
    pub(super) fn wait_for_identity(self: &Arc<Self>) -> LimitStep {
        LimitStep::Wait(Box::new(PendingDecision::Identity { limiter: self.clone() }))
    }

    /// Warns once that an identity was not resolved in time.
    pub(super) fn warn_of_unresolved(&self, context: &RequestContext) {
        if context.keys.has_failed() {
            self.events.warn_once(&self.warnings.unresolved, UNRESOLVED, UNRESOLVED_TEXT);
        }
    }

    #[inline]
    pub(super) fn warn(&self, head: &RequestHead<'_>, seen: RequestSubject) {
        if seen.anonymous > 0 {
            self.warn_anonymous(seen.anonymous, head);
        }
        if seen.unknown_tier && self.warnings.unknown_tier.first() {
            let message = &*self.limits.explain_unknown_tier(head);
            self.events.emit(&Event::Warning { code: "unknown-tier", message });
        }
        if self.warnings.inspected.load(Ordering::Relaxed) < INSPECTED {
            self.inspect(head);
        }
    }

    /// Warns once about a limit that found no identity, and once about the same cause.
    fn warn_anonymous(&self, limit: u16, head: &RequestHead<'_>) {
        let bit = 1 << (limit % 64);
        let warned = &self.warnings.anonymous;
        if warned.load(Ordering::Relaxed) & bit == 0
            && warned.fetch_or(bit, Ordering::Relaxed) & bit == 0
            && let Some((code, message)) = self.limits.explain_anonymous(limit, head)
        {
            self.warn_of(if code == "unknown-peer" { code } else { "" }, code, &message);
        }
    }

    /// Emits a warning unless one was emitted for the same `cause`.
    fn warn_of(&self, cause: &'static str, code: &'static str, message: &str) {
        let mut reported = self.warnings.findings.lock();
        if !cause.is_empty() {
            if reported.contains(&cause) {
                return;
            }
            reported.push(cause);
        }
        drop(reported);
        self.events.emit(&Event::Warning { code, message });
    }

    /// Finishes a request; the common case is an admission that only writes fields.
    #[inline(always)]
    pub(crate) fn finish(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        seen: RequestSubject,
        outcome: Outcome<'_>,
        at: Timestamp,
    ) -> LimitStep {
        let plain = !seen.reserves && !outcome.degraded && outcome.verdicts.iter().all(Verdict::admits);
        if !plain || self.node.is_some() || self.style.draft.is_some() || self.events.has_hook() {
            return self.finish_slow_path(head, seen, outcome, at);
        }
        self.counters.count(true, false);
        outcome.labels.iter().for_each(|label| self.counters.count_admission(*label));
        detached_context::note(|notes| notes.limit = Some(LimitNote::Allowed));
        LimitStep::Admit(ResponseEdits {
            fields: RateLimitHeaders::new(self.style, &outcome, true, || self.clock.wall()),
            rare: None,
        })
    }

    #[inline(never)]
    fn finish_slow_path(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        RequestSubject { reserves, has_waited, .. }: RequestSubject,
        mut outcome: Outcome<'_>,
        at: Timestamp,
    ) -> LimitStep {
        let mut admits = outcome.limits_admit();
        if !admits
            && !has_waited
            && reserves
            && let Some(wait) = self.wait_for_settlement(&outcome)
        {
            return wait;
        }
        if let (true, Some(node)) = (admits, self.node.as_ref().filter(|_| self.reloaded.mode() == Mode::On)) {
            let part = self.check_node(node, &outcome, at);
            admits = part.verdict.admits();
            outcome.node = Some(part);
        }
        let route = self.limits.route_name(head);
        let reference = self.report(route, &outcome, admits, at);
        detached_context::note(|notes| {
            notes.limit = Some(if admits { LimitNote::Allowed } else { LimitNote::Refused })
        });
        let fields = RateLimitHeaders::new(self.style, &outcome, admits, || self.clock.wall());
        if !admits {
            return LimitStep::Reject(self.rejection(head, (route, reference), &outcome, fields));
        }
        // Without an enforced limit there is nothing to report.
        let draft = if fields.is_some() { self.style.draft } else { None };
        let bare = !outcome.degraded && !reserves && draft.is_none();
        let rare = if bare { None } else { Some(self.rare(reserves, &outcome, draft, at)) };
        LimitStep::Admit(ResponseEdits { fields, rare })
    }

    #[cold]
    fn rare(
        self: &Arc<Self>,
        reserves: bool,
        outcome: &Outcome<'_>,
        draft: Option<Draft>,
        at: Timestamp,
    ) -> Box<RareEdits> {
        let reserved = if reserves { self.limits.reserving(outcome) } else { SmallVec::new() };
        let settlements = if reserves { self.limits.discounts(outcome, at) } else { SmallVec::new() };
        let settled = Arc::<AtomicBool>::default();
        let counted = if reserves { self.limits.counting(outcome) } else { SmallVec::new() };
        let (some_reserved, some_discount) = (!reserved.is_empty(), !settlements.is_empty());
        Box::new(RareEdits {
            draft: draft.map(|draft| DraftFields::new(&self.limits, draft, outcome)),
            decision: outcome.degraded.then(|| self.decision(outcome)),
            reservation: some_reserved
                .then(|| Reservation::new(self.clone(), reserved, at, settled.clone(), outcome.degraded)),
            discount: some_discount.then(|| Discount {
                limiter: self.clone(),
                settlements,
                settled: settled.clone(),
                degraded: outcome.degraded,
            }),
            places: None,
            charge: (!counted.is_empty()).then(|| OutcomeCharge::new(self.clone(), counted, at, outcome.degraded)),
        })
    }

    #[cold]
    fn rejection(
        &self,
        head: &RequestHead<'_>,
        (route, reference): (&str, Option<Reference>),
        outcome: &Outcome<'_>,
        fields: Option<RateLimitHeaders>,
    ) -> Box<Response<Bytes>> {
        let decision = Decision { reference, ..self.decision(outcome) };
        let own = self.reject.as_ref().and_then(|reject| reject(&Rejection::new(head, route, &decision)));
        let mut response = own.unwrap_or_else(|| default_response(head, &decision));
        if let Some(fields) = fields {
            fields.write(response.headers_mut());
            write_retry_after(outcome, response.headers_mut());
        }
        if let Some(draft) = self.style.draft {
            DraftFields::new(&self.limits, draft, outcome).write(response.headers_mut());
        }
        if outcome.degraded {
            response.extensions_mut().insert(decision);
        }
        Box::new(response)
    }

    /// Returns the response to a denied request.
    #[cold]
    pub(super) fn denial(&self, head: &RequestHead<'_>, route: &str, decision: &Decision) -> Response<Bytes> {
        let own = self.reject.as_ref().and_then(|reject| reject(&Rejection::new(head, route, decision)));
        let mut response = own.unwrap_or_else(|| default_response(head, decision));
        if let Some(left) = decision.retry_after() {
            let seconds = headers::ceil_seconds(left).max(1);
            response.headers_mut().insert(http::header::RETRY_AFTER, headers::number(seconds));
        }
        response
    }

    pub(crate) fn stats(&self) -> RateLimitStats {
        let mut stats = self.counters.snapshot(&self.limits, self.store.stats());
        stats.remote = self.store.remote();
        let in_progress = self.limits.concurrency().zip(&self.concurrency);
        stats.concurrency = in_progress.map(|((name, _), places)| places.stats(name)).collect();
        self.reloaded.overwrite(&mut stats, |label| &*self.limits.quota(label).name);
        stats
    }

    /// Checks the ceiling last, because its charges cannot be refunded; a rejection refunds the other limits'
    /// charges.
    fn check_node(&self, node: &NodeLimit, outcome: &Outcome<'_>, now: Timestamp) -> LimitOutcome {
        let verdict = node.ceiling.charge(node.cost);
        if !verdict.admits() {
            let charged = outcome.checks.iter().zip(outcome.verdicts).filter(|(_, verdict)| verdict.admits());
            let refunds: Vec<Settlement> = charged.map(|(check, _)| Settlement::new(*check, now, 0)).collect();
            self.settle(&refunds, now, outcome.degraded);
        }
        LimitOutcome { label: node.label, quota: node.quota, verdict, cost: node.cost, enforced: true }
    }

    pub(super) fn decision(&self, outcome: &Outcome<'_>) -> Decision {
        let decision = |part: LimitOutcome| LimitDecision::new(self.limits.quota(part.label).clone(), part);
        let parts = outcome.parts().map(decision).collect();
        Decision { parts, overloaded: outcome.overloaded(), reference: None, denied: None, degraded: outcome.degraded }
    }

    /// Checks the first requests for a misconfigured identity; reports each problem once.
    #[cold]
    fn inspect(&self, head: &RequestHead<'_>) {
        self.limits.identify().inspect(head, &mut |code, message| self.warn_of(code, code, message));
        if self.warnings.inspected.fetch_add(1, Ordering::Relaxed) + 1 == INSPECTED
            && let Some(message) = self.limits.explain_unmatched(INSPECTED)
        {
            self.warn_of("unmatched-limit", "unmatched-limit", &message);
        }
    }
}

/// Detaches a remote settlement; an in-process one is complete. A failure costs at most the refund.
pub(crate) fn settle(answer: MaybeReady<Result<(), Error>>) {
    if let MaybeReady::Pending(future) = answer
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        runtime.spawn(detached_context::carry(future));
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.limits.quotas().map(|(_, compiled)| &*compiled.name).collect();
        f.debug_struct("Limiter").field("limits", &names).field("style", &self.style).finish_non_exhaustive()
    }
}
