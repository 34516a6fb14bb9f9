//! What can be changed while requests go on: quotas, and whether limits are on. No key's state is dropped: a key keeps
//! the share it has used.
//!
//! Until something is changed, a request pays one load of a flag for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use smallvec::SmallVec;

use super::limiter::{LimitStep, Limiter, ResponseEdits};
use super::shared_limits::Waiting;
use super::stats::RateLimitStats;
use crate::base::error::Error;
use crate::base::lock::RwLock;
use crate::base::mode::{Switch, SwitchCell};
use crate::base::request_head::RequestHead;
use crate::limit::algorithm::quota::Quota;
use crate::limit::policy::compiled::Checks;
use crate::limit::policy::decision::LimitLabel;

/// Configuration changes since the layer was built.
#[derive(Debug, Default)]
pub(crate) struct ReloadedLimits {
    /// Whether a request needs more than the common way.
    special: AtomicBool,
    switch: SwitchCell,
    quotas: RwLock<SmallVec<[(LimitLabel, Quota); 4]>>,
}

impl ReloadedLimits {
    pub(crate) fn new(looks_up: bool) -> Self {
        Self { special: AtomicBool::new(looks_up), ..Self::default() }
    }

    #[inline]
    pub(crate) fn is_special(&self) -> bool {
        self.special.load(Ordering::Relaxed)
    }

    pub(crate) fn switch(&self) -> Switch {
        self.switch.get()
    }

    fn set_switch(&self, switch: Switch) {
        self.switch.set(switch);
        self.special.store(true, Ordering::Relaxed);
    }

    fn set_quota(&self, label: LimitLabel, quota: Quota) {
        let mut quotas = self.quotas.write();
        quotas.retain(|(known, _)| *known != label);
        quotas.push((label, quota));
        self.special.store(true, Ordering::Relaxed);
    }

    fn apply(&self, dues: &mut Checks) {
        let quotas = self.quotas.read();
        let shadow = self.switch() == Switch::Shadow;
        for (check, label) in dues.checks.iter_mut().zip(&dues.labels) {
            if let Some((_, quota)) = quotas.iter().find(|(known, _)| known == label) {
                check.quota = *quota;
            }
            check.enforced &= !shadow;
        }
    }

    /// The switch, and the quotas in force, where they are not those of the beginning.
    pub(crate) fn tell<'a>(&self, stats: &mut RateLimitStats, name: impl Fn(LimitLabel) -> &'a str) {
        stats.switch = self.switch();
        for (label, quota) in self.quotas.read().iter() {
            let name = name(*label);
            for limit in stats.limits.iter_mut().filter(|limit| *limit.name == *name) {
                limit.quota = quota.to_string();
            }
        }
    }
}

impl Limiter {
    /// The way of requests whose tier has to be looked up, or after something was changed.
    #[cold]
    pub(crate) fn decide_specially(self: &Arc<Self>, head: &RequestHead<'_>) -> LimitStep {
        if self.live.switch() == Switch::Off {
            return LimitStep::Admit(ResponseEdits::default());
        }
        let asked = self.plan.lookups(head).filter_map(|lookup| lookup.prepare(head, &self.clock, &self.events));
        let asked: Vec<_> = asked.collect();
        if asked.is_empty() {
            return self.decide_as_known(head);
        }
        let asked = Box::pin(async move { drop(join_all(asked).await) });
        LimitStep::Wait(Box::new(Waiting::Tier { asked, limiter: self.clone() }))
    }

    /// The same, now that tiers are as known as they will be.
    pub(crate) fn decide_as_known(self: &Arc<Self>, head: &RequestHead<'_>) -> LimitStep {
        let mut dues = self.plan.dues(head);
        self.live.apply(&mut dues);
        self.ask(head, dues, self.clock.now())
    }

    pub(crate) fn set_quota(&self, name: &str, quota: Quota) -> Result<(), Error> {
        self.live.set_quota(self.plan.changeable(name, quota)?, quota);
        Ok(())
    }

    pub(crate) fn set_switch(&self, switch: Switch) {
        self.live.set_switch(switch);
    }
}
