//! In-process engines.

mod cache;

pub use cache::MemoryCache;
