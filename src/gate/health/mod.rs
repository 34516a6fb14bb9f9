//! Health of a gate: counts are collected every ten seconds and judged by the pure functions of `health/`.

mod collect;
mod engine;
mod probes;
pub(crate) mod settings;
pub(crate) mod status;

pub(super) use collect::CollectedLayers;
pub(super) use engine::HealthEngine;
#[cfg(feature = "admin")]
pub(crate) use engine::RecentMinutes;
