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
/// Of an upstream a failure is a 5xx other than 501, or an error of the client. Refusals (403, 429) are none: the quota sees
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
    /// So many failures without a success between them open it; 5 unless told, 0 for never.
    #[must_use]
    pub const fn failures(mut self, in_a_row: u32) -> Self {
        self.policy.in_a_row = in_a_row;
        self
    }

    /// A larger share of failed or slow calls opens it; 20 per cent unless told, 100 for never.
    #[must_use]
    pub const fn percent(mut self, percent: u8) -> Self {
        self.policy.percent = percent;
        self
    }

    /// Over how long the share is taken; 10 s unless told.
    #[must_use]
    pub const fn window(mut self, span: Duration) -> Self {
        self.policy.window = span;
        self
    }

    /// A share of fewer calls than this says nothing; 20 unless told.
    #[must_use]
    pub const fn minimum(mut self, calls: u32) -> Self {
        self.policy.minimum = calls;
        self
    }

    /// From when on a call is slow: until its response head, or the store's answer, is there. None is unless told.
    #[must_use]
    pub const fn slow_after(mut self, span: Duration) -> Self {
        self.slow_after = Some(span);
        self
    }

    /// How often a call may try whether things are better; each second unless told.
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
            return Err(Error::config(format!("a circuit opens at up to 100 per cent, not at {percent}")));
        }
        if window.is_zero() || probe_every.is_zero() {
            return Err(Error::config("a circuit's window and the time between probes cannot be 0s"));
        }
        Ok(self)
    }
}
