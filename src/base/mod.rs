//! Shared vocabulary: time, errors, events, request heads, header fields, bodies.

pub mod body;
pub(crate) mod budget;
pub(crate) mod calendar;
pub(crate) mod clock;
pub(crate) mod codec;
pub(crate) mod detached_context;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod headers;
pub(crate) mod json_units;
pub(crate) mod lock;
pub(crate) mod maybe_ready;
pub(crate) mod metrics;
pub(crate) mod mode;
pub(crate) mod outage;
pub(crate) mod random;
pub(crate) mod request_head;
pub(crate) mod route;
pub(crate) mod route_matcher;
pub(crate) mod sharded_counter;
#[cfg(any(feature = "admin", feature = "config", feature = "jobs"))]
pub(crate) mod span;
pub(crate) mod structured_fields;
