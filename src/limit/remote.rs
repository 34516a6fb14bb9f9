//! Decisions of a store that a fleet shares, with this process's engine beside it.
//!
//! | the store | this process's engine | the request |
//! |---|---|---|
//! | admits | is charged too | admitted |
//! | refuses | gives back what it held | refused |
//! | fails, or is known to be away | decides, as [`OnOutage`](super::OnOutage) says | marked as degraded |
//! | is back since less than a period | decides first, and binds | refused by either |

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::decision::{Ruling, Verdict, Verdicts};
use super::limiter::{Limiter, Step, settle};
use super::outage::Fallback;
use super::plan::Dues;
use super::{Check, Settlement};
use crate::answer::{Answer, BoxFuture};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::event::Event;
use crate::head::RequestHead;

/// What a request waits for before it is decided.
#[expect(clippy::large_enum_variant, reason = "it lives in a box, and is nearly always the large one")]
pub(super) enum Waiting {
    /// A remote store's answer.
    Store(Question),
    /// Its tier. Then it is decided by what is known, and waits for no tier again.
    Tier { asked: BoxFuture<()>, limiter: Arc<Limiter> },
}

/// A question on its way to a remote store.
pub(super) struct Question {
    answer: BoxFuture<Result<Verdicts, Error>>,
    limiter: Arc<Limiter>,
    dues: Dues,
    at: Timestamp,
    /// What this process's engine has admitted and charged already.
    held: Option<Verdicts>,
}

impl Waiting {
    /// What becomes of the request, once it is known.
    pub(super) fn poll(&mut self, head: &RequestHead<'_>, cx: &mut Context<'_>) -> Poll<Step> {
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

impl Question {
    fn answered(&mut self, head: &RequestHead<'_>, answer: &Result<Verdicts, Error>) -> Step {
        let (dues, held) = (std::mem::take(&mut self.dues), self.held.take());
        match &self.limiter.fallback {
            Some(fallback) => self.limiter.answered(fallback, head, &dues, answer, (self.at, held)),
            None => self.limiter.rule(head, &dues, answer.as_deref().unwrap_or_default(), self.at, false),
        }
    }
}

impl Limiter {
    pub(super) fn decide_remotely(
        self: &Arc<Self>,
        fallback: &Fallback,
        head: &RequestHead<'_>,
        mut dues: Dues,
        at: Timestamp,
    ) -> Step {
        self.plan.name(head, &mut dues);
        let held = fallback.hold(&dues.checks, self.store.generation(), at);
        if let Some(held) = held.as_ref().filter(|held| refuses(&dues.checks, held)) {
            return self.rule(head, &dues, held, at, true);
        }
        match self.store.decide(&dues.checks, at) {
            Answer::Ready(ref answer) => self.answered(fallback, head, &dues, answer, (at, held)),
            Answer::Pending(answer) => {
                let question = Question { answer, limiter: self.clone(), dues, at, held };
                Step::Wait(Box::new(Waiting::Store(question)))
            }
        }
    }

    fn answered(
        self: &Arc<Self>,
        fallback: &Fallback,
        head: &RequestHead<'_>,
        dues: &Dues,
        answer: &Result<Verdicts, Error>,
        (at, held): (Timestamp, Option<Verdicts>),
    ) -> Step {
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

    pub(super) fn rule(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        dues: &Dues,
        verdicts: &[Verdict],
        at: Timestamp,
        degraded: bool,
    ) -> Step {
        let ruling = Ruling { checks: &dues.checks, labels: &dues.labels, verdicts, node: None, degraded };
        self.finish(head, dues.seen.reserves, ruling, at)
    }

    /// Corrects charges wherever they were made: of a degraded decision, only in this process.
    pub(super) fn settle(&self, settlements: &[Settlement], now: Timestamp, degraded: bool) {
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
