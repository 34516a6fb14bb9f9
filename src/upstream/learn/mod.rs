//! Reads limits from the header fields of an upstream's responses.

pub(super) mod headers;
pub(super) mod observed_limits;
pub(super) mod reset_time;
