//! Changes at run time: quotas, and the mode of the limits. Keys keep their state and their used share.
//!
//! Until the first change, a request pays one load of a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use smallvec::SmallVec;

use super::fallback::OnOutage;
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
use crate::limit::policy::wanted_place::WantedPlaces;

/// Configuration changes since the layer was built.
#[derive(Debug, Default)]
pub(crate) struct ReloadedLimits {
    /// Whether requests must take the slower path: after a change, or with tier look-ups, a deny list or places.
    slow_path: AtomicBool,
    mode: ModeCell,
    quotas: RwLock<SmallVec<[(LimitLabel, Quota); 4]>>,
    /// Overridden settings of single limits and tiers, which prevail.
    overridden: RwLock<Vec<(LimitLabel, LimitSetting)>>,
}

/// Overridden setting of a limit or tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitSetting {
    Mode(Mode),
    Quota(Quota),
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
        }
        drop(quotas);
        self.apply_overrides(checks);
        checks.list.iter_mut().for_each(|check| check.enforced &= !shadow);
    }

    fn apply_overrides(&self, checks: &mut Checks) {
        let overridden = self.overridden.read();
        for (label, setting) in overridden.iter() {
            let Some(at) = checks.labels.iter().position(|known| known == label) else { continue };
            match setting {
                LimitSetting::Quota(quota) => checks.list[at].quota = *quota,
                LimitSetting::Mode(Mode::Off) => {
                    checks.list.remove(at);
                    checks.labels.remove(at);
                }
                LimitSetting::Mode(mode) => checks.list[at].enforced = *mode == Mode::On,
            }
        }
    }

    /// Applies overridden modes to the places that a request needs.
    pub(super) fn apply_to_places(&self, places: &mut WantedPlaces) {
        let overridden = self.overridden.read();
        let mode = |label: LimitLabel| {
            overridden.iter().find_map(|(known, setting)| match setting {
                LimitSetting::Mode(mode) if *known == label => Some(*mode),
                _ => None,
            })
        };
        places.retain(|place| mode(place.label) != Some(Mode::Off));
        for place in places.iter_mut() {
            place.enforced = mode(place.label).map_or(place.enforced, |mode| mode == Mode::On);
        }
    }

    /// Replaces the overrides: of the mode of the layer, and of settings of limits.
    fn override_with(&self, mode: Option<Mode>, settings: Vec<(LimitLabel, LimitSetting)>) {
        let is_changed = mode.is_some() || !settings.is_empty();
        self.mode.override_with(mode);
        *self.overridden.write() = settings;
        if is_changed {
            self.take_slow_path();
        }
    }

    /// Overwrites the mode and the changed quotas in `stats`.
    pub(super) fn overwrite<'a>(&self, stats: &mut RateLimitStats, name: impl Fn(LimitLabel) -> &'a str) {
        stats.mode = self.mode();
        let changed = self.quotas.read().iter().map(|(label, quota)| (*label, LimitSetting::Quota(*quota))).collect();
        let settings: Vec<_> = [changed, self.overridden.read().clone()].concat();
        for (label, setting) in settings {
            let name = name(label);
            for limit in stats.limits.iter_mut().filter(|limit| *limit.name == *name) {
                match setting {
                    LimitSetting::Quota(quota) => limit.quota = quota.to_string(),
                    LimitSetting::Mode(mode) => limit.mode = mode,
                }
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

    /// Returns the limits and tiers that an override of `name` concerns: those of this name, or all tiers of a limit.
    ///
    /// # Errors
    /// If there are none, or the setting is not possible for one of them.
    pub(crate) fn check_override(&self, name: &str, setting: LimitSetting) -> Result<Vec<LimitLabel>, Error> {
        let labels = self.limits.labels_named(name);
        match setting {
            _ if labels.is_empty() => {
                Err(Error::config(format!("unknown limit {name:?}; use a name listed in stats()")))
            }
            LimitSetting::Mode(_) => self.limits.check_mode_change(name, &labels).map(|()| labels),
            LimitSetting::Quota(_) if labels.len() > 1 => {
                Err(Error::config(format!("limit {name:?} has {} tiers; give one a quota", labels.len())))
            }
            LimitSetting::Quota(quota) => self.limits.label_for_change(name, quota).map(|label| vec![label]),
        }
    }

    /// Whether all requests are refused while the shared store is down.
    pub(crate) fn fails_closed(&self) -> bool {
        self.fallback.as_ref().is_some_and(|fallback| fallback.policy() == OnOutage::Deny)
    }

    /// Whether there is a store whose outages have a policy.
    pub(crate) fn has_shared_store(&self) -> bool {
        self.fallback.is_some()
    }

    /// Replaces the overrides of this layer's mode, its policy during outages, and of its limits; settings that are not possible
    /// are left out.
    pub(crate) fn override_with(
        &self,
        mode: Option<Mode>,
        on_outage: Option<OnOutage>,
        settings: &[(&str, LimitSetting)],
    ) {
        if let Some(fallback) = &self.fallback {
            fallback.override_with(on_outage);
        }
        let labels = |(name, setting): &(&str, LimitSetting)| {
            let labels = self.check_override(name, *setting).unwrap_or_default();
            let setting = *setting;
            labels.into_iter().map(move |label| (label, setting)).collect::<Vec<_>>()
        };
        self.reloaded.override_with(mode, settings.iter().flat_map(labels).collect());
    }
}
