//! [`Mode`]: the mode of a layer: on, off or shadow.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;

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

/// A [`Mode`] that can be changed while requests read it: one load each.
#[derive(Debug, Default)]
pub(crate) struct ModeCell(AtomicU8);

impl ModeCell {
    #[inline]
    pub(crate) fn get(&self) -> Mode {
        match self.0.load(Ordering::Acquire) {
            0 => Mode::On,
            1 => Mode::Off,
            _ => Mode::Shadow,
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        let number = match mode {
            Mode::On => 0,
            Mode::Off => 1,
            Mode::Shadow => 2,
        };
        self.0.store(number, Ordering::Release);
    }
}
