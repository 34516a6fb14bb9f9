//! [`OverrideTarget`] and [`OverrideSetting`]: what an override changes, and to which value.

use std::fmt;

use crate::base::error::Error;
use crate::base::mode::Mode;
use crate::limit::{OnOutage, Quota};

/// Value of a budget that is saved.
const CONSERVE: &str = "conserve";

/// Part of a gate whose setting can be overridden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OverrideTarget {
    /// All limits.
    Limits,
    /// A limit, or one of its tiers.
    Limit(String),
    /// The cache.
    Cache,
    /// The cache rule of a route.
    Rule(String),
    /// Timing.
    Timing,
    /// A shared store, by the name of its level.
    Store(String),
}

/// Value of an overridden setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OverrideSetting {
    Mode(Mode),
    Quota(Quota),
    /// Decisions on limits while the shared store is unavailable.
    OnOutage(OnOutage),
    /// Saves calls as if nothing of the cache's budget were left.
    Conserve,
}

impl OverrideTarget {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        match text.trim().split_once(' ') {
            None if text == "limits" => Ok(Self::Limits),
            None if text == "cache" => Ok(Self::Cache),
            None if text == "timing" => Ok(Self::Timing),
            Some(("limit", name)) => Ok(Self::Limit(name.trim().to_owned())),
            Some(("store", name)) => Ok(Self::Store(name.trim().to_owned())),
            Some(("rule", pattern)) => Ok(Self::Rule(pattern.trim().to_owned())),
            _ => Err(Error::config(format!(
                "unknown target {text:?}; use limits, cache, timing, \"limit NAME\", \"rule ROUTE\" or \"store NAME\""
            ))),
        }
    }
}

impl fmt::Display for OverrideTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limits => f.write_str("limits"),
            Self::Limit(name) => write!(f, "limit {name}"),
            Self::Cache => f.write_str("cache"),
            Self::Rule(pattern) => write!(f, "rule {pattern}"),
            Self::Timing => f.write_str("timing"),
            Self::Store(name) => write!(f, "store {name}"),
        }
    }
}

impl OverrideSetting {
    /// Returns the name of the setting, under which a target has at most one override.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Mode(_) => "mode",
            Self::Quota(_) => "quota",
            Self::OnOutage(_) => "on_outage",
            Self::Conserve => "budget",
        }
    }

    /// Reads the value of a setting whose name is not given: each has values of its own.
    #[cfg(any(feature = "admin", test))]
    pub(super) fn guess(value: &str) -> Result<Self, Error> {
        let names = ["mode", "on_outage", "budget"];
        let found = names.into_iter().find_map(|name| Self::parse(name, value).ok());
        match found {
            Some(setting) => Ok(setting),
            None if value.contains('/') => Self::parse("quota", value),
            None => Err(Error::config(format!(
                "unknown value {value:?}; use on, off, shadow, a quota such as 500/min, local, share:N, allow, deny or conserve"
            ))),
        }
    }

    /// Reads the value of a setting of this name.
    pub(super) fn parse(name: &str, value: &str) -> Result<Self, Error> {
        match name {
            "mode" => Mode::named(value)
                .map(Self::Mode)
                .ok_or_else(|| Error::config(format!("unknown mode {value:?}; use on, off or shadow"))),
            "quota" => Quota::try_from(value).map(Self::Quota),
            "on_outage" => OnOutage::named(value)
                .map(Self::OnOutage)
                .ok_or_else(|| Error::config(format!("unknown policy {value:?}; use local, share:N, allow or deny"))),
            "budget" if value == CONSERVE => Ok(Self::Conserve),
            _ => Err(Error::config(format!("unknown setting {name:?}; use mode, quota, on_outage or budget"))),
        }
    }
}

impl fmt::Display for OverrideSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode(mode) => f.write_str(mode.as_str()),
            Self::Quota(quota) => quota.fmt(f),
            Self::OnOutage(policy) => f.write_str(&policy.to_text()),
            Self::Conserve => f.write_str(CONSERVE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_settings_read_back_as_they_are_written() {
        for text in ["limits", "cache", "timing", "limit api-pro", "rule /prices/{symbol}", "store redis"] {
            assert_eq!(OverrideTarget::parse(text).expect(text).to_string(), text);
        }
        for text in ["", "limit", "rule", "store", "the cache", "caches"] {
            assert!(OverrideTarget::parse(text).is_err(), "{text:?}");
        }
        for (name, value) in [
            ("mode", "shadow"),
            ("quota", "100/min"),
            ("on_outage", "share:4"),
            ("on_outage", "deny"),
            ("budget", "conserve"),
        ] {
            let setting = OverrideSetting::parse(name, value).expect(value);
            assert_eq!((setting.name(), setting.to_string().as_str()), (name, value));
            assert_eq!(OverrideSetting::guess(value).expect(value), setting);
        }
        for (name, value) in [("mode", "Shadow"), ("quota", "many"), ("ttl", "9"), ("on_outage", "share:0")] {
            assert!(OverrideSetting::parse(name, value).is_err(), "{value:?}");
        }
    }
}
