//! Typed values over the engine of the HTTP cache.

mod builder;
mod cached;
mod data_cache;
mod fleet;
mod life;
mod load;
mod loaded;
mod many;
mod parts;
mod patience;
pub(crate) mod record;
mod space;
mod stats;
mod take_back;
mod warm;

pub use builder::CachedBuilder;
pub use cached::Cached;
pub use data_cache::{DataBuilder, DataCache};
pub use loaded::{LoadError, Loaded};
pub use parts::{KeyPart, KeyWriter};
pub use stats::DataStats;
pub use take_back::TakeBack;
pub use warm::{Pace, Warmed};
