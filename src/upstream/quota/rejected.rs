//! [`Rejected`]: a call that was not sent; [`Error`]: that, or the client's own error.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Reason for not sending a call.
///
/// ```
/// use tollgate::upstream::RejectedReason;
///
/// assert_eq!(RejectedReason::CircuitOpen.as_str(), "circuit_open");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RejectedReason {
    /// Its priority class has used its share of a quota.
    Quota,
    /// Its turn comes later than the maximum wait.
    Paced,
    /// The circuit is open, because the upstream fails or is slow.
    CircuitOpen,
    /// The upstream requested a pause, for example by `Retry-After`.
    RetryAfter,
}

impl RejectedReason {
    pub(super) const COUNT: usize = 4;
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Quota, Self::Paced, Self::CircuitOpen, Self::RetryAfter];

    /// Returns the identifier used in statistics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Paced => "paced",
            Self::CircuitOpen => "circuit_open",
            Self::RetryAfter => "retry_after",
        }
    }
}

/// Call that was not sent.
///
/// ```
/// use tollgate::upstream::Rejected;
///
/// fn retry_seconds(rejected: &Rejected) -> u64 {
///     rejected.retry_after.as_secs() + 1
/// }
/// # let _ = retry_seconds;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejected {
    /// Name of the upstream, as given to the layer.
    pub upstream: Box<str>,
    /// Reason.
    pub reason: RejectedReason,
    /// Time after which the same call may succeed.
    pub retry_after: Duration,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            RejectedReason::Quota => "its quota is used up",
            RejectedReason::Paced => "its turn comes later than the maximum wait",
            RejectedReason::CircuitOpen => "its circuit is open",
            RejectedReason::RetryAfter => "it requested a pause",
        };
        write!(f, "{} was not called: {why}; again in {:.1} s", self.upstream, self.retry_after.as_secs_f64())
    }
}

impl std::error::Error for Rejected {}

/// Error of a call through an [`UpstreamLayer`](crate::upstream::UpstreamLayer).
///
/// ```
/// use tollgate::upstream::Error;
///
/// fn status<E>(error: &Error<E>) -> u16 {
///     match error {
///         Error::Rejected(_) => 503,
///         Error::Inner(_) => 502,
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a call is made or it is not")]
pub enum Error<E> {
    /// The call was not sent.
    Rejected(Rejected),
    /// The client's own error, unchanged.
    Inner(E),
}

impl<E> Error<E> {
    /// Returns the rejection, if the call was not sent.
    ///
    /// ```
    /// use tollgate::upstream::Error;
    ///
    /// let error = Error::Inner(std::io::Error::other("connection reset"));
    /// assert!(error.rejected().is_none());
    /// ```
    pub const fn rejected(&self) -> Option<&Rejected> {
        match self {
            Self::Rejected(rejected) => Some(rejected),
            Self::Inner(_) => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejected) => rejected.fmt(f),
            Self::Inner(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rejected(_) => None,
            Self::Inner(error) => error.source(),
        }
    }
}
