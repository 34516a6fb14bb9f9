//! Limits shared through a remote store: what every engine has in common. An engine is a [`LimitBackend`](backend::LimitBackend).

pub(super) mod backend;
pub(super) mod engine;
pub(super) mod group;
pub(super) mod handle;
mod local_cache;
#[cfg(test)]
pub(super) mod model;
mod queue;
mod worker;
