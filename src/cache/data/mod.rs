//! Typed values in the engine of the HTTP cache. The module [`cache`](super) documents their behaviour.
//!
//! | files | contents |
//! |---|---|
//! | `key` `encoding` `value_size` `ttl` | decisions: encoding of keys and values, sizes, lifetimes |
//! | `cached` `many` `warm` | the handle: one key, many keys, warm-up |
//! | `load` | misses: coalesced loads and their timeouts |
//! | `namespace` `stats` | state of a namespace, independent of the value type |
//! | `data_cache` `builder` `loaded` `invalidate` | the public interface |

mod builder;
mod cached;
mod data_cache;
mod encoding;
mod invalidate;
mod key;
mod load;
mod loaded;
mod many;
mod namespace;
mod stats;
mod ttl;
mod value_size;
mod warm;

pub use builder::CachedBuilder;
pub use cached::Cached;
pub use data_cache::{DataBuilder, DataCache};
pub use invalidate::DataInvalidate;
pub use key::{KeyPart, KeyWriter};
pub use loaded::{LoadError, Loaded};
pub use stats::DataStats;
pub use warm::{WarmUpLimits, WarmUpReport};
