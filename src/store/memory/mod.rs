//! In-process engines of fixed capacity, without sweeps on the request path.
//!
//! | engine | contents | bound | eviction |
//! |---|---|---|---|
//! | [`MemoryLimits`] | rate-limit state | keys | the key with the smallest used share of its limit, by sampling |
//! | [`MemoryCache`] | responses | bytes | the least frequently requested entry (`moka`) |

mod cache;
mod hashed;
mod limits;
mod shard;
mod slab;
mod table;

pub use cache::MemoryCache;
pub use limits::MemoryLimits;
