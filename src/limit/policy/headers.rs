//! Rate-limit fields of a response: computed with the decision, written when the response arrives.

use std::fmt::Write;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue};

use super::compiled::CompiledLimits;
use super::decision::{Outcome, Term};
use crate::base::headers::{
    RATELIMIT, RATELIMIT_POLICY, X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET, ceil_seconds, number,
};
use crate::limit::algorithm::quota::Quota;

/// Which revision of the IETF's `RateLimit` fields to send beside `X-RateLimit-*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Draft {
    /// draft-ietf-httpapi-ratelimit-headers-11: `RateLimit-BreakerPolicy: "burst";q=100;w=60` and
    /// `RateLimit: "burst";r=50;t=30`.
    Eleven,
}

/// How `X-RateLimit-Reset` tells the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reset {
    /// Whole seconds from now, rounded up.
    #[default]
    Seconds,
    /// Seconds since 1970, as GitHub and Twitter count.
    Epoch,
}

/// How responses are written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    pub(crate) draft: Option<Draft>,
    pub(crate) reset: Reset,
}

/// The three fields. Sixteen bytes: two registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimitHeaders {
    limit: NonZeroU32,
    remaining: u32,
    reset: u64,
}

impl RateLimitHeaders {
    /// The fields for this ruling; none where no enforced limit was asked.
    #[inline]
    pub(crate) fn new(
        style: Style,
        ruling: &Outcome<'_>,
        admits: bool,
        wall: impl FnOnce() -> SystemTime,
    ) -> Option<Self> {
        let term = if admits { ruling.tightest() } else { ruling.longest() }?;
        let reset = match style.reset {
            Reset::Seconds => term.verdict.reset_seconds(),
            Reset::Epoch => epoch(wall(), term.verdict.reset()),
        };
        Some(Self { limit: NonZeroU32::new(term.quota.limit())?, remaining: term.verdict.remaining(), reset })
    }

    /// Overwrites fields of the same name: the outermost limit speaks.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        headers.insert(X_RATELIMIT_LIMIT, number(u64::from(self.limit.get())));
        headers.insert(X_RATELIMIT_REMAINING, number(u64::from(self.remaining)));
        headers.insert(X_RATELIMIT_RESET, number(self.reset));
    }
}

/// `Retry-After` of a refusal: the longest wait.
pub(crate) fn write_retry_after(ruling: &Outcome<'_>, headers: &mut HeaderMap) {
    if let Some(term) = ruling.longest() {
        headers.insert(RETRY_AFTER, number(term.verdict.wait().map_or(1, retry_seconds)));
    }
}

/// The IETF's fields.
#[derive(Debug)]
pub(crate) struct DraftFields {
    policy: Option<HeaderValue>,
    state: Option<HeaderValue>,
}

impl DraftFields {
    pub(crate) fn new(plan: &CompiledLimits, draft: Draft, ruling: &Outcome<'_>) -> Self {
        match draft {
            Draft::Eleven => draft_11(plan, ruling),
        }
    }

    pub(crate) fn write(self, headers: &mut HeaderMap) {
        self.policy.map(|value| headers.insert(RATELIMIT_POLICY, value));
        self.state.map(|value| headers.insert(RATELIMIT, value));
    }
}

/// RFC 9110 §10.2.3: whole seconds. Never 0: a client told to wait nothing would come back at once.
fn retry_seconds(wait: Duration) -> u64 {
    ceil_seconds(wait).max(1)
}

fn epoch(wall: SystemTime, reset: Duration) -> u64 {
    ceil_seconds(wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_add(reset))
}

fn draft_11(plan: &CompiledLimits, ruling: &Outcome<'_>) -> DraftFields {
    let (mut policy, mut state) = (String::with_capacity(64), String::with_capacity(64));
    for term in ruling.terms().filter(|term| term.enforced) {
        let offer = plan.offer(term.label);
        let comma = if policy.is_empty() { "" } else { "," };
        let (left, window) = effective_window(&term);
        // Writing to a `String` cannot fail.
        let _ = if term.quota == offer.quota {
            write!(policy, "{comma}{}", offer.policy)
        } else {
            write!(policy, "{comma}{}", super::compiled_quota::policy(&offer.name, term.quota))
        };
        let _ = write!(state, "{comma}\"{}\";r={left};t={window}", offer.name);
    }
    DraftFields { policy: HeaderValue::try_from(policy).ok(), state: HeaderValue::try_from(state).ok() }
}

/// The draft's "effective window": refused, nothing until the retry time; admitted, a span over which spending what
/// remains does not exceed the sustained rate.
fn effective_window(term: &Term) -> (u32, u64) {
    match term.verdict.wait() {
        Some(wait) if term.enforced => (0, retry_seconds(wait)),
        _ if term.verdict.remaining() == 0 => (0, retry_seconds(term.verdict.reset())),
        _ => (term.verdict.remaining(), sustained_seconds(term.quota, term.verdict.remaining())),
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

    fn term(quota: Quota, remaining: u32, wait: Option<u64>) -> Term {
        let verdict = Verdict::new(wait.map(Duration::from_millis), remaining, Duration::from_secs(40));
        Term { label: LimitLabel { rule: 0, tier: 0 }, quota, verdict, enforced: true }
    }

    #[test]
    fn a_wait_of_less_than_a_second_is_one_second() {
        assert_eq!(retry_seconds(Duration::from_millis(900)), 1);
        assert_eq!(retry_seconds(Duration::ZERO), 1);
        assert_eq!(retry_seconds(Duration::from_millis(1_001)), 2);
    }

    #[test]
    fn the_effective_window_never_exceeds_the_sustained_rate() {
        assert_eq!(effective_window(&term(Quota::per_minute(100), 50, None)), (50, 30));
        assert_eq!(effective_window(&term(Quota::per_second(1_000), 7, None)), (7, 1));
        assert_eq!(effective_window(&term(Quota::per_minute(100), 0, Some(2_100))), (0, 3));
        assert_eq!(effective_window(&term(Quota::per_minute(100), 0, None)), (0, 40));
    }
}
