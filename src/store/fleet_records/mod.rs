//! Small records that the nodes of a fleet share by name: overrides of operators, snapshots of nodes, the audit.
//!
//! They are few and rarely written, and each expires. While the store is away, callers keep what they
//! know and write it later.

pub(crate) mod file;
#[cfg(feature = "jobs")]
pub(crate) mod memory;
pub(crate) mod port;
