//! From verdicts to one decision, and what it says in the response.
//!
//! Every limit of a request gives a [`Verdict`]; the request goes on only where all of them admit it. The response
//! reports one limit: on success the one with the lowest remaining share, on refusal the one with the longest wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::compiled_quota::CompiledQuota;
use crate::limit::algorithm::check::Check;
use crate::limit::algorithm::quota::Quota;
use crate::limit::algorithm::verdict::Verdict;

/// Index of a limit and of its tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitLabel {
    pub(crate) rule: u16,
    pub(crate) tier: u16,
}

/// One limit's part in a ruling. Small and `Copy`: names are looked up only where somebody reads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    pub(crate) label: LimitLabel,
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
        self.verdict.remaining * (other.quota.capacity() as u64)
            < other.verdict.remaining * (self.quota.capacity() as u64)
    }
}

/// All limits' parts together: the dues with the verdicts on them, and the per-node ceiling's part.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) checks: &'a [Check],
    pub(crate) labels: &'a [LimitLabel],
    pub(crate) verdicts: &'a [Verdict],
    /// The per-node ceiling, where it was asked.
    pub(crate) node: Option<Term>,
    /// Whether the remote store that should have decided did not.
    pub(crate) degraded: bool,
}

impl Outcome<'_> {
    #[cfg(test)]
    fn admits(&self) -> bool {
        !self.overloaded() && self.limits_admit()
    }

    /// Whether everything but the per-node ceiling admits.
    pub(crate) fn limits_admit(&self) -> bool {
        self.checks.iter().zip(self.verdicts).all(|(check, verdict)| verdict.admits() || !check.enforced)
    }

    pub(crate) fn overloaded(&self) -> bool {
        self.node.is_some_and(|term| term.refuses())
    }

    pub(crate) fn terms(&self) -> impl Iterator<Item = Term> {
        (0..self.verdicts.len()).map(|i| self.term(i)).chain(self.node)
    }

    /// The limit an admitted request reports: the one with the lowest remaining share; none in dry-run.
    pub(crate) fn tightest(&self) -> Option<Term> {
        self.best(|term| term.enforced, Term::is_tighter_than)
    }

    /// The limit a refused request reports: the one with the longest wait.
    pub(crate) fn longest(&self) -> Option<Term> {
        self.best(Term::refuses, |term, best| term.verdict.wait > best.verdict.wait)
    }

    fn term(&self, i: usize) -> Term {
        let check = &self.checks[i];
        Term { label: self.labels[i], quota: check.quota, verdict: self.verdicts[i], enforced: check.enforced }
    }

    /// One limit is the rule: it is looked at without a comparison.
    #[inline]
    fn best(&self, counts: impl Fn(&Term) -> bool, beats: impl Fn(&Term, &Term) -> bool) -> Option<Term> {
        let mut best = self.node.filter(&counts);
        for i in 0..self.verdicts.len() {
            let term = self.term(i);
            if counts(&term) && best.as_ref().is_none_or(|best| beats(&term, best)) {
                best = Some(term);
            }
        }
        best
    }
}

/// One limit's part in a [`Decision`].
#[derive(Clone, Debug)]
pub struct Part {
    offer: Arc<CompiledQuota>,
    term: Term,
}

impl Part {
    pub(crate) const fn new(offer: Arc<CompiledQuota>, term: Term) -> Self {
        Self { offer, term }
    }

    /// The limit's name; for tiers, the tier's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.offer.name
    }

    pub(crate) fn problem(&self) -> &Bytes {
        &self.offer.problem
    }

    /// The quota the key was held to.
    #[must_use]
    pub const fn quota(&self) -> Quota {
        self.term.quota
    }

    /// Verdict of the limit.
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

/// Decision of all limits on one request: passed to [`OnReject`](crate::limit::OnReject), and left in the extensions of
/// every response whose decision was made without its remote store.
#[derive(Clone, Debug)]
pub struct Decision {
    pub(crate) parts: SmallVec<[Part; 2]>,
    pub(crate) overloaded: bool,
    pub(crate) degraded: bool,
}

impl Decision {
    /// Whether the request was admitted.
    #[must_use]
    pub fn admits(&self) -> bool {
        !self.overloaded && !self.parts.iter().any(Part::refused)
    }

    /// Returns whether the per-node ceiling refused: the process is overloaded, independent of the client.
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
        self.violated().filter_map(|part| part.term.verdict.wait()).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::KeyHash;

    type Row = (u32, u32, Option<u64>, bool);

    /// What `f` makes of a ruling over limits of (limit, remaining, wait, enforced).
    fn with<R>(rows: &[Row], f: impl FnOnce(Outcome<'_>) -> R) -> R {
        let key = KeyHash::from_bits(0);
        let checks: Vec<Check> =
            rows.iter().map(|row| Check { enforced: row.3, ..Check::new(key, Quota::per_minute(row.0)) }).collect();
        let labels: Vec<LimitLabel> = (0..rows.len() as u16).map(|rule| LimitLabel { rule, tier: 0 }).collect();
        let verdict = |row: &Row| Verdict::new(row.2.map(Duration::from_secs), row.1, Duration::ZERO);
        let verdicts: Vec<Verdict> = rows.iter().map(verdict).collect();
        f(Outcome { checks: &checks, labels: &labels, verdicts: &verdicts, node: None, degraded: false })
    }

    #[test]
    fn an_admitted_request_reports_the_tightest_share() {
        with(&[(1_000, 400, None, true), (10, 5, None, true)], |ruling| {
            assert!(ruling.admits());
            assert_eq!(ruling.tightest().expect("a term").label.rule, 0);
        });
    }

    #[test]
    fn a_refusal_reports_the_longest_wait_not_the_lowest_remaining() {
        with(&[(10, 0, Some(1), true), (10, 3, Some(9), true), (10, 0, None, true)], |ruling| {
            assert!(!ruling.admits());
            let longest = ruling.longest().expect("a term");
            assert_eq!((longest.label.rule, longest.verdict.wait()), (1, Some(Duration::from_secs(9))));
        });
    }

    #[test]
    fn a_dry_run_neither_refuses_nor_is_reported() {
        with(&[(10, 0, Some(9), false)], |ruling| {
            assert!(ruling.admits());
            assert!(ruling.tightest().is_none());
        });
    }
}
