//! [`PendingSettlement`]: a request beyond a limit whose charges are unsettled.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::limiter::{LimitStep, Limiter};
use super::shared_limits::PendingDecision;
use super::unsettled::{LONGEST_WAIT, RETRY, SettlementWait};
use crate::base::clock::runtime_now;
use crate::base::maybe_ready::BoxFuture;
use crate::context::RequestContext;
use crate::limit::algorithm::check::Check;
use crate::limit::algorithm::quota::Algorithm;
use crate::limit::algorithm::verdict::Verdict;
use crate::limit::policy::decision::Outcome;

/// Wait of a request, until it is decided anew.
pub(crate) struct PendingSettlement {
    pub(super) limiter: Arc<Limiter>,
    wait: Option<SettlementWait>,
    latest: Instant,
    ready: Option<BoxFuture<()>>,
}

impl PendingSettlement {
    /// Resolves when a charge is settled, at the next retry, or when the request may wait no longer.
    pub(super) fn poll(&mut self, context: &mut RequestContext, cx: &mut Context<'_>) -> Poll<()> {
        let by = context.waits(self.latest);
        let wait = &mut self.wait;
        let ready = self.ready.get_or_insert_with(|| {
            let (wait, until) = (wait.take(), by.min(runtime_now() + RETRY));
            Box::pin(async move {
                let Some(wait) = wait else { return };
                let _ = tokio::time::timeout_at(until, wait.settled()).await;
            })
        });
        ready.as_mut().poll(cx)
    }
}

impl Limiter {
    /// Waits for unsettled charges, if they are all that keeps the request from being admitted.
    #[cold]
    pub(super) fn wait_for_settlement(self: &Arc<Self>, outcome: &Outcome<'_>) -> Option<LimitStep> {
        let mut wait = None;
        for (check, verdict) in outcome.checks.iter().zip(outcome.verdicts) {
            if !check.enforced || verdict.admits() {
                continue;
            }
            if !check.settles || !self.may_be_settled(check, verdict, outcome.degraded) {
                return None;
            }
            wait.get_or_insert(check.key.to_bits());
        }
        let _runtime = tokio::runtime::Handle::try_current().ok()?;
        let wait = self.unsettled.wait(wait?)?;
        let latest = runtime_now() + LONGEST_WAIT;
        let pending = PendingSettlement { limiter: self.clone(), wait: Some(wait), latest, ready: None };
        Some(LimitStep::Wait(Box::new(PendingDecision::Settlement(pending))))
    }

    /// Whether a charge against this check may be refunded soon: one of this process is unsettled, or the newest one of the
    /// fleet is recent.
    fn may_be_settled(&self, check: &Check, verdict: &Verdict, degraded: bool) -> bool {
        let is_shared = self.fallback.is_some() && !degraded;
        let is_window = matches!(check.quota.algorithm(), Algorithm::Window(_));
        let age = check.quota.period().saturating_sub(verdict.reset());
        let is_recent =
            is_shared && is_window && age < LONGEST_WAIT.min(check.quota.period() / 2 + Duration::from_millis(1));
        is_recent || self.unsettled.contains(check.key.to_bits())
    }
}
