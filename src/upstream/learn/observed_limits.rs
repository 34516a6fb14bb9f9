//! [`ObservedLimits`]: limits reported by an upstream, in a common form.

use std::time::Duration;

use smallvec::SmallVec;

/// Maximum length of a name; longer ones are truncated.
const MAX_NAME: usize = 24;
/// Maximum number of limits per response.
const MAX_LIMITS: usize = 8;
/// Largest accepted limit; larger ones are clamped.
const MAX_CREDIBLE: u64 = 1 << 50;

/// Name of one of an upstream's limits, such as `core` or `requests`; empty if it has none.
pub(crate) type LimitName = SmallVec<[u8; MAX_NAME]>;

/// Limits reported by one response of the upstream.
///
/// Response fields are [parsed](crate::upstream::UpstreamLayer) automatically. This type is for limits in a body,
/// returned by a [hook](crate::upstream::UpstreamBuilder::limits_in_body):
///
/// ```
/// use std::time::Duration;
/// use tollgate::upstream::ObservedLimits;
///
/// // {"errors": [{"code": "TOO_MANY_CALLS", "retry_in": 30}]}
/// let observed = ObservedLimits::new()
///     .limit("graphql", 5_000, 0, Duration::from_secs(30))
///     .retry_after(Duration::from_secs(30));
/// # let _ = observed;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedLimits {
    pub(crate) limits: SmallVec<[ObservedLimit; 2]>,
    pub(crate) retry_after: Option<Duration>,
    /// Whether the call was rejected by rate limiting.
    pub(crate) refused: bool,
    /// Whether the body must say whether the call was rejected by rate limiting: a 403 alone does not.
    pub(crate) undecided: bool,
    /// Whether it is GitHub's secondary limit, which asks for a minute's pause.
    pub(crate) secondary: bool,
    /// Whether the upstream is unavailable.
    pub(crate) unavailable: bool,
}

/// One reported limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObservedLimit {
    pub(crate) name: LimitName,
    pub(crate) limit: Option<u64>,
    pub(crate) remaining: Option<u64>,
    pub(crate) used: Option<u64>,
    pub(crate) resets_in: Option<Duration>,
    /// Length of the window.
    pub(crate) window: Option<Duration>,
}

impl ObservedLimits {
    /// Creates an empty report.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::upstream::ObservedLimits;
    ///
    /// let observed = ObservedLimits::new().limit("requests", 100, 42, Duration::from_secs(60));
    /// # let _ = observed;
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records `remaining` units of `name`, resetting after `resets_in`. The name may be empty.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::upstream::ObservedLimits;
    ///
    /// let observed = ObservedLimits::new().limit("requests", 100, 42, Duration::from_secs(60));
    /// # let _ = observed;
    /// ```
    #[must_use]
    pub fn limit(mut self, name: &str, limit: u64, remaining: u64, resets_in: Duration) -> Self {
        // Of several statements of one limit the strictest counts.
        let entry = self.entry(name.as_bytes());
        let (limit, remaining) = (limit.min(MAX_CREDIBLE), remaining.min(MAX_CREDIBLE));
        entry.limit = Some(entry.limit.map_or(limit, |held| held.min(limit)));
        entry.remaining = Some(entry.remaining.map_or(remaining, |held| held.min(remaining)));
        entry.resets_in = entry.resets_in.max(Some(super::reset_time::clamped(resets_in.as_secs_f64())));
        self
    }

    /// Creates the report of a rejection by GitHub's secondary limit.
    pub(crate) fn secondary() -> Self {
        Self { refused: true, secondary: true, ..Self::default() }
    }

    /// Records a rejection with a retry time.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::upstream::ObservedLimits;
    ///
    /// let observed = ObservedLimits::new().retry_after(Duration::from_secs(30));
    /// # let _ = observed;
    /// ```
    #[must_use]
    pub fn retry_after(mut self, span: Duration) -> Self {
        self.retry_after = Some(super::reset_time::clamped(span.as_secs_f64()));
        self.refused = true;
        self
    }

    pub(crate) fn add(&mut self, limit: ObservedLimit) {
        if self.limits.len() < MAX_LIMITS {
            self.limits.push(limit);
        }
    }

    /// Returns the limit with this name, adding it if it is new; the last one if there are too many.
    pub(crate) fn entry(&mut self, name: &[u8]) -> &mut ObservedLimit {
        let name = &name[..name.len().min(MAX_NAME)];
        let known = self.limits.iter().position(|limit| *limit.name == *name);
        let at = known.unwrap_or_else(|| {
            self.add(ObservedLimit { name: named(name), ..ObservedLimit::default() });
            self.limits.len() - 1
        });
        &mut self.limits[at]
    }
}

/// Truncates a name.
pub(crate) fn named(name: &[u8]) -> LimitName {
    SmallVec::from_slice(&name[..name.len().min(MAX_NAME)])
}

/// Clamps a number of credits to that.
pub(crate) const fn clamp_limit(n: u64) -> u64 {
    if n > MAX_CREDIBLE { MAX_CREDIBLE } else { n }
}
