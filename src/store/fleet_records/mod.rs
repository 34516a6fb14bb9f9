//! Small records that the nodes of a fleet share by name: overrides of operators, snapshots of nodes, the audit.
//!
//! They are few and rarely written, and each expires. A store that is away keeps nobody from working: callers keep what they
//! know and write it later.

pub(crate) mod file;
pub(crate) mod port;
