//! In-process engines.

mod limits;

pub use limits::MemoryLimits;
