//! In-process engines.

mod cache;
mod limits;

pub use cache::MemoryCache;
pub use limits::MemoryLimits;
