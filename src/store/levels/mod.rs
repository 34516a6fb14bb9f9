//! Several levels in one cache: their list while it is configured, and their chain.

pub(crate) mod level_chain;
pub(crate) mod level_list;
