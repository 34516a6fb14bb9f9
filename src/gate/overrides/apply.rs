//! [`OverriddenLayers`]: the layers of a gate, to which overrides apply.

use super::target::{OverrideSetting, OverrideTarget};
use crate::base::error::Error;
use crate::base::mode::Mode;
use crate::cache::CacheLayer;
use crate::limit::{LimitSetting, RateLimitLayer};
use crate::resilience::outage_switch::StoreSwitch;
use crate::timing::TimingLayer;

/// Layers of a gate.
#[derive(Clone, Debug)]
pub(crate) struct OverriddenLayers {
    pub(crate) timing: TimingLayer,
    pub(crate) limit: RateLimitLayer,
    pub(crate) cache: CacheLayer,
    /// Switches of the shared stores, one for each use of a store.
    pub(crate) switches: Vec<StoreSwitch>,
}

impl OverriddenLayers {
    /// Checks that the gate has the target, and that it can have the setting.
    ///
    /// # Errors
    /// If not.
    pub(super) fn check(&self, target: &OverrideTarget, setting: OverrideSetting) -> Result<(), Error> {
        match target {
            OverrideTarget::Limits if matches!(setting, OverrideSetting::OnOutage(_)) => {
                match self.limit.has_shared_store() {
                    true => Ok(()),
                    false => Err(Error::config("the limits are in this process alone, so no outage concerns them")),
                }
            }
            OverrideTarget::Cache if setting == OverrideSetting::Conserve && !self.cache.has_budget() => {
                Err(Error::config(
                    "the cache has no budget; give it that of an upstream: cache_with(|cache| cache.budget(upstream.budget()))",
                ))
            }
            OverrideTarget::Limits | OverrideTarget::Cache | OverrideTarget::Timing => Ok(()),
            OverrideTarget::Limit(name) => match limit_setting(setting) {
                Some(setting) => self.limit.check_override(name, setting),
                None => Ok(()),
            },
            OverrideTarget::Rule(pattern) => self.cache.check_override(pattern),
            OverrideTarget::Store(_) if setting == OverrideSetting::Mode(Mode::Shadow) => {
                Err(Error::config("a store is on or off"))
            }
            OverrideTarget::Store(name) => match self.switches.iter().any(|(known, _)| known == name) {
                true => Ok(()),
                false => {
                    let known: Vec<_> = self.switches.iter().map(|(name, _)| name).collect();
                    Err(Error::config(format!("unknown store {name:?}; use one of {known:?}")))
                }
            },
        }
    }

    /// Puts these settings in force, and no others.
    pub(super) fn apply<'a>(&self, settings: impl Iterator<Item = (&'a OverrideTarget, OverrideSetting)>) {
        let (mut limits, mut cache, mut timing, mut on_outage, mut conserves) = (None, None, None, None, false);
        let (mut of_limits, mut of_rules, mut off_stores) = (Vec::new(), Vec::new(), Vec::new());
        for (target, setting) in settings {
            match (target, setting) {
                (OverrideTarget::Limits, OverrideSetting::Mode(mode)) => limits = Some(mode),
                (OverrideTarget::Cache, OverrideSetting::Mode(mode)) => cache = Some(mode),
                (OverrideTarget::Timing, OverrideSetting::Mode(mode)) => timing = Some(mode),
                (OverrideTarget::Limits, OverrideSetting::OnOutage(policy)) => on_outage = Some(policy),
                (OverrideTarget::Cache, OverrideSetting::Conserve) => conserves = true,
                (OverrideTarget::Limit(name), setting) => {
                    of_limits.extend(limit_setting(setting).map(|setting| (name.as_str(), setting)));
                }
                (OverrideTarget::Rule(pattern), OverrideSetting::Mode(mode)) => of_rules.push((pattern.as_str(), mode)),
                (OverrideTarget::Store(name), OverrideSetting::Mode(Mode::Off)) => off_stores.push(name.as_str()),
                // Refused before.
                _ => {}
            }
        }
        self.limit.override_with(limits, on_outage, &of_limits);
        self.cache.conserve(conserves);
        self.cache.override_with(cache, &of_rules);
        self.timing.override_with(timing);
        self.switches.iter().for_each(|(name, switch)| switch.set_off(off_stores.contains(&name.as_str())));
    }
}

fn limit_setting(setting: OverrideSetting) -> Option<LimitSetting> {
    match setting {
        OverrideSetting::Mode(mode) => Some(LimitSetting::Mode(mode)),
        OverrideSetting::Quota(quota) => Some(LimitSetting::Quota(quota)),
        OverrideSetting::OnOutage(_) | OverrideSetting::Conserve => None,
    }
}
