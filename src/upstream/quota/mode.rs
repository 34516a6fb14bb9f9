//! [`Mode`]: the treatment of calls beyond the quota; [`CallPace`]: their spacing; and their priorities:
//! [`Priority`].

use std::num::NonZeroU32;
use std::time::Duration;

use crate::base::error::Error;

/// Treatment of a call that the quota, the upstream or the circuit refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// It is made all the same, and counted as one that would not have been.
    Observe,
    /// It waits, at most that long, where it may be made by then; otherwise it fails at once with a
    /// [`Reject`](crate::upstream::Rejected).
    Wait(Duration),
    /// It fails at once with a [`Reject`](crate::upstream::Rejected).
    #[default]
    Reject,
}

impl Mode {
    /// The word for it in statistics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Wait(_) => "wait",
            Self::Reject => "shed",
        }
    }

    /// How long a call may wait.
    pub(crate) const fn patience(self) -> Duration {
        match self {
            Self::Wait(most) => most,
            Self::Observe | Self::Reject => Duration::ZERO,
        }
    }
}

/// How calls are spread in [`Mode::Wait`]: one after the other, at even distances, beyond a burst.
///
/// ```
/// use tollgate::upstream::CallPace;
///
/// let pace = CallPace::per_second(10).burst(3);   // three at once, then one each tenth second
/// # let _ = pace;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPace {
    pub(crate) calls: u32,
    pub(crate) period: Duration,
    pub(crate) burst: u32,
}

impl CallPace {
    /// So many calls a second.
    #[must_use]
    pub const fn per_second(calls: u32) -> Self {
        Self { calls, period: Duration::from_secs(1), burst: 1 }
    }

    /// So many calls a minute.
    #[must_use]
    pub const fn per_minute(calls: u32) -> Self {
        Self { calls, period: Duration::from_secs(60), burst: 1 }
    }

    /// Sets how many calls may be made at once. Defaults to 1.
    #[must_use]
    pub const fn burst(mut self, calls: u32) -> Self {
        self.burst = calls;
        self
    }

    pub(crate) fn check(self) -> Result<Self, Error> {
        let Self { calls, period, burst } = self;
        if NonZeroU32::new(calls).is_none() || NonZeroU32::new(burst).is_none() {
            return Err(Error::config(format!(
                "impossible pace of {calls} calls per {period:?}, {burst} at once; each must be greater than 0"
            )));
        }
        Ok(self)
    }
}

/// How much a call matters: a request extension. Each class may use up the quota to its
/// [share](crate::upstream::UpstreamBuilder::share) only.
///
/// ```
/// use tollgate::upstream::Priority;
///
/// let mut request = http::Request::get("https://api.example.com/report").body(()).unwrap();
/// request.extensions_mut().insert(Priority::Low);   // stops at half of the quota
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "three classes, each with a share")]
pub enum Priority {
    /// May use up all of it.
    High,
    /// Stops at 90 % of the quota by default, rounded up: the rest is for calls of high priority.
    #[default]
    Normal,
    /// Stops at 50 % of the quota by default: work that can wait for the next window.
    Low,
}

/// Each class's share of every limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares([f64; 3]);

impl Default for Shares {
    fn default() -> Self {
        Self([1.0, 0.9, 0.5])
    }
}

impl Shares {
    pub(crate) const fn of(&self, priority: Priority) -> f64 {
        self.0[priority as usize]
    }

    pub(crate) const fn set(&mut self, priority: Priority, share: f64) {
        self.0[priority as usize] = share;
    }

    pub(crate) fn check(self) -> Result<Self, Error> {
        match self.0.iter().find(|share| !(0.0..=1.0).contains(*share)) {
            Some(share) => Err(Error::config(format!("the share of a quota must be from 0 to 1, not {share}"))),
            None => Ok(self),
        }
    }
}
