//! From verdicts to one decision, and what it says in the response.
//!
//! Every limit of a request gives a [`Verdict`]; the request goes on only where all of them admit it. The response
//! reports one limit: on success the one with the lowest remaining share, on refusal the one with the longest wait.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::Quota;

/// What one limit says of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None` where the request is admitted, else how long until it would be.
    pub wait: Option<Duration>,
    /// How many more requests would be admitted now.
    pub remaining: u32,
    /// How long until `remaining` would be the whole limit.
    pub reset: Duration,
}

impl Verdict {
    /// Whether the request is admitted.
    #[must_use]
    pub const fn admits(&self) -> bool {
        self.wait.is_none()
    }
}

/// The verdicts on one request, in the order of its checks. Two limits fit without an allocation.
pub type Verdicts = SmallVec<[Verdict; 2]>;

/// Which limit, and which of its tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) rule: u16,
    pub(crate) tier: u16,
}

/// One limit's part in a ruling. Small and `Copy`: names are looked up only where somebody reads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    pub(crate) label: Label,
    pub(crate) quota: Quota,
    pub(crate) verdict: Verdict,
    pub(crate) enforced: bool,
}

impl Term {
    pub(crate) const fn refuses(&self) -> bool {
        self.enforced && !self.verdict.admits()
    }

    /// Remaining ⁄ limit, compared without a division.
    const fn is_tighter_than(&self, other: &Self) -> bool {
        (self.verdict.remaining as u64) * (other.quota.capacity() as u64)
            < (other.verdict.remaining as u64) * (self.quota.capacity() as u64)
    }
}

/// All limits' parts together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ruling {
    pub(crate) terms: SmallVec<[Term; 2]>,
    /// Whether the per-node ceiling refused.
    pub(crate) overloaded: bool,
    /// Whether the remote store that should have decided did not.
    pub(crate) degraded: bool,
}

impl Ruling {
    pub(crate) fn admits(&self) -> bool {
        !self.overloaded && !self.terms.iter().any(Term::refuses)
    }

    pub(crate) fn violated(&self) -> impl Iterator<Item = &Term> {
        self.terms.iter().filter(|term| term.refuses())
    }

    /// The limit the response reports; none where every limit is in dry-run.
    pub(crate) fn reported(&self) -> Option<&Term> {
        if let Some(longest) = self.violated().max_by_key(|term| term.verdict.wait) {
            return Some(longest);
        }
        let enforced = self.terms.iter().filter(|term| term.enforced);
        enforced.reduce(|tightest, term| if term.is_tighter_than(tightest) { term } else { tightest })
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.violated().filter_map(|term| term.verdict.wait).max()
    }
}

/// One limit's part in a [`Decision`].
#[derive(Clone, Debug)]
pub struct Part {
    name: Arc<str>,
    term: Term,
}

impl Part {
    pub(crate) const fn new(name: Arc<str>, term: Term) -> Self {
        Self { name, term }
    }

    /// The limit's name; for tiers, the tier's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The quota the key was held to.
    #[must_use]
    pub const fn quota(&self) -> Quota {
        self.term.quota
    }

    /// What the limit said.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.term.verdict
    }

    /// Whether this limit refused; never in dry-run.
    #[must_use]
    pub const fn refused(&self) -> bool {
        self.term.refuses()
    }
}

/// What all limits together say of one request. Left in the extensions of a refusal, and of any response whose
/// decision was made without its remote store.
#[derive(Clone, Debug)]
pub struct Decision {
    pub(crate) parts: Vec<Part>,
    pub(crate) overloaded: bool,
    pub(crate) degraded: bool,
}

impl Decision {
    /// Whether the request was admitted.
    #[must_use]
    pub fn admits(&self) -> bool {
        !self.overloaded && !self.parts.iter().any(Part::refused)
    }

    /// Whether the per-node ceiling refused: this process is at its limit, whoever asks.
    #[must_use]
    pub const fn overloaded(&self) -> bool {
        self.overloaded
    }

    /// Whether the decision was made without the remote store that should have made it.
    #[must_use]
    pub const fn degraded(&self) -> bool {
        self.degraded
    }

    /// Every limit's part.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The limits that refused.
    pub fn violated(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.refused())
    }

    /// How long until the same request would be admitted, as far as is known now.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.violated().filter_map(|part| part.term.verdict.wait).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(rule: u16, limit: u32, remaining: u32, wait: Option<u64>, enforced: bool) -> Term {
        let verdict = Verdict { wait: wait.map(Duration::from_secs), remaining, reset: Duration::ZERO };
        Term { label: Label { rule, tier: 0 }, quota: Quota::per_minute(limit), verdict, enforced }
    }

    fn ruling(terms: &[Term]) -> Ruling {
        Ruling { terms: terms.into(), ..Ruling::default() }
    }

    #[test]
    fn an_admitted_request_reports_the_tightest_share() {
        let ruling = ruling(&[term(0, 1_000, 400, None, true), term(1, 10, 5, None, true)]);
        assert!(ruling.admits());
        assert_eq!(ruling.reported().expect("a term").label.rule, 0);
    }

    #[test]
    fn a_refusal_reports_the_longest_wait_not_the_lowest_remaining() {
        let terms = [term(0, 10, 0, Some(1), true), term(1, 10, 3, Some(9), true), term(2, 10, 0, None, true)];
        let ruling = ruling(&terms);
        assert!(!ruling.admits());
        assert_eq!(ruling.reported().expect("a term").label.rule, 1);
        assert_eq!(ruling.retry_after(), Some(Duration::from_secs(9)));
        assert_eq!(ruling.violated().count(), 2);
    }

    #[test]
    fn a_dry_run_neither_refuses_nor_is_reported() {
        let ruling = ruling(&[term(0, 10, 0, Some(9), false)]);
        assert!(ruling.admits());
        assert!(ruling.reported().is_none());
    }
}
