//! Rate-limit response fields: computed with the decision, written when the response arrives.

use std::fmt::Write;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue};

use super::compiled::CompiledLimits;
use super::decision::{LimitOutcome, Outcome};
use crate::base::headers::{
    RATELIMIT, RATELIMIT_POLICY, X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET, ceil_seconds, number,
};
use crate::limit::algorithm::quota::Quota;

/// Revision of the IETF's `RateLimit` fields to send in addition to `X-RateLimit-*`.
///
/// ```
/// use tollgate::limit::{Draft, Limit, Quota, RateLimitLayer};
///
/// let layer = RateLimitLayer::builder()
///     .limit(Limit::per_ip(Quota::per_minute(20)))
///     .ietf_fields(Draft::Eleven)
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Draft {
    /// draft-ietf-httpapi-ratelimit-headers-11: `RateLimit-Policy: "burst";q=100;w=60` and `RateLimit:
    /// "burst";r=50;t=30`.
    Eleven,
}

/// Format of `X-RateLimit-Reset`.
///
/// ```
/// use tollgate::limit::{Limit, Quota, RateLimitLayer, Reset};
///
/// let layer = RateLimitLayer::builder()
///     .limit(Limit::per_ip(Quota::per_minute(20)))
///     .reset(Reset::Epoch)
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reset {
    /// Whole seconds from now, rounded up.
    #[default]
    Seconds,
    /// Unix time in seconds, as used by GitHub and Twitter.
    Epoch,
}

/// Format of the response fields.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    pub(crate) draft: Option<Draft>,
    pub(crate) reset: Reset,
}

/// Values of the three `X-RateLimit-*` fields. Sixteen bytes: two registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimitHeaders {
    limit: NonZeroU32,
    remaining: u32,
    reset: u64,
}

impl RateLimitHeaders {
    /// Computes the fields; `None` if no enforced limit applies.
    #[inline]
    pub(crate) fn new(
        style: Style,
        outcome: &Outcome<'_>,
        admits: bool,
        wall: impl FnOnce() -> SystemTime,
    ) -> Option<Self> {
        let part = if admits { outcome.tightest() } else { outcome.longest() }?;
        let reset = match style.reset {
            Reset::Seconds => part.verdict.reset_seconds(),
            Reset::Epoch => epoch(wall(), part.verdict.reset()),
        };
        Some(Self { limit: NonZeroU32::new(part.quota.limit())?, remaining: part.passes(), reset })
    }

    /// Writes the fields, overwriting fields of the same name.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        headers.insert(X_RATELIMIT_LIMIT, number(u64::from(self.limit.get())));
        headers.insert(X_RATELIMIT_REMAINING, number(u64::from(self.remaining)));
        headers.insert(X_RATELIMIT_RESET, number(self.reset));
    }
}

/// Writes `Retry-After`: the longest wait.
pub(crate) fn write_retry_after(outcome: &Outcome<'_>, headers: &mut HeaderMap) {
    if let Some(part) = outcome.longest() {
        headers.insert(RETRY_AFTER, number(part.verdict.wait().map_or(1, retry_seconds)));
    }
}

/// Values of the IETF's fields.
#[derive(Debug)]
pub(crate) struct DraftFields {
    policy: Option<HeaderValue>,
    state: Option<HeaderValue>,
}

impl DraftFields {
    pub(crate) fn new(limits: &CompiledLimits, draft: Draft, outcome: &Outcome<'_>) -> Self {
        match draft {
            Draft::Eleven => draft_11(limits, outcome),
        }
    }

    pub(crate) fn write(self, headers: &mut HeaderMap) {
        self.policy.map(|value| headers.insert(RATELIMIT_POLICY, value));
        self.state.map(|value| headers.insert(RATELIMIT, value));
    }
}

/// RFC 9110 §10.2.3: whole seconds. Never 0, because the client would retry at once.
fn retry_seconds(wait: Duration) -> u64 {
    ceil_seconds(wait).max(1)
}

fn epoch(wall: SystemTime, reset: Duration) -> u64 {
    ceil_seconds(wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_add(reset))
}

fn draft_11(limits: &CompiledLimits, outcome: &Outcome<'_>) -> DraftFields {
    let (mut policy, mut state) = (String::with_capacity(64), String::with_capacity(64));
    for part in outcome.parts().filter(|part| part.enforced) {
        let compiled = limits.quota(part.label);
        let comma = if policy.is_empty() { "" } else { "," };
        let (left, window) = effective_window(&part);
        // Writing to a `String` cannot fail.
        let _ = if part.quota == compiled.quota {
            write!(policy, "{comma}{}", compiled.policy)
        } else {
            write!(policy, "{comma}{}", super::compiled_quota::policy(&compiled.name, part.quota))
        };
        let _ = write!(state, "{comma}\"{}\";r={left};t={window}", compiled.name);
    }
    DraftFields { policy: HeaderValue::try_from(policy).ok(), state: HeaderValue::try_from(state).ok() }
}

/// Returns the draft's "effective window": after a rejection, nothing until the retry time; after an admission, a
/// span over which spending what remains does not exceed the sustained rate.
fn effective_window(part: &LimitOutcome) -> (u32, u64) {
    match part.verdict.wait() {
        Some(wait) if part.enforced => (0, retry_seconds(wait)),
        _ if part.verdict.remaining() == 0 => (0, retry_seconds(part.verdict.reset())),
        _ => (part.verdict.remaining(), sustained_seconds(part.quota, part.verdict.remaining())),
    }
}

fn sustained_seconds(quota: Quota, units: u32) -> u64 {
    let ms = u128::from(units) * quota.period().as_millis();
    let limit = u128::from(quota.limit().max(1)) * 1_000;
    u64::try_from(ms.div_ceil(limit)).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::decision::LimitLabel;
    use super::*;
    use crate::limit::algorithm::verdict::Verdict;

    fn part(quota: Quota, remaining: u32, wait: Option<u64>) -> LimitOutcome {
        let verdict = Verdict::new(wait.map(Duration::from_millis), remaining, Duration::from_secs(40));
        LimitOutcome { label: LimitLabel { rule: 0, tier: 0 }, quota, verdict, cost: 1, enforced: true }
    }

    #[test]
    fn a_wait_of_less_than_a_second_is_one_second() {
        assert_eq!(retry_seconds(Duration::from_millis(900)), 1);
        assert_eq!(retry_seconds(Duration::ZERO), 1);
        assert_eq!(retry_seconds(Duration::from_millis(1_001)), 2);
    }

    #[test]
    fn the_effective_window_never_exceeds_the_sustained_rate() {
        assert_eq!(effective_window(&part(Quota::per_minute(100), 50, None)), (50, 30));
        assert_eq!(effective_window(&part(Quota::per_second(1_000), 7, None)), (7, 1));
        assert_eq!(effective_window(&part(Quota::per_minute(100), 0, Some(2_100))), (0, 3));
        assert_eq!(effective_window(&part(Quota::per_minute(100), 0, None)), (0, 40));
    }
}
