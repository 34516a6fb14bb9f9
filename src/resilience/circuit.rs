//! [`Circuit`]: settings of the circuit breaker.

use std::time::Duration;

use super::breaker::BreakerPolicy;
use crate::base::error::Error;

/// Settings of the circuit breaker around an upstream or a shared store.
///
/// | state | a call | transition |
/// |---|---|---|
/// | closed | is made | to open by [`failures`](Self::failures) in a row, or if more than [`percent`](Self::percent) of the last 10 s' calls failed or were [slow](Self::slow_after), out of at least 20; for an upstream also by a 503 with `Retry-After` |
/// | open | fails at once, except for one probe [each second](Self::probe_every), the first after `Retry-After`, or the first over a fresh connection | to closed by a successful call |
///
/// For an upstream a failure is a 5xx other than 501, or an error of the client. Rejections (403, 429) are none: the
/// quota handles them. For a store it is an error, a rejection, or no answer by the deadline.
///
/// ```
/// use std::time::Duration;
/// use tollgate::Circuit;
/// use tollgate::upstream::UpstreamLayer;
///
/// let circuit = Circuit::default().failures(3).slow_after(Duration::from_secs(2));
/// let github = UpstreamLayer::builder("github").circuit(circuit).build()?;
/// # let _ = github;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Circuit {
    pub(crate) policy: BreakerPolicy,
    pub(crate) slow_after: Option<Duration>,
}

impl Circuit {
    /// Sets the number of consecutive failures that open the circuit. Defaults to 5; 0 disables this.
    ///
    /// ```
    /// use tollgate::Circuit;
    ///
    /// let circuit = Circuit::default().failures(3);
    /// # let _ = circuit;
    /// ```
    #[must_use]
    pub const fn failures(mut self, in_a_row: u32) -> Self {
        self.policy.in_a_row = in_a_row;
        self
    }

    /// Sets the percentage of failed or slow calls above which the circuit opens. Defaults to 20; 100 disables this.
    ///
    /// ```
    /// use tollgate::Circuit;
    ///
    /// let circuit = Circuit::default().percent(50).minimum(10);
    /// # let _ = circuit;
    /// ```
    #[must_use]
    pub const fn percent(mut self, percent: u8) -> Self {
        self.policy.percent = percent;
        self
    }

    /// Sets the window of the percentage. Defaults to 10 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::Circuit;
    ///
    /// let circuit = Circuit::default().window(Duration::from_secs(30)).probe_every(Duration::from_secs(2));
    /// # let _ = circuit;
    /// ```
    #[must_use]
    pub const fn window(mut self, span: Duration) -> Self {
        self.policy.window = span;
        self
    }

    /// Sets the minimum number of calls for the percentage. Defaults to 20.
    #[must_use]
    pub const fn minimum(mut self, calls: u32) -> Self {
        self.policy.minimum = calls;
        self
    }

    /// Sets the duration, up to the response head or the store's answer, from which a call is slow. Off by default.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::Circuit;
    ///
    /// let circuit = Circuit::default().slow_after(Duration::from_secs(2));
    /// # let _ = circuit;
    /// ```
    #[must_use]
    pub const fn slow_after(mut self, span: Duration) -> Self {
        self.slow_after = Some(span);
        self
    }

    /// Sets the interval between probes while open. Defaults to 1 s.
    #[must_use]
    pub const fn probe_every(mut self, span: Duration) -> Self {
        self.policy.probe_every = span;
        self
    }

    /// Validates the settings.
    ///
    /// # Errors
    /// Returns an error that names the invalid value.
    pub(crate) fn check(self) -> Result<Self, Error> {
        let BreakerPolicy { percent, window, probe_every, .. } = self.policy;
        if percent > 100 {
            return Err(Error::config(format!("the circuit's percentage must be at most 100, not {percent}")));
        }
        if window.is_zero() || probe_every.is_zero() {
            return Err(Error::config("a circuit's window and probe interval must be longer than 0s"));
        }
        Ok(self)
    }
}
