//! [`Told`]: what an upstream said about its limits, in whatever words it chose.

use std::time::Duration;

use smallvec::SmallVec;

/// A name longer than this is cut.
const LONGEST: usize = 24;
/// One answer tells of at most so many limits.
const MOST: usize = 8;
/// Nobody sells more than this; what claims to is a mistake.
const LARGEST: u64 = 1 << 50;

/// What one of an upstream's limits is called, such as `core` or `requests`; empty where it has no name.
pub(super) type Name = SmallVec<[u8; LONGEST]>;

/// What an answer said about the upstream's limits.
///
/// The fields of a response are [read](super::UpstreamLayer) without being asked. This is for what stands in a body, as
/// told by a [hook](super::UpstreamBuilder::told_in_body):
///
/// ```
/// use std::time::Duration;
/// use tollgate::upstream::Told;
///
/// // {"errors": [{"code": "TOO_MANY_CALLS", "retry_in": 30}]}
/// let told = Told::new().limit("graphql", 5_000, 0, Duration::from_secs(30)).retry_after(Duration::from_secs(30));
/// # let _ = told;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub(super) limits: SmallVec<[Limit; 2]>,
    pub(super) retry_after: Option<Duration>,
    /// It refused for a limit's sake.
    pub(super) refused: bool,
    /// It said that it is out of service.
    pub(super) unavailable: bool,
}

/// One limit, as told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) name: Name,
    pub(super) limit: Option<u64>,
    pub(super) remaining: Option<u64>,
    pub(super) used: Option<u64>,
    pub(super) resets_in: Option<Duration>,
    /// How long its window is.
    pub(super) window: Option<Duration>,
}

impl Told {
    /// Nothing so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of this limit so much remains, until it is whole again. The name may be empty.
    #[must_use]
    pub fn limit(mut self, name: &str, limit: u64, remaining: u64, resets_in: Duration) -> Self {
        self.add(Limit {
            name: named(name.as_bytes()),
            limit: Some(limit.min(LARGEST)),
            remaining: Some(remaining.min(LARGEST)),
            resets_in: Some(super::when::clamped(resets_in.as_secs_f64())),
            ..Limit::default()
        });
        self
    }

    /// The call was refused; the next may be made after this time.
    #[must_use]
    pub fn retry_after(mut self, span: Duration) -> Self {
        self.retry_after = Some(super::when::clamped(span.as_secs_f64()));
        self.refused = true;
        self
    }

    pub(super) fn add(&mut self, limit: Limit) {
        if self.limits.len() < MOST {
            self.limits.push(limit);
        }
    }

    /// The limit of that name, added where it is new; the last one where there are too many.
    pub(super) fn entry(&mut self, name: &[u8]) -> &mut Limit {
        let name = &name[..name.len().min(LONGEST)];
        let known = self.limits.iter().position(|limit| *limit.name == *name);
        let at = known.unwrap_or_else(|| {
            self.add(Limit { name: named(name), ..Limit::default() });
            self.limits.len() - 1
        });
        &mut self.limits[at]
    }
}

/// As much of a name as is kept.
pub(super) fn named(name: &[u8]) -> Name {
    SmallVec::from_slice(&name[..name.len().min(LONGEST)])
}

/// A number of credits, clamped to what can be true.
pub(super) const fn credible(n: u64) -> u64 {
    if n > LARGEST { LARGEST } else { n }
}
