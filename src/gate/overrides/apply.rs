//! [`OverriddenLayers`]: the layers of a gate, to which overrides apply.

use super::target::{OverrideSetting, OverrideTarget};
use crate::base::error::Error;
use crate::base::mode::Mode;
use crate::cache::CacheLayer;
use crate::limit::{LimitSetting, RateLimitLayer};
use crate::timing::TimingLayer;

/// Layers of a gate.
#[derive(Clone, Debug)]
pub(crate) struct OverriddenLayers {
    pub(crate) timing: TimingLayer,
    pub(crate) limit: RateLimitLayer,
    pub(crate) cache: CacheLayer,
}

impl OverriddenLayers {
    /// Checks that the gate has the target, and that it can have the setting.
    ///
    /// # Errors
    /// If not.
    pub(super) fn check(&self, target: &OverrideTarget, setting: OverrideSetting) -> Result<(), Error> {
        match target {
            OverrideTarget::Limits | OverrideTarget::Cache | OverrideTarget::Timing => Ok(()),
            OverrideTarget::Limit(name) => self.limit.check_override(name, limit_setting(setting)),
            OverrideTarget::Rule(pattern) => self.cache.check_override(pattern),
        }
    }

    /// Puts these settings in force, and no others.
    pub(super) fn apply<'a>(&self, settings: impl Iterator<Item = (&'a OverrideTarget, OverrideSetting)>) {
        let (mut limits, mut cache, mut timing) = (None, None, None);
        let (mut of_limits, mut of_rules): (Vec<(&str, LimitSetting)>, Vec<(&str, Mode)>) = (Vec::new(), Vec::new());
        for (target, setting) in settings {
            match (target, setting) {
                (OverrideTarget::Limits, OverrideSetting::Mode(mode)) => limits = Some(mode),
                (OverrideTarget::Cache, OverrideSetting::Mode(mode)) => cache = Some(mode),
                (OverrideTarget::Timing, OverrideSetting::Mode(mode)) => timing = Some(mode),
                (OverrideTarget::Limit(name), setting) => of_limits.push((name, limit_setting(setting))),
                (OverrideTarget::Rule(pattern), OverrideSetting::Mode(mode)) => of_rules.push((pattern, mode)),
                // Refused before.
                (_, OverrideSetting::Quota(_)) => {}
            }
        }
        self.limit.override_with(limits, &of_limits);
        self.cache.override_with(cache, &of_rules);
        self.timing.override_with(timing);
    }
}

fn limit_setting(setting: OverrideSetting) -> LimitSetting {
    match setting {
        OverrideSetting::Mode(mode) => LimitSetting::Mode(mode),
        OverrideSetting::Quota(quota) => LimitSetting::Quota(quota),
    }
}
