//! Decisions of a shared store, combined with the local engine.
//!
//! | shared store | local engine | request |
//! |---|---|---|
//! | admits | is charged too | admitted |
//! | rejects | refunds its charge | rejected |
//! | has not been reached yet | – | waits for it, at most for the deadline of a decision |
//! | fails, or is known to be down | decides, by [`OnOutage`](crate::limit::OnOutage) | marked as degraded |
//! | is reached for the first time | what it admitted before is charged to the store | decided by both |
//! | is back for less than a period | decides first, and binds | rejected by either; the smaller rest of both is reported |

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::fallback::Fallback;
use super::held_places::HeldPlaces;
use super::limiter::{LimitStep, Limiter, settle};
use super::pending_place::{PendingPlace, hold};
use super::pending_settlement::PendingSettlement;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::event::Event;
use crate::base::maybe_ready::{BoxFuture, MaybeReady};
use crate::base::request_head::RequestHead;
use crate::context::RequestContext;
use crate::identity::ExtractedKeys;
use crate::limit::algorithm::check::{Check, Settlement};
use crate::limit::algorithm::verdict::{Verdict, Verdicts};
use crate::limit::policy::compiled::Checks;
use crate::limit::policy::decision::Outcome;

/// Pending decision of a request.
pub(crate) enum PendingDecision {
    /// Waits for a remote store.
    Store(RemoteCheck),
    /// Waits for a tier look-up, or for the store's first connection. Afterwards the request is decided with the tiers
    /// known then.
    Inputs { ready: BoxFuture<()>, limiter: Arc<Limiter> },
    /// Waits for unsettled charges of limits that count outcomes. Afterwards the request is decided.
    Settlement(PendingSettlement),
    /// Waits for the identity. Afterwards the request is decided.
    Identity { limiter: Arc<Limiter> },
    /// Waits for a place under a limit on requests in progress.
    Place(PendingPlace),
    /// Waits for something else, and has its places.
    Held { pending: Box<PendingDecision>, places: HeldPlaces },
}

/// Check in progress at a remote store.
pub(crate) struct RemoteCheck {
    result: BoxFuture<Result<Verdicts, Error>>,
    limiter: Arc<Limiter>,
    checks: Checks,
    at: Timestamp,
    /// Checks already charged by the local engine.
    precharged: Option<Verdicts>,
}

impl PendingDecision {
    /// Resolves to the next step of the request.
    pub(crate) fn poll(
        &mut self,
        head: &RequestHead<'_>,
        context: &mut RequestContext,
        cx: &mut Context<'_>,
    ) -> Poll<LimitStep> {
        if let Self::Held { pending, places } = self {
            let step = ready!(pending.poll_with(head, context, cx, true));
            return Poll::Ready(hold(step, std::mem::take(places)));
        }
        self.poll_with(head, context, cx, false)
    }

    fn poll_with(
        &mut self,
        head: &RequestHead<'_>,
        context: &mut RequestContext,
        cx: &mut Context<'_>,
        has_places: bool,
    ) -> Poll<LimitStep> {
        let decide = |limiter: &Arc<Limiter>, context: &mut RequestContext| match has_places {
            true => limiter.decide_with_lookups(head, context),
            false => limiter.decide(head, context),
        };
        match self {
            Self::Store(check) => {
                let result = ready!(check.result.as_mut().poll(cx));
                Poll::Ready(check.complete(head, &result))
            }
            Self::Inputs { ready, limiter } => {
                ready!(ready.as_mut().poll(cx));
                Poll::Ready(limiter.decide_with_known_tiers(head, context))
            }
            Self::Settlement(pending) => {
                ready!(pending.poll(context, cx));
                Poll::Ready(decide(&pending.limiter, context))
            }
            Self::Identity { limiter } => {
                ready!(context.poll_identities(cx));
                limiter.warn_of_unresolved(context);
                Poll::Ready(decide(limiter, context))
            }
            Self::Place(pending) => pending.poll(head, context, cx),
            // Nothing that waits with places waits for further ones.
            Self::Held { .. } => Poll::Pending,
        }
    }
}

