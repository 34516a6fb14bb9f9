//! Causes of a remote store's outage.

use std::fmt;

/// Cause of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    /// The breaker is open.
    Open,
    /// The answer did not arrive by the deadline.
    Deadline,
    /// There is no connection, or it broke.
    Disconnected,
    /// The server rejected the call.
    Refused,
    /// The server rejected the credentials.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "the others' rejections cost little to repeat"))]
    Denied,
    /// An operator has switched the store off.
    SwitchedOff,
    /// The server keeps no log of invalidations.
    Unlogged,
    /// The queue is full: the answer would arrive too late.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    Full,
}

impl Outage {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "it has failed often lately and was not asked",
            Self::Deadline => "it did not answer in time",
            Self::Disconnected => "it is not connected",
            Self::Refused => "it refused",
            Self::Denied => "it rejected the credentials",
            Self::SwitchedOff => "it is switched off",
            Self::Unlogged => "it keeps no log",
            #[cfg(any(feature = "postgres", feature = "redis"))]
            Self::Full => "too much waits for it already",
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Outage {}
