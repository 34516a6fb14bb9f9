//! The layer, the service and its future.

pub(super) mod future;
mod gate_mark;
pub(super) mod layer;
mod metrics_settings;
pub(super) mod service;
