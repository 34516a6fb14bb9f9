//! Statistics as metrics and as a `Server-Timing` field.

pub(super) mod metrics;
pub(super) mod server_timing;
