//! Decisions of a store that a fleet shares, with this process's engine beside it.
//!
//! | the store | this process's engine | the request |
//! |---|---|---|
//! | admits | is charged too | admitted |
//! | refuses | gives back what it held | refused |
//! | fails, or is known to be away | decides, as [`OnOutage`](crate::limit::OnOutage) says | marked as degraded |
//! | is back since less than a period | decides first, and binds | refused by either |

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::fallback::Fallback;
use super::limiter::{LimitStep, Limiter, settle};
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::event::Event;
use crate::base::maybe_ready::{BoxFuture, MaybeReady};
use crate::base::request_head::RequestHead;
use crate::limit::algorithm::check::{Check, Settlement};
use crate::limit::algorithm::verdict::{Verdict, Verdicts};
use crate::limit::policy::compiled::Checks;
use crate::limit::policy::decision::Outcome;

/// Pending decision of a request.
#[expect(clippy::large_enum_variant, reason = "it lives in a box, and is nearly always the large one")]
pub(crate) enum Waiting {
    /// A remote store's answer.
    Store(RemoteCheck),
    /// Its tier. Then it is decided by what is known, and waits for no tier again.
    Tier { asked: BoxFuture<()>, limiter: Arc<Limiter> },
}

/// A question on its way to a remote store.
pub(crate) struct RemoteCheck {
    answer: BoxFuture<Result<Verdicts, Error>>,
    limiter: Arc<Limiter>,
    dues: Checks,
    at: Timestamp,
    /// Checks that this process's engine has admitted and charged.
    held: Option<Verdicts>,
}

impl Waiting {
    /// Resolves to the outcome of the request.
    pub(crate) fn poll(&mut self, head: &RequestHead<'_>, cx: &mut Context<'_>) -> Poll<LimitStep> {
        match self {
            Self::Store(question) => {
                let answer = ready!(question.answer.as_mut().poll(cx));
                Poll::Ready(question.answered(head, &answer))
            }
            Self::Tier { asked, limiter } => {
                ready!(asked.as_mut().poll(cx));
                Poll::Ready(limiter.decide_as_known(head))
            }
        }
    }
}

impl RemoteCheck {
    fn answered(&mut self, head: &RequestHead<'_>, answer: &Result<Verdicts, Error>) -> LimitStep {
        let (dues, held) = (std::mem::take(&mut self.dues), self.held.take());
        match &self.limiter.fallback {
            Some(fallback) => self.limiter.answered(fallback, head, &dues, answer, (self.at, held)),
            None => self.limiter.rule(head, &dues, answer.as_deref().unwrap_or_default(), self.at, false),
        }
    }
}

impl Limiter {
    pub(crate) fn decide_remotely(
        self: &Arc<Self>,
        fallback: &Fallback,
        head: &RequestHead<'_>,
        mut dues: Checks,
        at: Timestamp,
    ) -> LimitStep {
        self.plan.name(head, &mut dues);
        let held = fallback.hold(&dues.checks, self.store.generation(), at);
        if let Some(held) = held.as_ref().filter(|held| refuses(&dues.checks, held)) {
            return self.rule(head, &dues, held, at, true);
        }
        match self.store.decide(&dues.checks, at) {
            MaybeReady::Ready(ref answer) => self.answered(fallback, head, &dues, answer, (at, held)),
            MaybeReady::Pending(answer) => {
                let question = RemoteCheck { answer, limiter: self.clone(), dues, at, held };
                LimitStep::Wait(Box::new(Waiting::Store(question)))
            }
        }
    }

    fn answered(
        self: &Arc<Self>,
        fallback: &Fallback,
        head: &RequestHead<'_>,
        dues: &Checks,
        answer: &Result<Verdicts, Error>,
        (at, held): (Timestamp, Option<Verdicts>),
    ) -> LimitStep {
        let short;
        let error = match answer {
            Ok(verdicts) if verdicts.len() == dues.checks.len() => {
                match held {
                    None => {
                        if let Some(here) = fallback.count(&dues.checks, verdicts, at) {
                            return self.rule(head, dues, &here, at, true);
                        }
                    }
                    Some(held) if refuses(&dues.checks, verdicts) => fallback.release(&dues.checks, &held, at),
                    Some(_) => {}
                }
                return self.rule(head, dues, verdicts, at, false);
            }
            Ok(_) => {
                short = Error::config("the store did not answer every check");
                &short
            }
            Err(error) => error,
        };
        let event = Event::StoreFailed { store: "limits", error };
        if error.is_outage() {
            self.events.emit_unlogged(&event)
        } else {
            self.events.emit(&event)
        }
        let verdicts = fallback.decide(&dues.checks, held, at);
        self.rule(head, dues, &verdicts, at, true)
    }

    pub(crate) fn rule(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        dues: &Checks,
        verdicts: &[Verdict],
        at: Timestamp,
        degraded: bool,
    ) -> LimitStep {
        let ruling = Outcome { checks: &dues.checks, labels: &dues.labels, verdicts, node: None, degraded };
        self.finish(head, dues.seen.reserves, ruling, at)
    }

    /// Corrects charges wherever they were made: of a degraded decision, only in this process.
    pub(crate) fn settle(&self, settlements: &[Settlement], now: Timestamp, degraded: bool) {
        if let Some(fallback) = &self.fallback {
            fallback.settle(settlements, now);
        }
        if !degraded {
            settle(self.store.settle(settlements, now));
        }
    }
}

fn refuses(checks: &[Check], verdicts: &[Verdict]) -> bool {
    checks.iter().zip(verdicts).any(|(check, verdict)| check.enforced && !verdict.admits())
}
