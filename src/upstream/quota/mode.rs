//! [`Mode`], [`CallPace`] and [`Priority`]: treatment of calls beyond the quota, pacing, and shares by class.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::base::error::Error;

/// Treatment of a call that the quota, the upstream or the circuit rejects.
///
/// ```
/// use std::time::Duration;
/// use tollgate::upstream::{Credits, Mode, UpstreamLayer};
///
/// let layer = UpstreamLayer::builder("search")
///     .quota(Credits::per_minute(100))
///     .mode(Mode::Wait(Duration::from_secs(2)))
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Sends the call anyway, and counts it as one that would have been rejected.
    Observe,
    /// Waits up to this long if the call can be sent by then; otherwise fails at once with a
    /// [`Rejected`](crate::upstream::Rejected).
    Wait(Duration),
    /// Fails at once with a [`Rejected`](crate::upstream::Rejected).
    #[default]
    Reject,
}

impl Mode {
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

/// Spacing of calls in [`Mode::Wait`]: a burst, then even intervals.
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
    /// Creates a pace of `calls` per second.
    #[must_use]
    pub const fn per_second(calls: u32) -> Self {
        Self { calls, period: Duration::from_secs(1), burst: 1 }
    }

    /// Creates a pace of `calls` per minute.
    ///
    /// ```
    /// use tollgate::upstream::CallPace;
    ///
    /// let pace = CallPace::per_minute(30);
    /// # let _ = pace;
    /// ```
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

/// Priority of a call, set as a request extension. Each class may use the quota up to its
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
    /// May use the whole quota.
    High,
    /// Stops at 90 % of the quota by default, rounded up, which leaves the rest to high priority.
    #[default]
    Normal,
    /// Stops at 50 % of the quota by default: work that can wait for the next window.
    Low,
}

/// Share of each class in every limit.
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
