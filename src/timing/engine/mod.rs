//! Counters per route, the log and the span of one request, and the series that metrics export.

pub(super) mod harvest_health;
pub(super) mod named_series;
pub(super) mod request_log;
pub(super) mod request_series;
pub(super) mod route_stats;
pub(super) mod settings;
pub(super) mod shared;
#[cfg(feature = "tracing")]
pub(super) mod span;
#[cfg(not(feature = "tracing"))]
#[path = "no_span.rs"]
pub(super) mod span;
pub(super) mod state;
