//! [`Limiter`]: the flow from a head to a ruling, shared by every clone of the layer.
//!
//! head → dues → verdicts → ruling → reply. The store is the only step that may wait.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::Response;

use super::decision::{Decision, Label, Part, Ruling, Term, Verdict, Verdicts};
use super::plan::{Dues, Plan};
use super::reply::{Reply, Style};
use super::stats::{Counters, RateLimitStats};
use super::{LimitStore, OnReject, Quota, Settlement};
use crate::answer::Answer;
use crate::carrier;
use crate::clock::{Clock, Timestamp};
use crate::error::Error;
use crate::event::{Event, Events, Once};
use crate::head::RequestHead;
use crate::key::KeyExtractor;
use crate::store::governor::NodeCeiling;

/// How many requests are looked at for a misconfigured identity.
const INSPECTED: u32 = 100;

const UNKNOWN_PEER: &str = "the client's address is unknown, so such requests share one bucket: serve with \
    into_make_service_with_connect_info::<SocketAddr>() and the feature `axum`, or leave a PeerAddr in the extensions";

pub(super) type Exempt = Arc<dyn for<'a> Fn(&RequestHead<'a>) -> bool + Send + Sync>;

pub(super) struct Limiter {
    pub(super) plan: Plan,
    pub(super) store: Arc<dyn LimitStore>,
    /// Decides where `store` fails.
    pub(super) local: Arc<dyn LimitStore>,
    pub(super) node: Option<Node>,
    pub(super) exempt: Vec<Exempt>,
    pub(super) reject: Arc<dyn OnReject>,
    pub(super) style: Style,
    pub(super) clock: Clock,
    pub(super) events: Events,
    pub(super) counters: Counters,
    pub(super) warnings: Warnings,
}

/// The per-node ceiling with its place among the limits.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) ceiling: NodeCeiling,
    pub(super) label: Label,
    pub(super) quota: Quota,
    pub(super) cost: u32,
}

/// What has been warned about.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    inspected: AtomicU32,
    nobody: Once,
    unknown_tier: Once,
    findings: std::sync::Mutex<Vec<&'static str>>,
}

/// What a request goes on with.
#[derive(Debug)]
pub(super) enum Outcome {
    /// To the inner service; the reply is written into its response.
    Admit(Option<Reply>, Option<Box<Decision>>),
    /// Back to the client.
    Refuse(Box<Response<Bytes>>),
}

impl Limiter {
    /// Fills `dues` with what the request owes; `false` where it is exempt.
    pub(super) fn dues(&self, head: &RequestHead<'_>, dues: &mut Dues) -> bool {
        if self.exempt.iter().any(|exempt| exempt(head)) {
            return false;
        }
        if self.warnings.inspected.load(Ordering::Relaxed) < INSPECTED {
            self.inspect(head);
        }
        self.plan.dues(head, dues);
        if dues.nobody {
            self.events.warn_once(&self.warnings.nobody, "unknown-peer", UNKNOWN_PEER);
        }
        if dues.unknown_tier {
            let message = "a tier was assigned that does not exist: such requests count as anonymous";
            self.events.warn_once(&self.warnings.unknown_tier, "unknown-tier", message);
        }
        true
    }

    pub(super) fn ask(&self, dues: &Dues, now: Timestamp) -> Answer<Result<Verdicts, Error>> {
        if dues.checks.is_empty() { Answer::Ready(Ok(Verdicts::new())) } else { self.store.decide(&dues.checks, now) }
    }

    /// From the store's answer to what the request goes on with.
    pub(super) fn conclude(
        &self,
        head: &RequestHead<'_>,
        dues: &Dues,
        answer: &Result<Verdicts, Error>,
        now: Timestamp,
    ) -> Outcome {
        match answer {
            Ok(verdicts) if verdicts.len() == dues.checks.len() => self.rule(head, dues, verdicts, false, now),
            Ok(_) => {
                let error = Error::config("the store did not answer every check");
                self.rule(head, dues, &self.decide_locally(dues, now, &error), true, now)
            }
            Err(error) => self.rule(head, dues, &self.decide_locally(dues, now, error), true, now),
        }
    }

