//! Efficiency by endpoint, with a score.

pub(super) mod efficiency;
pub(super) mod score;
