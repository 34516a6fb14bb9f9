//! Replaces the request span if the feature `tracing` is off.

use crate::base::detached_context::{LogSlot, Notes};
use crate::base::metrics::http_labels::RequestLabels;

/// Placeholder for the span of a request.
pub(crate) struct RequestSpan;

impl RequestSpan {
    pub(crate) const fn none() -> Self {
        Self
    }

    pub(crate) const fn open(_slot: &mut LogSlot) -> Self {
        Self
    }

    pub(crate) const fn described(_slot: &mut LogSlot, _method: &str, _route: &str, _is_client: bool) -> Self {
        Self
    }

    pub(crate) const fn is_open(&self) -> bool {
        false
    }

    pub(crate) const fn finish(&self, _labels: Option<RequestLabels>, _errors_from: u16, _notes: Notes) {}

    #[inline]
    pub(crate) fn enter<R>(&self, work: impl FnOnce() -> R) -> R {
        work()
    }
}

pub(super) const fn silence_cause() -> &'static str {
    ""
}
