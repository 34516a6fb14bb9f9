//! In-process engines: bounded, without a sweep on the request path.
//!
//! | engine | holds | bound | when full |
//! |---|---|---|---|
//! | [`MemoryLimits`] | what keys have done | keys | who stood furthest from its limit makes room |
//! | [`MemoryCache`] | responses | bytes | what is asked for least makes room (`moka`) |

mod cache;
mod hashed;
mod limits;
mod shard;
mod slab;
mod table;

pub use cache::MemoryCache;
pub use limits::MemoryLimits;
