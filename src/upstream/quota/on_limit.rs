//! [`OnLimit`]: treatment of calls beyond the quota.

use std::time::Duration;

/// Treatment of a call that the quota, the upstream or the circuit rejects.
///
/// ```
/// use std::time::Duration;
/// use tollgate::upstream::{Credits, OnLimit, UpstreamLayer};
///
/// let layer = UpstreamLayer::builder("search")
///     .quota(Credits::per_minute(100))
///     .on_limit(OnLimit::Wait(Duration::from_secs(2)))
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnLimit {
    /// Sends the call anyway, and counts it as one that would have been rejected.
    Observe,
    /// Waits up to this long if the call can be sent by then; otherwise fails at once with a
    /// [`Rejected`](crate::upstream::Rejected).
    Wait(Duration),
    /// Fails at once with a [`Rejected`](crate::upstream::Rejected).
    #[default]
    Reject,
}

impl OnLimit {
    /// Returns the identifier used in statistics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Wait(_) => "wait",
            Self::Reject => "reject",
        }
    }

    /// Returns how long a call may wait.
    pub(crate) const fn max_wait(self) -> Duration {
        match self {
            Self::Wait(most) => most,
            Self::Observe | Self::Reject => Duration::ZERO,
        }
    }
}
