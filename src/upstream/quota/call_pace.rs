//! [`CallPace`]: spacing of calls that wait.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::base::error::Error;

/// Spacing of calls in [`OnLimit::Wait`](crate::upstream::OnLimit::Wait): a burst, then even intervals.
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
    ///
    /// ```
    /// use tollgate::upstream::CallPace;
    ///
    /// let pace = CallPace::per_second(10);
    /// # let _ = pace;
    /// ```
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
