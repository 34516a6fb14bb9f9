//! [`Mode`]: the mode of a layer: on, off or shadow.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;

use super::lock::Mutex;

/// Mode of a layer.
///
/// ```
/// use tollgate::limit::{Quota, RateLimitLayer};
/// use tollgate::Mode;
///
/// let layer = RateLimitLayer::per_ip(Quota::per_minute(20));
/// layer.set_mode(Mode::Shadow); // from now on it only counts rejections
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mode {
    /// Works normally.
    #[default]
    On,
    /// Passes requests through unchanged.
    Off,
    /// Decides and counts without changing requests or responses.
    Shadow,
}

/// A [`Mode`] that can be changed and overridden while requests read it: one load each.
#[derive(Debug, Default)]
pub(crate) struct ModeCell {
    in_force: AtomicU8,
    settings: Mutex<ModeSettings>,
}

#[derive(Debug, Default)]
struct ModeSettings {
    configured: Mode,
    overridden: Option<Mode>,
}

impl ModeCell {
    #[inline]
    pub(crate) fn get(&self) -> Mode {
        match self.in_force.load(Ordering::Acquire) {
            0 => Mode::On,
            1 => Mode::Off,
            _ => Mode::Shadow,
        }
    }

    /// Changes the configured mode, which is in force unless it is overridden.
    pub(crate) fn set(&self, mode: Mode) {
        self.change(|settings| settings.configured = mode);
    }

    /// Overrides the configured mode, or ends that.
    pub(crate) fn override_with(&self, mode: Option<Mode>) {
        self.change(|settings| settings.overridden = mode);
    }

    fn change(&self, change: impl FnOnce(&mut ModeSettings)) {
        let mut settings = self.settings.lock();
        change(&mut settings);
        let number = match settings.overridden.unwrap_or(settings.configured) {
            Mode::On => 0,
            Mode::Off => 1,
            Mode::Shadow => 2,
        };
        self.in_force.store(number, Ordering::Release);
    }
}

impl Mode {
    /// Returns the name: `on`, `off` or `shadow`.
    ///
    /// ```
    /// assert_eq!(tollgate::Mode::Shadow.as_str(), "shadow");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Shadow => "shadow",
        }
    }

    /// Returns the mode of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::On, Self::Off, Self::Shadow].into_iter().find(|mode| mode.as_str() == name)
    }

    /// Returns the mode of a part whose whole is in another mode: off prevails over shadow, and shadow over on.
    #[cfg(feature = "admin")]
    pub(crate) fn within(self, whole: Self) -> Self {
        match (self, whole) {
            (Self::Off, _) | (_, Self::Off) => Self::Off,
            (Self::Shadow, _) | (_, Self::Shadow) => Self::Shadow,
            (Self::On, Self::On) => Self::On,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_prevails_until_it_ends_and_keeps_what_is_configured_meanwhile() {
        let cell = ModeCell::default();
        cell.override_with(Some(Mode::Shadow));
        cell.set(Mode::Off);
        assert_eq!(cell.get(), Mode::Shadow);
        cell.override_with(None);
        assert_eq!(cell.get(), Mode::Off);
    }
}
