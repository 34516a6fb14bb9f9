//! Changes at run time: quotas, and the mode of the limits. Keys keep their state and their used share.
//!
//! Until the first change, a request pays one load of a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use smallvec::SmallVec;

use super::limiter::{LimitStep, Limiter};
use super::response_edits::ResponseEdits;
use super::shared_limits::PendingDecision;
use super::stats::RateLimitStats;
use crate::base::error::Error;
use crate::base::lock::RwLock;
use crate::base::mode::{Mode, ModeCell};
use crate::base::request_head::RequestHead;
use crate::context::RequestContext;
use crate::limit::algorithm::quota::Quota;
use crate::limit::policy::compiled::Checks;
use crate::limit::policy::decision::LimitLabel;

/// Configuration changes since the layer was built.
#[derive(Debug, Default)]
pub(crate) struct ReloadedLimits {
    /// Whether requests must take the slower path: after a change, or with tier look-ups, a deny list or places.
    slow_path: AtomicBool,
    mode: ModeCell,
    quotas: RwLock<SmallVec<[(LimitLabel, Quota); 4]>>,
}

impl ReloadedLimits {
    pub(crate) fn new(has_lookups: bool) -> Self {
        Self { slow_path: AtomicBool::new(has_lookups), ..Self::default() }
    }

    #[inline]
    pub(super) fn takes_slow_path(&self) -> bool {
        self.slow_path.load(Ordering::Relaxed)
    }

    /// Makes requests take the slower path from now on.
    pub(super) fn take_slow_path(&self) {
        self.slow_path.store(true, Ordering::Relaxed);
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode.get()
    }

    fn set_mode(&self, mode: Mode) {
        self.mode.set(mode);
        self.slow_path.store(true, Ordering::Relaxed);
    }

    fn set_quota(&self, label: LimitLabel, quota: Quota) {
        let mut quotas = self.quotas.write();
        quotas.retain(|(known, _)| *known != label);
        quotas.push((label, quota));
        self.slow_path.store(true, Ordering::Relaxed);
    }

    pub(super) fn apply(&self, checks: &mut Checks) {
        let quotas = self.quotas.read();
        let shadow = self.mode() == Mode::Shadow;
        for (check, label) in checks.list.iter_mut().zip(&checks.labels) {
            if let Some((_, quota)) = quotas.iter().find(|(known, _)| known == label) {
                check.quota = *quota;
            }
            check.enforced &= !shadow;
        }
    }

    /// Overwrites the mode and the changed quotas in `stats`.
    pub(super) fn overwrite<'a>(&self, stats: &mut RateLimitStats, name: impl Fn(LimitLabel) -> &'a str) {
        stats.mode = self.mode();
        for (label, quota) in self.quotas.read().iter() {
            let name = name(*label);
            for limit in stats.limits.iter_mut().filter(|limit| *limit.name == *name) {
                limit.quota = quota.to_string();
            }
        }
    }
}

impl Limiter {
    /// Decides on a request whose tier has to be looked up, or after a change.
    #[cold]
    pub(super) fn decide_reloaded(self: &Arc<Self>, head: &RequestHead<'_>, context: &mut RequestContext) -> LimitStep {
        if self.reloaded.mode() == Mode::Off {
            return LimitStep::Admit(ResponseEdits::default());
        }
        if let Some(denied) = self.deny(head, context) {
            return denied;
        }
        match self.concurrency.is_empty() {
            true => self.decide_with_lookups(head, context),
            false => self.decide_with_places(head, context),
        }
    }

    /// Decides on a request that is not denied and has its places.
    pub(super) fn decide_with_lookups(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        context: &mut RequestContext,
    ) -> LimitStep {
        let lookups = self.limits.lookups(head).filter_map(|lookup| lookup.prepare(head, &self.clock, &self.events));
        let lookups: Vec<_> = lookups.collect();
        if lookups.is_empty() {
            return self.decide_with_known_tiers(head, context);
        }
        let ready = Box::pin(async move { drop(join_all(lookups).await) });
        LimitStep::Wait(Box::new(PendingDecision::Inputs { ready, limiter: self.clone() }))
    }

    /// Decides with the tiers known now.
    pub(super) fn decide_with_known_tiers(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        context: &mut RequestContext,
    ) -> LimitStep {
        let mut checks = self.limits.checks(head, &mut context.keys);
        self.reloaded.apply(&mut checks);
        let at = context.now(&self.clock);
        self.overrides.apply(checks.list.iter_mut(), at);
        self.check(head, checks, at, context)
    }

    pub(crate) fn set_quota(&self, name: &str, quota: Quota) -> Result<(), Error> {
        self.reloaded.set_quota(self.limits.label_for_change(name, quota)?, quota);
        Ok(())
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.reloaded.set_mode(mode);
    }
}
