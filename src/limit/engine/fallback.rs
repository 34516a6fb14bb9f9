//! [`OnOutage`]: how limits go on while the store that a fleet shares is away.
//!
//! Every admission by the remote store also charges the engine of this process, so a store that goes away forgives
//! nothing. The local engine's word also binds for one period *after* an outage: what was admitted without the store is
//! unknown to it, and a store that was restarted may have forgotten everything.
//!
//! | policy | while the store is away, n nodes together admit in a window | |
//! |---|---|---|
//! | `Local` | ≤ limit × n | each node holds its clients to the whole limit |
//! | `Share(n)` | ≤ limit | each node holds them to its share, however they are spread |
//! | `Allow` | everything | and nothing of it is counted |
//! | `Deny` | nothing | |
//!
//! A window in which the outage begins holds what the store admitted before it, too: with `Share(n)` up to twice the
//! limit where one node had most of the traffic, the limit where it was spread evenly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smallvec::SmallVec;

use super::store::LimitStore;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::limit::algorithm::check::{Check, Settlement};
use crate::limit::algorithm::verdict::{Verdict, Verdicts};

/// Policy while the store that a fleet shares is unavailable.
///
/// ```
/// use tollgate::Tollgate;
/// use tollgate::limit::{Limit, OnOutage, Quota};
///
/// let gate = Tollgate::builder()
///     .limit(Limit::per_ip(Quota::per_minute(100)))
///     .limits_with(|limits| limits.on_outage(OnOutage::Share(4))) // four nodes: 25 a minute on each
///     .redis("redis://127.0.0.1")
///     .build()?;
/// # let _ = gate;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnOutage {
    /// This process holds everybody to the whole limit by itself.
    #[default]
    Local,
    /// This process holds everybody to its share: the limit divided by so many nodes, at least 1.
    Share(u32),
    /// Everything is admitted.
    Allow,
    /// Refuses every request.
    Deny,
}

impl OnOutage {
    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Self::Share(0) => Err(Error::config("the number of nodes must be at least 1")),
            _ => Ok(()),
        }
    }
}

/// `Retry-After` when every request is refused.
const PATIENCE: Duration = Duration::from_secs(1);

/// The engine of this process, beside a remote store.
pub(crate) struct Fallback {
    policy: OnOutage,
    engine: Arc<dyn LimitStore>,
    /// When a decision was last made without the store, or its connection was last new. Zero where never.
    last: AtomicU64,
    /// The store's connection as last seen.
    generation: AtomicU64,
}

impl Fallback {
    pub(crate) fn new(policy: OnOutage, engine: Arc<dyn LimitStore>) -> Self {
        Self { policy, engine, last: AtomicU64::new(0), generation: AtomicU64::new(0) }
    }

    /// Takes the local charge first, where the local engine's word binds now; `None` where it does not.
    pub(crate) fn hold(&self, checks: &[Check], generation: u64, now: Timestamp) -> Option<Verdicts> {
        let seen = self.generation.load(Ordering::Relaxed);
        if seen != generation {
            self.generation.store(generation, Ordering::Relaxed);
            // The first connection comes after nothing that could be forgotten, unless decisions were made before it.
            if seen != 0 {
                self.mark(now);
            }
        }
        self.binds(checks, now).then(|| self.decide_locally(checks, now))
    }

    /// Whether the local engine's word binds now: within a period of an outage.
    fn binds(&self, checks: &[Check], now: Timestamp) -> bool {
        let last = self.last.load(Ordering::Acquire);
        let recent = |check: &Check| now < Timestamp::from_nanos(last) + check.quota.period();
        self.policy != OnOutage::Allow && last != 0 && checks.iter().any(recent)
    }

    /// Decides without the store. What is held already is not charged twice.
    pub(crate) fn decide(&self, checks: &[Check], held: Option<Verdicts>, now: Timestamp) -> Verdicts {
        self.mark(now);
        match self.policy {
            OnOutage::Local | OnOutage::Share(_) => held.unwrap_or_else(|| self.decide_locally(checks, now)),
            OnOutage::Allow => checks.iter().map(|_| Verdict::new(None, 0, Duration::ZERO)).collect(),
            OnOutage::Deny => {
                if let Some(held) = held {
                    self.release(checks, &held, now);
                }
                checks.iter().map(|_| Verdict::new(Some(PATIENCE), 0, PATIENCE)).collect()
            }
        }
    }

    /// What the store has admitted counts here too. Where that does not fit, and an outage has begun while the store
    /// was
    /// asked, this process's word binds, and is returned: others have been admitted on it already.
    pub(crate) fn count(&self, checks: &[Check], verdicts: &[Verdict], now: Timestamp) -> Option<Verdicts> {
        let refuses =
            |verdicts: &[Verdict]| checks.iter().zip(verdicts).any(|(check, v)| check.enforced && !v.admits());
        if refuses(verdicts) {
            return None;
        }
        // Charged first, then asked whether it binds: an outage is marked before anybody is admitted in it.
        let here = self.decide_locally(checks, now);
        if !refuses(&here) {
            return None;
        }
        if self.binds(checks, now) {
            return Some(here);
        }
        self.charge(checks, verdicts, now);
        None
    }

