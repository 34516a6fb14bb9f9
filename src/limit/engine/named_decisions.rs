//! Decisions on named subjects, and the synchronization of overrides with a shared store.

use std::sync::Arc;

use super::limiter::Limiter;
use super::shared_limits::rejects;
use crate::base::clock::Timestamp;
use crate::base::detached_context;
use crate::base::mode::Mode;
use crate::limit::algorithm::check::Check;
use crate::limit::algorithm::verdict::Verdicts;
use crate::limit::policy::compiled::BanKeys;
use crate::limit::policy::decision::{Decision, Outcome};
use crate::limit::policy::named_subject::NamedSubject;

impl Limiter {
    /// Decides on a named subject; charges it only if `charges`.
    pub(super) async fn decide_named(self: &Arc<Self>, subject: &NamedSubject, cost: u32, charges: bool) -> Decision {
        if self.reloaded.mode() == Mode::Off {
            return Decision::admission();
        }
        if self.fallback.is_some() {
            self.store.ready().await;
            self.sync().await;
        }
        let mut checks = self.limits.named_checks(subject, cost);
        self.reloaded.apply(&mut checks);
        let at = self.clock.now();
        self.overrides.apply(checks.list.iter_mut(), at);
        let bans = if self.overrides.any() { self.limits.named_keys_to_unban(subject) } else { BanKeys::new() };
        if let Some((_, until)) = self.overrides.banned(&bans, at).filter(|_| self.reloaded.mode() == Mode::On) {
            return Decision { denied: Some(Some(until.since(at))), ..Decision::admission() };
        }
        if checks.list.is_empty() {
            return Decision::admission();
        }
        let (verdicts, degraded) = match charges {
            true => self.charge_named(&checks.list, at).await,
            false => self.peek_named(&checks.list, at).await,
        };
        let outcome =
            Outcome { checks: &checks.list, labels: &checks.labels, verdicts: &verdicts, node: None, degraded };
        let route = subject.route.as_deref().unwrap_or(crate::UNMATCHED);
        let reference = if charges { self.report(route, &outcome, outcome.limits_admit(), at) } else { None };
        Decision { reference, ..self.decision(&outcome) }
    }

    async fn charge_named(&self, checks: &[Check], at: Timestamp) -> (Verdicts, bool) {
        let Some(fallback) = &self.fallback else {
            return (self.store.decide(checks, at).await.unwrap_or_default(), false);
        };
        match self.precharge(fallback, checks, at) {
            Err(rejected) => (rejected, true),
            Ok(precharged) => {
                let result = self.store.decide(checks, at).await;
                self.shared_verdicts(fallback, checks, &result, (at, precharged))
            }
        }
    }

    async fn peek_named(&self, checks: &[Check], at: Timestamp) -> (Verdicts, bool) {
        match self.store.peek(checks, at).await {
            Ok(verdicts) if verdicts.len() == checks.len() => (verdicts, false),
            _ => {
                let local = self.fallback.as_ref().map(|fallback| fallback.peek(checks, at));
                (local.unwrap_or_default(), true)
            }
        }
    }

    /// Reads the overrides of other nodes.
    pub(super) async fn sync(&self) {
        if let Ok((version, records)) = self.store.published(self.overrides.version()).await {
            self.overrides.synced(version, records, self.clock.now());
            if self.overrides.any() {
                self.reloaded.take_slow_path();
            }
        }
    }

    /// Reads the overrides of other nodes in the background, at most once a second.
    pub(super) fn sync_soon(self: &Arc<Self>, at: Timestamp) {
        if self.overrides.begin_sync(at).is_some()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let limiter = self.clone();
            runtime.spawn(detached_context::carry(Box::pin(async move { limiter.sync().await })));
        }
    }

    /// Charges this process first if its decisions bind; the rejected verdicts are an error.
    pub(super) fn precharge(
        &self,
        fallback: &super::fallback::Fallback,
        checks: &[Check],
        at: Timestamp,
    ) -> Result<Option<Verdicts>, Verdicts> {
        let precharged = fallback.precharge(checks, self.store.generation(), at);
        match precharged {
            Some(precharged) if rejects(checks, &precharged) => Err(precharged),
            precharged => {
                let owed = fallback.owed(checks, self.store.generation(), at);
                if !owed.is_empty() {
                    super::limiter::settle(self.store.settle(&owed, at));
                }
                Ok(precharged)
            }
        }
    }
}
