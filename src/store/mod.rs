//! Storage engines, each named in one folder.
pub mod memory;
