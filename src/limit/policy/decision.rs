//! Combines the verdicts of all limits into one decision.
//!
//! A request is admitted only if the [`Verdict`]s of all limits admit it. The response reports one limit: after an
//! admission the one that admits the fewest further requests like this one, after a rejection the one with the longest
//! wait. The per-node ceiling, whose rest belongs to all clients, is reported only if it rejects or is alone.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::compiled_quota::CompiledQuota;
use super::reference::Reference;
use crate::limit::algorithm::check::Check;
use crate::limit::algorithm::quota::Quota;
use crate::limit::algorithm::verdict::Verdict;

/// Index of a limit and of its tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitLabel {
    pub(crate) rule: u16,
    pub(super) tier: u16,
}

impl LimitLabel {
    /// Whether it is the first tier of its limit.
    pub(crate) const fn is_first(self) -> bool {
        self.tier == 0
    }

    /// Returns the index of the tier.
    pub(crate) const fn tier(self) -> usize {
        self.tier as usize
    }
}

/// Outcome of one limit. Small and `Copy`: names are looked up only when needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitOutcome {
    pub(crate) label: LimitLabel,
    pub(crate) quota: Quota,
    pub(crate) verdict: Verdict,
    /// Units that the request costs.
    pub(crate) cost: u32,
    pub(crate) enforced: bool,
}

impl LimitOutcome {
    /// Returns how many more requests of this cost would be admitted now; for a free request, the remaining units.
    #[inline]
    pub(super) const fn passes(&self) -> u32 {
        if self.cost <= 1 { self.verdict.remaining() } else { self.verdict.remaining() / self.cost }
    }

    pub(super) const fn rejects(&self) -> bool {
        self.enforced && !self.verdict.admits()
    }

    /// Compares the requests that pass; if equal, the time until the limit is fully available.
    fn is_tighter_than(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.passes(), other.passes());
        mine < theirs || mine == theirs && self.verdict.reset() > other.verdict.reset()
    }
}

/// Outcomes of all limits: the checks with their verdicts, and the per-node ceiling.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) checks: &'a [Check],
    pub(crate) labels: &'a [LimitLabel],
    pub(crate) verdicts: &'a [Verdict],
    /// Outcome of the per-node ceiling, if it was checked.
    pub(crate) node: Option<LimitOutcome>,
    /// Whether the remote store was unavailable for this decision.
    pub(crate) degraded: bool,
}

impl Outcome<'_> {
    #[cfg(test)]
    fn admits(&self) -> bool {
        !self.overloaded() && self.limits_admit()
    }

    /// Returns whether all limits except the per-node ceiling admit.
    pub(crate) fn limits_admit(&self) -> bool {
        self.checks.iter().zip(self.verdicts).all(|(check, verdict)| verdict.admits() || !check.enforced)
    }

    pub(crate) fn overloaded(&self) -> bool {
        self.node.is_some_and(|part| part.rejects())
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = LimitOutcome> {
        (0..self.verdicts.len()).map(|i| self.part(i)).chain(self.node)
    }

    /// Returns the limit that an admitted request reports: the one that admits the fewest further ones; `None` in
    /// shadow.
    #[inline]
    pub(super) fn tightest(&self) -> Option<LimitOutcome> {
        self.best(None, |part| part.enforced, LimitOutcome::is_tighter_than).or(self.node)
    }

    /// Returns the limit that a rejected request reports: the longest wait.
    pub(super) fn longest(&self) -> Option<LimitOutcome> {
        self.best(self.node, LimitOutcome::rejects, |part, best| part.verdict.wait > best.verdict.wait)
    }

    fn part(&self, i: usize) -> LimitOutcome {
        let check = &self.checks[i];
        let Check { quota, cost, enforced, .. } = *check;
        LimitOutcome { label: self.labels[i], quota, verdict: self.verdicts[i], cost, enforced }
    }

    /// Selects a limit; the common case of one limit needs no comparison.
    #[inline]
    fn best(
        &self,
        first: Option<LimitOutcome>,
        counts: impl Fn(&LimitOutcome) -> bool,
        beats: impl Fn(&LimitOutcome, &LimitOutcome) -> bool,
    ) -> Option<LimitOutcome> {
        let mut best = first.filter(&counts);
        for i in 0..self.verdicts.len() {
            let part = self.part(i);
            if counts(&part) && best.as_ref().is_none_or(|best| beats(&part, best)) {
                best = Some(part);
            }
        }
        best
    }
}

/// Decision of one limit, within a [`Decision`].
///
/// ```
/// fn names(decision: &tollgate::limit::Decision) -> Vec<&str> {
///     decision.limits().iter().map(|limit| limit.name()).collect()
/// }
/// # let _ = names;
/// ```
#[derive(Clone, Debug)]
pub struct LimitDecision {
    compiled: Arc<CompiledQuota>,
    part: LimitOutcome,
}

impl LimitDecision {
    pub(crate) const fn new(compiled: Arc<CompiledQuota>, part: LimitOutcome) -> Self {
        Self { compiled, part }
    }

