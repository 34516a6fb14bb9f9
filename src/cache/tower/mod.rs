//! Layer, service and future; carries out the decisions of [`http`](super::http).

mod build;
pub(super) mod builder;
mod completion;
mod empty_body;
#[cfg(feature = "admin")]
pub(super) mod explain;
pub(super) mod fetch;
mod fetch_progress;
mod follow;
pub(super) mod future;
pub(super) mod invalidate;
pub(super) mod layer;
mod lead;
pub(super) mod live_rules;
pub(super) mod lookup;
mod metrics;
mod next_step;
pub(super) mod origin;
pub(super) mod partial;
pub(super) mod respond;
pub(super) mod serve;
mod serve_stored;
pub(super) mod service;
pub(super) mod shared;
mod soft_timeout;
pub(super) mod stats;
pub(super) mod store_response;
pub(super) mod stream_and_store;
mod uncovered;
pub(super) mod unsafe_invalidation;
pub(super) mod update_from_304;
#[cfg(feature = "webhook")]
pub(super) mod webhook;