impl RemoteCheck {
    fn complete(&mut self, head: &RequestHead<'_>, result: &Result<Verdicts, Error>) -> LimitStep {
        let (checks, precharged) = (std::mem::take(&mut self.checks), self.precharged.take());
        match &self.limiter.fallback {
            Some(fallback) => self.limiter.complete(fallback, head, &checks, result, (self.at, precharged)),
            None => self.limiter.combine(head, &checks, result.as_deref().unwrap_or_default(), self.at, false),
        }
    }
}

impl Limiter {
    pub(super) fn decide_remotely(
        self: &Arc<Self>,
        fallback: &Fallback,
        head: &RequestHead<'_>,
        keys: &mut ExtractedKeys,
        mut checks: Checks,
        at: Timestamp,
    ) -> LimitStep {
        if let MaybeReady::Pending(ready) = self.store.ready() {
            return LimitStep::Wait(Box::new(PendingDecision::Inputs { ready, limiter: self.clone() }));
        }
        self.limits.add_fleet_keys(head, keys, &mut checks);
        self.sync_soon(at);
        self.overrides.apply(checks.list.iter_mut(), at);
        let precharged = match self.precharge(fallback, &checks.list, at) {
            Ok(precharged) => precharged,
            Err(rejected) => return self.combine(head, &checks, &rejected, at, true),
        };
        match self.store.decide(&checks.list, at) {
            MaybeReady::Ready(ref result) => self.complete(fallback, head, &checks, result, (at, precharged)),
            MaybeReady::Pending(result) => {
                let check = RemoteCheck { result, limiter: self.clone(), checks, at, precharged };
                LimitStep::Wait(Box::new(PendingDecision::Store(check)))
            }
        }
    }

    fn complete(
        self: &Arc<Self>,
        fallback: &Fallback,
        head: &RequestHead<'_>,
        checks: &Checks,
        result: &Result<Verdicts, Error>,
        (at, precharged): (Timestamp, Option<Verdicts>),
    ) -> LimitStep {
        let (verdicts, degraded) = self.shared_verdicts(fallback, &checks.list, result, (at, precharged));
        self.combine(head, checks, &verdicts, at, degraded)
    }

    /// Combines the store's verdicts with the local engine; returns whether the decision was made without the store.
    pub(super) fn shared_verdicts(
        &self,
        fallback: &Fallback,
        checks: &[Check],
        result: &Result<Verdicts, Error>,
        (at, precharged): (Timestamp, Option<Verdicts>),
    ) -> (Verdicts, bool) {
        let incomplete;
        let error = match result {
            Ok(verdicts) if verdicts.len() == checks.len() => {
                match precharged {
                    None => {
                        if let Some(local) = fallback.record(checks, verdicts, at) {
                            return (local, true);
                        }
                    }
                    Some(precharged) if rejects(checks, verdicts) => fallback.release(checks, &precharged, at),
                    // Both bind: the next request needs what is left of either.
                    Some(precharged) => {
                        let both = verdicts.iter().zip(&precharged).map(|(one, other)| one.stricter(other));
                        return (both.collect(), false);
                    }
                }
                return (verdicts.iter().copied().collect(), false);
            }
            Ok(_) => {
                incomplete = Error::config("the store must return one verdict per check");
                &incomplete
            }
            Err(error) => error,
        };
        let event = Event::StoreFailed { store: "limits", error };
        if error.is_outage() {
            self.events.emit_unlogged(&event)
        } else {
            self.events.emit(&event)
        }
        (fallback.decide(checks, precharged, at), true)
    }

    pub(super) fn combine(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        checks: &Checks,
        verdicts: &[Verdict],
        at: Timestamp,
        degraded: bool,
    ) -> LimitStep {
        let outcome = Outcome { checks: &checks.list, labels: &checks.labels, verdicts, node: None, degraded };
        self.finish(head, checks.seen, outcome, at)
    }

    /// Settles charges where they were made: those of a degraded decision only in this process.
    pub(crate) fn settle(&self, settlements: &[Settlement], now: Timestamp, degraded: bool) {
        if let Some(fallback) = &self.fallback {
            fallback.settle(settlements, now);
        }
        if !degraded {
            settle(self.store.settle(settlements, now));
        }
    }
}

pub(super) fn rejects(checks: &[Check], verdicts: &[Verdict]) -> bool {
    checks.iter().zip(verdicts).any(|(check, verdict)| check.enforced && !verdict.admits())
}
