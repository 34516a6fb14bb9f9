//! [`OutageSwitch`]: switches a store off by hand, as if its server were away.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Switch of a guarded store. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct OutageSwitch(Arc<AtomicBool>);

/// Name of a store, and its switch.
pub(crate) type StoreSwitch = (String, OutageSwitch);

impl OutageSwitch {
    /// Switches the store off, or on again: then it reconnects with the next call.
    pub(crate) fn set_off(&self, is_off: bool) {
        self.0.store(is_off, Ordering::Relaxed);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for OutageSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_off() { "off" } else { "on" })
    }
}
