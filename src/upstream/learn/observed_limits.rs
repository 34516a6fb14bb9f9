//! [`ObservedLimits`]: what an upstream said about its limits, in whatever words it chose.

use std::time::Duration;

use smallvec::SmallVec;

/// A name longer than this is cut.
const LONGEST: usize = 24;
/// One answer tells of at most so many limits.
const MOST: usize = 8;
/// Nobody sells more than this; what claims to is a mistake.
const LARGEST: u64 = 1 << 50;

/// Name of one of an upstream's limits, such as `core` or `requests`; empty if it has none.
pub(crate) type LimitName = SmallVec<[u8; LONGEST]>;

/// Limits reported by one response of the upstream.
///
/// The fields of a response are [read](crate::upstream::UpstreamLayer) without being asked. This is for what stands in
/// a body, as
/// told by a [hook](crate::upstream::UpstreamBuilder::limits_in_body):
///
/// ```
/// use std::time::Duration;
/// use tollgate::upstream::ObservedLimits;
///
/// // {"errors": [{"code": "TOO_MANY_CALLS", "retry_in": 30}]}
/// let told = ObservedLimits::new().limit("graphql", 5_000, 0, Duration::from_secs(30)).retry_after(Duration::from_secs(30));
/// # let _ = told;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedLimits {
    pub(crate) limits: SmallVec<[ObservedLimit; 2]>,
    pub(crate) retry_after: Option<Duration>,
    /// It refused for a limit's sake.
    pub(crate) refused: bool,
    /// It said that it is out of service.
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
    /// How long its window is.
    pub(crate) window: Option<Duration>,
}

impl ObservedLimits {
    /// No limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records `remaining` units of `name`, resetting after `resets_in`. The name may be empty.
    #[must_use]
    pub fn limit(mut self, name: &str, limit: u64, remaining: u64, resets_in: Duration) -> Self {
        self.add(ObservedLimit {
            name: named(name.as_bytes()),
            limit: Some(limit.min(LARGEST)),
            remaining: Some(remaining.min(LARGEST)),
            resets_in: Some(super::reset_time::clamped(resets_in.as_secs_f64())),
            ..ObservedLimit::default()
        });
        self
    }

    /// The call was refused; the next may be made after this time.
    #[must_use]
    pub fn retry_after(mut self, span: Duration) -> Self {
        self.retry_after = Some(super::reset_time::clamped(span.as_secs_f64()));
        self.refused = true;
        self
    }

    pub(crate) fn add(&mut self, limit: ObservedLimit) {
        if self.limits.len() < MOST {
            self.limits.push(limit);
        }
    }

    /// The limit of that name, added where it is new; the last one where there are too many.
    pub(crate) fn entry(&mut self, name: &[u8]) -> &mut ObservedLimit {
        let name = &name[..name.len().min(LONGEST)];
        let known = self.limits.iter().position(|limit| *limit.name == *name);
        let at = known.unwrap_or_else(|| {
            self.add(ObservedLimit { name: named(name), ..ObservedLimit::default() });
            self.limits.len() - 1
        });
        &mut self.limits[at]
    }
}

/// As much of a name as is kept.
pub(crate) fn named(name: &[u8]) -> LimitName {
    SmallVec::from_slice(&name[..name.len().min(LONGEST)])
}

/// A number of credits, clamped to what can be true.
pub(crate) const fn credible(n: u64) -> u64 {
    if n > LARGEST { LARGEST } else { n }
}
