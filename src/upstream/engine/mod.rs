//! State shared by all calls: account, credit store, pacing, inspected bodies, statistics.

pub(super) mod body_inspector;
pub(super) mod credential;
pub(super) mod credit_store;
pub(super) mod shared;
pub(super) mod stats;
pub(super) mod wait;
