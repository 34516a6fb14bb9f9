//! Limits, tiers, checks, and the fields and bodies of responses.

pub(super) mod compiled;
pub(super) mod compiled_quota;
pub(super) mod concurrency;
pub(super) mod count;
pub(super) mod decision;
pub(super) mod grpc;
pub(super) mod headers;
pub(super) mod limit;
pub(super) mod named_subject;
pub(super) mod reference;
pub(super) mod reject;
pub(super) mod tier_lookup;
pub(super) mod tiers;
pub(super) mod wanted_place;
