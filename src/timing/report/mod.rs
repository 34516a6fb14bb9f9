//! Statistics as Prometheus text and as a `Server-Timing` field.

pub(super) mod prometheus;
pub(super) mod server_timing;
