//! The layer, the service and its future.

pub(super) mod builder;
pub(super) mod future;
pub(super) mod layer;
pub(super) mod service;
