//! The limiter: stores, fallback, tier look-up, reload, statistics.

pub(super) mod concurrency;
pub(super) mod deny;
pub(super) mod fallback;
pub(super) mod held_places;
pub(super) mod isolated_store;
pub(super) mod limiter;
pub(super) mod log_sampler;
pub(super) mod metrics;
pub(super) mod named_decisions;
pub(super) mod outcome_charge;
pub(super) mod overrides;
pub(super) mod pending_place;
pub(super) mod pending_settlement;
pub(super) mod refusals;
pub(super) mod reload;
pub(super) mod report;
pub(super) mod reservation;
pub(super) mod response_edits;
pub(super) mod shared_limits;
pub(super) mod stats;
pub(super) mod store;
pub(super) mod subject;
pub(super) mod tier_cache;
pub(super) mod tier_resolver;
pub(super) mod unsettled;
