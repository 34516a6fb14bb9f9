//! Why a remote store did not answer.

use std::fmt;

/// Why a remote store did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    /// It has failed often lately, so it was not asked.
    Open,
    /// It did not answer in time.
    Deadline,
    /// There is no connection, or it broke.
    Disconnected,
    /// It refused.
    Refused,
    /// So much waits for it already that it would answer too late.
    Full,
}

impl Outage {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "it has failed often lately and was not asked",
            Self::Deadline => "it did not answer in time",
            Self::Disconnected => "it is not connected",
            Self::Refused => "it refused",
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