    /// Charges what the store has admitted, whether it fits or not.
    fn charge(&self, checks: &[Check], verdicts: &[Verdict], now: Timestamp) {
        let charged = checks.iter().zip(verdicts).filter(|(_, verdict)| verdict.admits());
        let charge = |check: &Check| Settlement::new(self.local(check).cost(0), now, check.cost);
        self.settle_locally(&charged.map(|(check, _)| charge(check)).collect::<SmallVec<[_; 2]>>(), now);
    }

    /// Gives back what [`hold`](Self::hold) took.
    pub(crate) fn release(&self, checks: &[Check], held: &[Verdict], now: Timestamp) {
        let taken = checks.iter().zip(held).filter(|(_, verdict)| verdict.admits());
        let refund = |check: &Check| Settlement::new(self.local(check), now, 0);
        self.settle_locally(&taken.map(|(check, _)| refund(check)).collect::<SmallVec<[_; 2]>>(), now);
    }

    /// Corrects earlier charges here as in the store.
    pub(crate) fn settle(&self, settlements: &[Settlement], now: Timestamp) {
        let local = |s: &Settlement| Settlement { check: self.local(&s.check), ..*s };
        self.settle_locally(&settlements.iter().map(local).collect::<SmallVec<[_; 2]>>(), now);
    }

    fn mark(&self, now: Timestamp) {
        self.last.fetch_max(now.as_nanos(), Ordering::AcqRel);
    }

    fn decide_locally(&self, checks: &[Check], now: Timestamp) -> Verdicts {
        let checks: SmallVec<[Check; 2]> = checks.iter().map(|check| self.local(check)).collect();
        match self.engine.decide(&checks, now) {
            MaybeReady::Ready(Ok(verdicts)) => verdicts,
            // The local engine answers at once and never fails; were it otherwise, a store's failure admits.
            _ => checks.iter().map(|_| Verdict::new(None, 0, Duration::ZERO)).collect(),
        }
    }

    fn settle_locally(&self, settlements: &[Settlement], now: Timestamp) {
        if !settlements.is_empty() {
            drop(self.engine.settle(settlements, now));
        }
    }

    /// The check as this process holds to it.
    fn local(&self, check: &Check) -> Check {
        match self.policy {
            OnOutage::Share(nodes) => Check { quota: check.quota.share(nodes), ..*check },
            _ => *check,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::KeyHash;
    use crate::limit::algorithm::quota::Quota;
    use crate::store::memory::MemoryLimits;

    const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);

    fn fallback(policy: OnOutage) -> Fallback {
        Fallback::new(policy, Arc::new(MemoryLimits::new(100)))
    }

    fn check() -> Check {
        Check::new(KeyHash::from_bits(7), Quota::per_minute(20))
    }

    fn admitted(n: usize, decide: impl Fn() -> Verdicts) -> usize {
        (0..n).filter(|_| decide()[0].admits()).count()
    }

    #[test]
    fn an_outage_forgives_nothing() {
        for (policy, left) in
            [(OnOutage::Local, 5), (OnOutage::Share(2), 0), (OnOutage::Allow, 40), (OnOutage::Deny, 0)]
        {
            let fallback = fallback(policy);
            for _ in 0..15 {
                fallback.charge(&[check()], &[Verdict::new(None, 1, Duration::ZERO)], START);
            }
            assert_eq!(admitted(40, || fallback.decide(&[check()], None, START)), left, "{policy:?}");
        }
    }

    #[test]
    fn a_share_is_a_share_however_often_it_is_asked() {
        let fallback = fallback(OnOutage::Share(8));
        assert_eq!(admitted(40, || fallback.decide(&[check()], None, START)), 2);
        let tiny = fallback.local(&Check::new(KeyHash::from_bits(1), Quota::per_minute(3).bucket(2)));
        assert_eq!((tiny.quota.limit(), tiny.quota.capacity()), (1, 1), "nobody's share is nothing");
    }

    #[test]
    fn the_local_word_binds_for_one_period_after_an_outage() {
        let fallback = fallback(OnOutage::Local);
        assert!(fallback.hold(&[check()], 1, START).is_none());
        assert_eq!(admitted(15, || fallback.decide(&[check()], None, START)), 15);
        let after = START + Duration::from_secs(1);
        let held = || fallback.hold(&[check()], 2, after).expect("it binds");
        assert_eq!(admitted(40, held), 5);
        assert!(fallback.hold(&[check()], 2, after + Duration::from_secs(61)).is_none());
    }

    #[test]
    fn a_new_connection_may_lead_to_a_store_that_has_forgotten() {
        let fallback = fallback(OnOutage::Local);
        assert!(fallback.hold(&[check()], 1, START).is_none(), "the first one leads to all there is");
        assert!(fallback.hold(&[check()], 2, START).is_some());
    }

    #[test]
    fn what_was_held_and_not_used_is_given_back() {
        let fallback = fallback(OnOutage::Local);
        fallback.decide(&[check()], None, START);
        for _ in 0..100 {
            let held = fallback.hold(&[check()], 0, START).expect("it binds");
            assert!(held[0].admits());
            fallback.release(&[check()], &held, START);
        }
    }
}
