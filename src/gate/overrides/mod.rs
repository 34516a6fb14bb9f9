//! Overrides: settings that operators change for a time, on this node or in the fleet.
//!
//! Precedence: code, then an override. An override applies here at once, then it is written to the shared store, from which the
//! other nodes read it within two seconds. While the store is away it stays pending and is written later, unless it has ended
//! by then.

mod apply;
mod engine;
pub(crate) mod handle;
pub(crate) mod spec;
pub(crate) mod status;
mod table;
mod target;

pub(super) use apply::OverriddenLayers;
pub(super) use engine::OverrideEngine;
