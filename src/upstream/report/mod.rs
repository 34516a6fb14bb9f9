//! How well a quota is used: efficiency by endpoint, with its score.

pub(super) mod efficiency;
pub(super) mod score;