    fn rule(
        &self,
        head: &RequestHead<'_>,
        dues: &Dues,
        verdicts: &[Verdict],
        degraded: bool,
        now: Timestamp,
    ) -> Outcome {
        let mut ruling = Ruling { checks: &dues.checks, labels: &dues.labels, verdicts, node: None, degraded };
        let mut admits = ruling.limits_admit();
        if let (true, Some(node)) = (admits, &self.node) {
            let term = self.ask_node(node, &ruling, now);
            admits = term.verdict.admits();
            ruling.node = Some(term);
        }
        self.report(head, &ruling, admits);
        let reply = Reply::new(&self.plan, self.style, &ruling, admits, || self.clock.wall());
        if admits {
            let decision = ruling.degraded.then(|| Box::new(self.decision(&ruling)));
            return Outcome::Admit(reply, decision);
        }
        Outcome::Refuse(self.refuse(head, &ruling, reply))
    }

    fn refuse(&self, head: &RequestHead<'_>, ruling: &Ruling<'_>, reply: Option<Reply>) -> Box<Response<Bytes>> {
        let decision = self.decision(ruling);
        let mut response = self.reject.reject(head, &decision);
        if let Some(reply) = reply {
            reply.write(response.headers_mut());
        }
        response.extensions_mut().insert(decision);
        Box::new(response)
    }

    pub(super) fn stats(&self) -> RateLimitStats {
        self.counters.snapshot(&self.plan, self.store.stats())
    }

    fn decide_locally(&self, dues: &Dues, now: Timestamp, error: &Error) -> Verdicts {
        self.events.emit(&Event::StoreFailed { store: "limits", error });
        match self.local.decide(&dues.checks, now) {
            Answer::Ready(Ok(verdicts)) => verdicts,
            // The local engine answers at once and never fails; were it otherwise, a store's failure admits.
            _ => dues.checks.iter().map(|_| Verdict::new(None, 0, std::time::Duration::ZERO)).collect(),
        }
    }

    /// The ceiling cannot give back, so it is asked last, and its refusal gives back what the others took.
    fn ask_node(&self, node: &Node, ruling: &Ruling<'_>, now: Timestamp) -> Term {
        let verdict = node.ceiling.take(node.cost);
        if !verdict.admits() {
            let charged = ruling.checks.iter().zip(ruling.verdicts).filter(|(_, verdict)| verdict.admits());
            let refunds: Vec<Settlement> = charged.map(|(check, _)| Settlement::new(*check, now, 0)).collect();
            let store = if ruling.degraded { &self.local } else { &self.store };
            settle(store.settle(&refunds, now));
        }
        Term { label: node.label, quota: node.quota, verdict, enforced: true }
    }

    fn decision(&self, ruling: &Ruling<'_>) -> Decision {
        let part = |term: Term| Part::new(self.plan.offer(term.label).name.clone(), term);
        let parts = ruling.terms().map(part).collect();
        Decision { parts, overloaded: ruling.overloaded(), degraded: ruling.degraded }
    }

    fn report(&self, head: &RequestHead<'_>, ruling: &Ruling<'_>, admits: bool) {
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

    /// Looks for a misconfigured identity on the first requests; each finding is told once.
    #[cold]
    fn inspect(&self, head: &RequestHead<'_>) {
        self.warnings.inspected.fetch_add(1, Ordering::Relaxed);
        self.plan.identify().inspect(head, &mut |code, message| {
            let mut told = self.warnings.findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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
pub(super) fn settle(answer: Answer<Result<(), Error>>) {
    if let Answer::Pending(future) = answer
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        runtime.spawn(carrier::carry(future));
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.plan.offers().map(|(_, offer)| &*offer.name).collect();
        f.debug_struct("Limiter").field("limits", &names).field("style", &self.style).finish_non_exhaustive()
    }
}
