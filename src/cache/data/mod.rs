//! Typed values over the engine of the HTTP cache. What they do, when, is told in the essay of [`cache`](super).
//!
//! | files | what they hold |
//! |---|---|
//! | `parts` `record` `shape` `life` | decisions: how keys and values are written, how long values live |
//! | `cached` `many` `warm` | the handle: one key, many, all there are |
//! | `load` `patience` `fleet` | what happens where nothing fresh is there |
//! | `space` `stats` | a namespace's state, whatever its values are |
//! | `data_cache` `builder` `loaded` `invalidate` | what users write |

mod builder;
mod cached;
mod data_cache;
mod deadlines;
mod fleet;
mod invalidate;
mod key;
mod load;
mod loaded;
mod many;
mod namespace;
pub(crate) mod record;
mod shape;
mod stats;
mod ttl;
mod warm;

pub use builder::CachedBuilder;
pub use cached::Cached;
pub use data_cache::{DataBuilder, DataCache};
pub use invalidate::DataInvalidate;
pub use key::{KeyPart, KeyWriter};
pub use loaded::{LoadError, Loaded};
pub use stats::DataStats;
pub use warm::{WarmUpLimits, WarmUpReport};
