//! [`Circuit`]: when somebody is no longer called because they fail or are slow, as settings.

use std::time::Duration;

use super::breaker::BreakerPolicy;
use crate::base::error::Error;

/// When calls of a failing upstream, or of a store that a fleet shares, stop, and how they begin again.
///
/// | state | a call | turns |
/// |---|---|---|
/// | shut | is made | open by [`failures`](Self::failures) in a row, or where more than [`percent`](Self::percent) of the last 10 s' calls failed or were [slow](Self::slow_after), out of at least 20; an upstream's also by a 503 with `Retry-After` |
/// | open | fails at once, but for one [each second](Self::probe_every), the first after `Retry-After`, or the first over a fresh connection | shut by a call that succeeds |
///
/// Of an upstream a failure is a 5xx other than 501, or an error of the client. Refusals (403, 429) are none: the
/// quota sees
/// to those. Of a store it is an error, a refusal, or no answer by the deadline.
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
    /// Opens after this many consecutive failures. Defaults to 5; 0 means never.
    #[must_use]
    pub const fn failures(mut self, in_a_row: u32) -> Self {
        self.policy.in_a_row = in_a_row;
        self
    }

    /// Opens above this percentage of failed or slow calls. Defaults to 20; 100 means never.
    #[must_use]
    pub const fn percent(mut self, percent: u8) -> Self {
        self.policy.percent = percent;
        self
    }

    /// Sets the window of the percentage. Defaults to 10 s.
    #[must_use]
    pub const fn window(mut self, span: Duration) -> Self {
        self.policy.window = span;
        self
    }

    /// Ignores the percentage for fewer calls than this. Defaults to 20.
    #[must_use]
    pub const fn minimum(mut self, calls: u32) -> Self {
        self.policy.minimum = calls;
        self
    }

    /// Counts calls that take longer, up to the response head or the store's answer, as slow. Off by default.
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

    /// # Errors
    /// Names what is impossible.
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
