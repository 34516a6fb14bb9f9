//! Metrics: the families, what fills them with values, and the outputs.

pub(crate) mod bounds;
pub(crate) mod duration_counts;
#[cfg(feature = "metrics")]
pub(crate) mod facade;
#[cfg(not(feature = "metrics"))]
#[path = "no_facade.rs"]
pub(crate) mod facade;
pub(crate) mod family;
pub(crate) mod http_labels;
pub(crate) mod samples;
pub(crate) mod text;
