//! State shared by all calls: account, credit store, pacing, inspected bodies, statistics.

pub(super) mod body_inspector;
pub(super) mod call_series;
pub(super) mod credential;
pub(super) mod credit_store;
pub(super) mod metrics;
pub(super) mod shared;
pub(super) mod stats;
pub(super) mod wait;
