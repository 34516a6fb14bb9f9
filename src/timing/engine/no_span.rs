//! Replaces the request span if the feature `tracing` is off.

use crate::base::detached_context::LogSlot;

/// Placeholder for the span of a request.
pub(crate) struct RequestSpan;

impl RequestSpan {
    pub(crate) const fn none() -> Self {
        Self
    }

    pub(crate) const fn open(_slot: &mut LogSlot) -> Self {
        Self
    }

    #[inline]
    pub(crate) fn enter<R>(&self, work: impl FnOnce() -> R) -> R {
        work()
    }
}

pub(super) const fn silence_cause() -> &'static str {
    ""
}
