//! Where measurements come from: wrapped futures, and the events of database drivers.

#[cfg(feature = "tracing")]
pub(super) mod harvest;
#[cfg(feature = "testing")]
pub(super) mod observe;
pub(super) mod timed;
