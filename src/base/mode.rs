//! [`Switch`]: the mode of a layer: on, off or shadow.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;

/// Mode of a layer.
///
/// ```
/// use tollgate::limit::{Quota, RateLimitLayer};
/// use tollgate::Switch;
///
/// let layer = RateLimitLayer::per_ip(Quota::per_minute(20));
/// layer.switch(Switch::Shadow); // from now on it only counts rejections
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Switch {
    /// Works normally.
    #[default]
    On,
    /// Passes requests through unchanged.
    Off,
    /// Decides and counts without changing requests or responses.
    Shadow,
}

/// A [`Switch`] that can be changed while requests read it: one load each.
#[derive(Debug, Default)]
pub(crate) struct SwitchCell(AtomicU8);

impl SwitchCell {
    #[inline]
    pub(crate) fn get(&self) -> Switch {
        match self.0.load(Ordering::Acquire) {
            0 => Switch::On,
            1 => Switch::Off,
            _ => Switch::Shadow,
        }
    }

    pub(crate) fn set(&self, switch: Switch) {
        let number = match switch {
            Switch::On => 0,
            Switch::Off => 1,
            Switch::Shadow => 2,
        };
        self.0.store(number, Ordering::Release);
    }
}
