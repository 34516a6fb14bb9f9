//! [`Failure`]: whether a directory has failed, and why. A failed one is closed, and opened again.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::error::Error;
use crate::base::lock::Mutex;

/// First failure of an open directory.
#[derive(Debug, Default)]
pub(super) struct Failure {
    has_failed: AtomicBool,
    reason: Mutex<Option<String>>,
}

impl Failure {
    pub(super) fn set(&self, reason: String) {
        self.reason.lock().get_or_insert(reason);
        self.has_failed.store(true, Ordering::Release);
    }

    /// # Errors
    /// The reason for which the directory has to be opened again.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.has_failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::disconnected(self.reason.lock().clone().unwrap_or_default()))
    }

    pub(super) fn is_set(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }
}
