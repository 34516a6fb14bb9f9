//! The verdict of one limit on one request.

use std::fmt;
use std::time::Duration;

use smallvec::SmallVec;

use crate::base::clock::nanos;

/// What one limit says of one request. Twenty-four bytes without a gap, for it is copied on every request: a gap would
/// make the copy wait for stores of another width.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Nanoseconds until the request would be admitted; zero where it is.
    pub(crate) wait: u64,
    reset: u64,
    pub(crate) remaining: u64,
}

impl Verdict {
    /// A verdict: admitted where `wait` is `None`, else refused for that long (at least a nanosecond). `remaining` is
    /// how many more would be admitted now, `reset` how long until `remaining` would be the whole limit.
    #[must_use]
    pub const fn new(wait: Option<Duration>, remaining: u32, reset: Duration) -> Self {
        let wait = match wait {
            None => 0,
            Some(wait) if wait.is_zero() => 1,
            Some(wait) => nanos(wait),
        };
        Self::of(wait, remaining, nanos(reset))
    }

    /// A verdict in nanoseconds; a wait of zero admits.
    pub(crate) const fn of(wait: u64, remaining: u32, reset: u64) -> Self {
        Self { wait, reset, remaining: remaining as u64 }
    }

    /// Whole seconds until all of the limit is there again, rounded up.
    pub(crate) const fn reset_seconds(&self) -> u64 {
        self.reset.div_ceil(1_000_000_000)
    }

    /// Whether the request is admitted.
    #[must_use]
    pub const fn admits(&self) -> bool {
        self.wait == 0
    }

    /// `None` where the request is admitted, else how long until it would be.
    #[must_use]
    pub const fn wait(&self) -> Option<Duration> {
        if self.wait == 0 { None } else { Some(Duration::from_nanos(self.wait)) }
    }

    /// How many more requests would be admitted now.
    #[must_use]
    pub const fn remaining(&self) -> u32 {
        self.remaining as u32
    }

    /// How long until [`remaining`](Self::remaining) would be the whole limit.
    #[must_use]
    pub const fn reset(&self) -> Duration {
        Duration::from_nanos(self.reset)
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Verdict");
        out.field("wait", &self.wait()).field("remaining", &self.remaining).field("reset", &self.reset()).finish()
    }
}

/// The verdicts on one request, in the order of its checks. Two limits fit without an allocation.
pub type Verdicts = SmallVec<[Verdict; 2]>;
