//! The verdict of one limit on one request.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use smallvec::SmallVec;

use crate::base::clock::nanos;

/// Verdict of one limit on one request.
///
/// ```
/// use std::time::Duration;
/// use tollgate::limit::Verdict;
///
/// let rejected = Verdict::new(Some(Duration::from_secs(2)), 0, Duration::from_secs(60));
/// assert!(!rejected.admits());
/// assert_eq!(rejected.wait(), Some(Duration::from_secs(2)));
/// assert_eq!((rejected.remaining(), rejected.reset()), (0, Duration::from_secs(60)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Nanoseconds until the request would be admitted; zero if it is.
    pub(crate) wait: u64,
    reset: u64,
    pub(crate) remaining: u64,
}

impl Verdict {
    /// Creates a verdict: admitted if `wait` is `None`, else rejected for that long (at least a nanosecond).
    /// `remaining` is the number of units that would be admitted now, `reset` the time until `remaining` equals the
    /// limit.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::limit::Verdict;
    ///
    /// let rejected = Verdict::new(Some(Duration::from_secs(3)), 0, Duration::from_secs(60));
    /// assert!(!rejected.admits());
    /// ```
    #[must_use]
    pub const fn new(wait: Option<Duration>, remaining: u32, reset: Duration) -> Self {
        let wait = match wait {
            None => 0,
            Some(wait) if wait.is_zero() => 1,
            Some(wait) => nanos(wait),
        };
        Self::of(wait, remaining, nanos(reset))
    }

    /// Creates a verdict from nanoseconds; a wait of zero admits.
    pub(crate) const fn of(wait: u64, remaining: u32, reset: u64) -> Self {
        Self { wait, reset, remaining: remaining as u64 }
    }

    /// Returns the verdict of two engines that both admit or both bind: what is left of either, whole when both are.
    pub(crate) const fn stricter(&self, other: &Self) -> Self {
        Self {
            wait: if self.wait > other.wait { self.wait } else { other.wait },
            reset: if self.reset > other.reset { self.reset } else { other.reset },
            remaining: if self.remaining < other.remaining { self.remaining } else { other.remaining },
        }
    }

    /// Returns the whole seconds until the limit is fully available, rounded up.
    pub(crate) const fn reset_seconds(&self) -> u64 {
        self.reset.div_ceil(1_000_000_000)
    }

    /// Returns whether the request is admitted.
    #[must_use]
    pub const fn admits(&self) -> bool {
        self.wait == 0
    }

    /// Returns the time until the request would be admitted; `None` if it is.
    #[must_use]
    pub const fn wait(&self) -> Option<Duration> {
        if self.wait == 0 { None } else { Some(Duration::from_nanos(self.wait)) }
    }

    /// Returns the number of units that would be admitted now.
    #[must_use]
    pub const fn remaining(&self) -> u32 {
        self.remaining as u32
    }

    /// Returns the time until [`remaining`](Self::remaining) equals the limit.
    #[must_use]
    pub const fn reset(&self) -> Duration {
        Duration::from_nanos(self.reset)
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Verdict");
        out.field("wait", &self.wait()).field("remaining", &self.remaining).field("reset", &self.reset()).finish()
    }
}

/// Verdicts on one request, in the order of its checks. Two limits fit without an allocation.
///
/// ```
/// fn admitted(verdicts: &tollgate::limit::Verdicts) -> bool {
///     verdicts.iter().all(|verdict| verdict.admits())
/// }
/// # let _ = admitted;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts(SmallVec<[Verdict; 2]>);

impl Verdicts {
    /// Creates an empty list.
    ///
    /// ```
    /// use tollgate::limit::Verdicts;
    ///
    /// assert!(Verdicts::new().is_empty());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a list of two.
    pub(crate) fn two(verdicts: [Verdict; 2]) -> Self {
        Self(SmallVec::from_buf(verdicts))
    }

    /// Appends a verdict.
    ///
    /// ```
    /// use tollgate::limit::{Verdict, Verdicts};
    ///
    /// fn and(mut verdicts: Verdicts, next: Verdict) -> Verdicts {
    ///     verdicts.push(next);
    ///     verdicts
    /// }
    /// # let _ = and;
    /// ```
    pub fn push(&mut self, verdict: Verdict) {
        self.0.push(verdict);
    }
}

impl From<Verdict> for Verdicts {
    fn from(verdict: Verdict) -> Self {
        let mut one = Self::new();
        one.push(verdict);
        one
    }
}

impl Deref for Verdicts {
    type Target = [Verdict];

    fn deref(&self) -> &[Verdict] {
        &self.0
    }
}

impl DerefMut for Verdicts {
    fn deref_mut(&mut self) -> &mut [Verdict] {
        &mut self.0
    }
}

impl FromIterator<Verdict> for Verdicts {
    fn from_iter<I: IntoIterator<Item = Verdict>>(verdicts: I) -> Self {
        Self(verdicts.into_iter().collect())
    }
}

impl Extend<Verdict> for Verdicts {
    fn extend<I: IntoIterator<Item = Verdict>>(&mut self, verdicts: I) {
        self.0.extend(verdicts);
    }
}

impl<'a> IntoIterator for &'a Verdicts {
    type Item = &'a Verdict;
    type IntoIter = std::slice::Iter<'a, Verdict>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