    /// Returns the name of the limit or tier.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.compiled.name
    }

    /// Returns the name of the tier; empty if the limit has no tiers.
    #[must_use]
    pub fn tier(&self) -> &str {
        &self.compiled.tier
    }

    pub(super) fn problem(&self) -> &str {
        &self.compiled.problem
    }

    /// Returns how many requests may be in progress, if this is a [`ConcurrencyLimit`](crate::limit::ConcurrencyLimit), which
    /// has no quota.
    #[must_use]
    pub fn concurrency(&self) -> Option<u32> {
        self.compiled.places
    }

    /// Returns the enforced quota; that of a concurrency limit is a placeholder.
    #[must_use]
    pub const fn quota(&self) -> Quota {
        self.part.quota
    }

    /// Returns the verdict.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.part.verdict
    }

    /// Returns whether this limit rejected the request; never in shadow.
    #[must_use]
    pub const fn refused(&self) -> bool {
        self.part.rejects()
    }
}

/// Decision of all limits on one request, part of a [`Rejection`](crate::limit::Rejection).
///
/// It is also inserted into the extensions of every response whose decision was made without its remote store.
///
/// ```
/// use bytes::Bytes;
/// use http::Response;
/// use tollgate::limit::Rejection;
///
/// fn reject(rejection: &Rejection<'_>) -> Option<Response<Bytes>> {
///     let decision = rejection.decision();
///     let names: Vec<&str> = decision.violated().map(|limit| limit.name()).collect();
///     Some(Response::new(format!("{names:?}: retry in {:?}", decision.retry_after()).into()))
/// }
/// # let _ = reject;
/// ```
#[derive(Clone, Debug)]
pub struct Decision {
    pub(crate) parts: SmallVec<[LimitDecision; 2]>,
    pub(crate) overloaded: bool,
    pub(crate) reference: Option<Reference>,
    /// Whether the subject is denied, and for how long if it is banned.
    pub(crate) denied: Option<Option<Duration>>,
    pub(crate) degraded: bool,
}

impl Decision {
    /// The decision where no limit applies.
    pub(crate) fn admission() -> Self {
        Self { parts: SmallVec::new(), overloaded: false, reference: None, denied: None, degraded: false }
    }

    /// The decision where a limit on requests in progress refuses.
    pub(crate) fn busy(part: LimitDecision, overloaded: bool, reference: Reference) -> Self {
        let parts = SmallVec::from_iter([part]);
        Self { parts, overloaded, reference: Some(reference), ..Self::admission() }
    }

    /// Whether a limit on requests in progress refused.
    pub(super) fn is_busy(&self) -> bool {
        self.parts.iter().any(|part| part.concurrency().is_some())
    }

    /// Returns whether the request was admitted.
    #[must_use]
    pub fn admits(&self) -> bool {
        !self.overloaded && self.denied.is_none() && !self.parts.iter().any(LimitDecision::refused)
    }

    /// Returns whether the per-node ceiling, or a concurrency limit that all clients share, rejected: the process is
    /// overloaded, independent of the client.
    #[must_use]
    pub const fn overloaded(&self) -> bool {
        self.overloaded
    }

    /// Returns whether the subject is on the deny list or banned, independent of the limits.
    #[must_use]
    pub const fn denied(&self) -> bool {
        self.denied.is_some()
    }

    /// Returns whether the decision was made locally because the remote store was unavailable.
    #[must_use]
    pub const fn degraded(&self) -> bool {
        self.degraded
    }

    /// Returns the reference of a refusal, by which it is found again; `None` if the request was admitted.
    #[must_use]
    pub fn reference(&self) -> Option<&str> {
        self.reference.as_ref().map(Reference::as_str)
    }

    /// Returns the decisions of all limits.
    #[must_use]
    pub fn limits(&self) -> &[LimitDecision] {
        &self.parts
    }

    /// Iterates over the limits that rejected the request.
    pub fn violated(&self) -> impl Iterator<Item = &LimitDecision> {
        self.parts.iter().filter(|part| part.refused())
    }

    /// Returns the time until the same request would be admitted, as known now.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let limits = self.violated().filter_map(|part| part.part.verdict.wait()).max();
        limits.or(self.denied.flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::KeyHash;

    type Row = (u32, u32, Option<u64>, bool);

    /// Builds an outcome from rows of (limit, remaining, wait, enforced).
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
    fn an_admitted_request_reports_the_limit_that_admits_the_fewest_more() {
        with(&[(20_000, 19_095, None, true), (1_000, 999, None, true)], |outcome| {
            assert!(outcome.admits());
            assert_eq!(outcome.tightest().expect("a part").label.rule, 1);
        });
        with(&[(1_000, 400, None, true), (10, 5, None, true)], |outcome| {
            assert_eq!(outcome.tightest().expect("a part").label.rule, 1);
        });
    }

    #[test]
    fn a_refusal_reports_the_longest_wait_not_the_lowest_remaining() {
        with(&[(10, 0, Some(1), true), (10, 3, Some(9), true), (10, 0, None, true)], |outcome| {
            assert!(!outcome.admits());
            let longest = outcome.longest().expect("a part");
            assert_eq!((longest.label.rule, longest.verdict.wait()), (1, Some(Duration::from_secs(9))));
        });
    }

    #[test]
    fn a_limit_in_shadow_neither_refuses_nor_is_reported() {
        with(&[(10, 0, Some(9), false)], |outcome| {
            assert!(outcome.admits());
            assert!(outcome.tightest().is_none());
        });
    }
}
