//! [`Rejected`]: a call that was not made, and why; [`Error`]: that, or the client's own error.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Why a call was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RejectedReason {
    /// Its class has used up its share of a quota.
    Quota,
    /// It would have had to wait for its turn for longer than calls may.
    Paced,
    /// The upstream fails, or is slow, so often that calling it is in vain.
    CircuitOpen,
    /// The upstream said to wait.
    ToldToWait,
}

impl RejectedReason {
    pub(crate) const COUNT: usize = 4;
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Quota, Self::Paced, Self::CircuitOpen, Self::ToldToWait];

    /// The same word as in statistics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Paced => "paced",
            Self::CircuitOpen => "circuit_open",
            Self::ToldToWait => "told_to_wait",
        }
    }
}

/// A call that was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejected {
    /// The upstream's name, as given to the layer.
    pub upstream: Box<str>,
    /// Why.
    pub reason: RejectedReason,
    /// When the same call may be worth trying.
    pub retry_after: Duration,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            RejectedReason::Quota => "its quota is used up",
            RejectedReason::Paced => "its turn comes too late",
            RejectedReason::CircuitOpen => "its circuit is open",
            RejectedReason::ToldToWait => "it said to wait",
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
    /// The call was not made.
    Rejected(Rejected),
    /// The client's own error, untouched.
    Inner(E),
}

impl<E> Error<E> {
    /// Why the call was not made, where it was not.
    pub const fn shed(&self) -> Option<&Rejected> {
        match self {
            Self::Rejected(shed) => Some(shed),
            Self::Inner(_) => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(shed) => shed.fmt(f),
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
