//! How a gate is doing, as pure functions of counted numbers: timeline by minute, score, objectives, degradation, advice and a
//! report. Nothing here reads a clock, a store or a layer.
//!
//! ```text
//! totals ─ every 10 s ─► timeline ─► windows ─┬─► score ─► band
//!                                            ├─► objectives ─► burn rates
//!                state of stores, quotas ────┼─► degradation, with hysteresis
//!                                            └─► advice, report
//! ```

pub(crate) mod advice;
pub(crate) mod checks;
pub(crate) mod degradation;
pub(crate) mod observed;
pub(crate) mod report;
pub(crate) mod score;
pub(crate) mod slo;
pub(crate) mod targets;
pub(crate) mod timeline;
pub(crate) mod totals;
