//! Records, stores, levels, coalescing, and invalidation.

pub(crate) mod barrier;
mod barrier_filters;
pub(super) mod body_buffer;
pub(super) mod body_memory;
pub(super) mod body_pump;
pub(super) mod body_reader;
pub(super) mod byte_store;
pub(super) mod cache_engine;
pub(super) mod coalesce;
pub(crate) mod codec;
pub(super) mod compression;
pub(super) mod entry_freshness;
pub(super) mod fetch_bounds;
pub(super) mod fetch_permit;
pub(crate) mod fetch_times;
pub(super) mod hit_for_miss;
pub(super) mod invalidation;
pub(crate) mod invalidation_log;
pub(super) mod invalidation_sink;
pub(crate) mod isolated_store;
pub(crate) mod lease;
pub(crate) mod local_barriers;
mod marks;
pub(super) mod min_uses;
pub(super) mod record;
pub(super) mod refresh;
mod refresh_backoff;
#[cfg(feature = "testing")]
pub(super) mod sample;
pub(super) mod storable_routes;
pub(super) mod store;
pub(super) mod stored_keys;
pub(super) mod tee;
pub(super) mod tiered;
pub(super) mod typed_value;
