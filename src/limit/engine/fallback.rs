//! [`OnOutage`]: decisions while the shared store is unavailable.
//!
//! Every admission by the remote store also charges the local engine, so an outage resets no usage. The local
//! engine's decision also binds for one period *after* an outage: the remote store does not know what was admitted
//! without it, and after a restart it may have lost its data.
//!
//! | policy | admitted in a window by n nodes together during an outage | |
//! |---|---|---|
//! | `Local` | ≤ limit × n | each node enforces the whole limit |
//! | `Share(n)` | ≤ limit | each node enforces its share, independent of the distribution |
//! | `Allow` | everything | uncounted |
//! | `Deny` | nothing | |
//!
//! Admissions before the first connection are charged to the store when the key is seen again.
//!
//! A window in which the outage begins also contains what the store admitted before it: with `Share(n)` up to twice
//! the limit if one node had most of the traffic, the limit if the traffic was spread evenly.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use smallvec::SmallVec;

use super::store::LimitStore;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::lock::{Mutex, RwLock};
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
    /// Enforces the whole limit in this process.
    #[default]
    Local,
    /// Enforces this process's share: the limit divided by this number of nodes, at least 1.
    Share(u32),
    /// Admits every request.
    Allow,
    /// Rejects every request.
    Deny,
}

impl OnOutage {
    /// Returns the name: `local`, `allow`, `deny`, or `share:N`.
    pub(crate) fn to_text(self) -> String {
        match self {
            Self::Local => "local".to_owned(),
            Self::Share(nodes) => format!("share:{nodes}"),
            Self::Allow => "allow".to_owned(),
            Self::Deny => "deny".to_owned(),
        }
    }

    /// Returns the policy of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name.split_once(':') {
            Some(("share", nodes)) => nodes.parse().ok().filter(|nodes| *nodes > 0).map(Self::Share),
            _ => [Self::Local, Self::Allow, Self::Deny].into_iter().find(|policy| policy.to_text() == name),
        }
    }

    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Self::Share(0) => Err(Error::config("the number of nodes must be at least 1")),
            _ => Ok(()),
        }
    }
}

/// Maximum number of keys of which units are owed to the store.
const MAX_OWED: usize = 4_096;
/// `Retry-After` while every request is rejected.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Local engine beside a remote store.
pub(crate) struct Fallback {
    configured: OnOutage,
    /// Policy of an operator, which prevails.
    overridden: RwLock<Option<OnOutage>>,
    engine: Arc<dyn LimitStore>,
    /// Time of the last decision without the store or of its last reconnection; zero if there was none.
    last_outage: AtomicU64,
    /// Last observed generation of the store's connection.
    generation: AtomicU64,
    /// Units that were admitted before the first connection, by local key.
    owed: Mutex<HashMap<u64, OwedUnits, foldhash::fast::RandomState>>,
    owes: AtomicBool,
}

/// Units that the store has not been charged, and when the last of them were admitted.
#[derive(Clone, Copy, Debug)]
struct OwedUnits {
    units: u32,
    at: Timestamp,
}

impl Fallback {
    pub(crate) fn new(policy: OnOutage, engine: Arc<dyn LimitStore>) -> Self {
        Self {
            configured: policy,
            overridden: RwLock::default(),
            engine,
            last_outage: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            owed: Mutex::default(),
            owes: AtomicBool::new(false),
        }
    }

    /// Overrides the policy, or ends that.
    pub(super) fn override_with(&self, policy: Option<OnOutage>) {
        *self.overridden.write() = policy;
    }

    pub(super) fn policy(&self) -> OnOutage {
        self.overridden.read().unwrap_or(self.configured)
    }

    /// Charges locally before the remote store decides, if local decisions bind now; `None` if they do not.
    pub(super) fn precharge(&self, checks: &[Check], generation: u64, now: Timestamp) -> Option<Verdicts> {
        let seen = self.generation.load(Ordering::Relaxed);
        if seen != generation {
            self.generation.store(generation, Ordering::Relaxed);
            // The first connection reaches a store that has lost nothing, unless decisions were made before it.
            if seen != 0 {
                self.mark(now);
            }
        }
        self.is_binding(checks, now).then(|| self.decide_locally(checks, now))
    }

    /// Returns whether local decisions bind now: within one period of an outage.
    fn is_binding(&self, checks: &[Check], now: Timestamp) -> bool {
        let last_outage = self.last_outage.load(Ordering::Acquire);
        let recent = |check: &Check| now < Timestamp::from_nanos(last_outage) + check.quota.period();
        last_outage != 0 && checks.iter().any(recent) && self.policy() != OnOutage::Allow
    }

    /// Decides without the store. Checks that are already charged locally are not charged again.
    pub(super) fn decide(&self, checks: &[Check], precharged: Option<Verdicts>, now: Timestamp) -> Verdicts {
        self.mark(now);
        match self.policy() {
            OnOutage::Local | OnOutage::Share(_) => {
                let verdicts = precharged.unwrap_or_else(|| self.decide_locally(checks, now));
                self.owe(checks, &verdicts, now);
                verdicts
            }
            OnOutage::Allow => checks.iter().map(|_| Verdict::new(None, 0, Duration::ZERO)).collect(),
            OnOutage::Deny => {
                if let Some(precharged) = precharged {
                    self.release(checks, &precharged, now);
                }
                checks.iter().map(|_| Verdict::new(Some(RETRY_AFTER), 0, RETRY_AFTER)).collect()
            }
        }
    }

    /// Notes what is admitted before the first connection, for a bounded number of keys: nodes that start together would
    /// otherwise admit a limit each.
    fn owe(&self, checks: &[Check], verdicts: &[Verdict], now: Timestamp) {
        let rejected = checks.iter().zip(verdicts).any(|(check, verdict)| check.enforced && !verdict.admits());
        if rejected || self.generation.load(Ordering::Relaxed) != 0 {
            return;
        }
        let mut owed = self.owed.lock();
        for (check, _) in checks.iter().zip(verdicts).filter(|(_, verdict)| verdict.admits()) {
            let key = check.key.to_bits();
            if owed.len() < MAX_OWED || owed.contains_key(&key) {
                let units = owed.get(&key).map_or(0, |owed| owed.units).saturating_add(check.cost);
                owed.insert(key, OwedUnits { units, at: now });
            }
        }
        self.owes.store(!owed.is_empty(), Ordering::Release);
    }

    /// Returns what the store is to be charged for these keys, once it is connected and their names are known.
    pub(super) fn owed(&self, checks: &[Check], generation: u64, now: Timestamp) -> SmallVec<[Settlement; 2]> {
        let known = generation != 0 && checks.iter().all(|check| check.fleet().is_some());
        if !known || !self.owes.load(Ordering::Acquire) {
            return SmallVec::new();
        }
        let mut owed = self.owed.lock();
        let due = checks.iter().filter_map(|check| {
            let OwedUnits { units, at } = owed.remove(&check.key.to_bits())?;
            let counts = now.since(at) < Duration::from_nanos(check.quota.memory_nanos());
            counts.then(|| Settlement::new(check.cost(0), at, units))
        });
        let due = due.collect();
        self.owes.store(!owed.is_empty(), Ordering::Release);
        due
    }

    /// Charges the store's admissions locally too. If they do not fit and an outage began during the remote check,
    /// returns the local decision, which binds because other requests have been admitted on it.
    pub(crate) fn record(&self, checks: &[Check], verdicts: &[Verdict], now: Timestamp) -> Option<Verdicts> {
        let rejects =
            |verdicts: &[Verdict]| checks.iter().zip(verdicts).any(|(check, v)| check.enforced && !v.admits());
        if rejects(verdicts) {
            return None;
        }
        // Charged before testing whether it binds: an outage is marked before any request is admitted in it.
        let local = self.decide_locally(checks, now);
        if !rejects(&local) {
            return None;
        }
        if self.is_binding(checks, now) {
            return Some(local);
        }
        self.charge(checks, verdicts, now);
        None
    }

    /// Charges the store's admissions even if they do not fit.
    fn charge(&self, checks: &[Check], verdicts: &[Verdict], now: Timestamp) {
        let charged = checks.iter().zip(verdicts).filter(|(_, verdict)| verdict.admits());
        let charge = |check: &Check| Settlement::new(self.local(check).cost(0), now, check.cost);
        self.settle_locally(&charged.map(|(check, _)| charge(check)).collect::<SmallVec<[_; 2]>>(), now);
    }

    /// Refunds the charges of [`precharge`](Self::precharge).
    pub(super) fn release(&self, checks: &[Check], precharged: &[Verdict], now: Timestamp) {
        let taken = checks.iter().zip(precharged).filter(|(_, verdict)| verdict.admits());
        let refund = |check: &Check| Settlement::new(self.local(check), now, 0);
        self.settle_locally(&taken.map(|(check, _)| refund(check)).collect::<SmallVec<[_; 2]>>(), now);
    }

    /// Settles earlier charges locally, as in the store.
    pub(crate) fn settle(&self, settlements: &[Settlement], now: Timestamp) {
        let local = |s: &Settlement| Settlement { check: self.local(&s.check), ..*s };
        self.settle_locally(&settlements.iter().map(local).collect::<SmallVec<[_; 2]>>(), now);
    }

    /// Returns the local verdicts without charging.
    pub(super) fn peek(&self, checks: &[Check], now: Timestamp) -> Verdicts {
        let checks: SmallVec<[Check; 2]> = checks.iter().map(|check| self.local(check)).collect();
        match self.engine.peek(&checks, now) {
            MaybeReady::Ready(Ok(verdicts)) => verdicts,
            _ => Verdicts::new(),
        }
    }

    /// Resets the local usage of these keys, and their debt.
    pub(super) fn reset(&self, checks: &[Check]) {
        let mut owed = self.owed.lock();
        for check in checks {
            owed.remove(&check.key.to_bits());
            drop(self.engine.reset(&[*check, self.local(check)]));
        }
    }

    fn mark(&self, now: Timestamp) {
        self.last_outage.fetch_max(now.as_nanos(), Ordering::AcqRel);
    }

    fn decide_locally(&self, checks: &[Check], now: Timestamp) -> Verdicts {
        let checks: SmallVec<[Check; 2]> = checks.iter().map(|check| self.local(check)).collect();
        match self.engine.decide(&checks, now) {
            MaybeReady::Ready(Ok(verdicts)) => verdicts,
            // The local engine is always ready and never fails; a failure would admit.
            _ => checks.iter().map(|_| Verdict::new(None, 0, Duration::ZERO)).collect(),
        }
    }

    fn settle_locally(&self, settlements: &[Settlement], now: Timestamp) {
        if !settlements.is_empty() {
            drop(self.engine.settle(settlements, now));
        }
    }

    /// Returns the check with the quota that this process enforces.
    fn local(&self, check: &Check) -> Check {
        match self.policy() {
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
    fn an_outage_resets_no_usage() {
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
    fn a_share_is_enforced_and_at_least_one() {
        let fallback = fallback(OnOutage::Share(8));
        assert_eq!(admitted(40, || fallback.decide(&[check()], None, START)), 2);
        let tiny = fallback.local(&Check::new(KeyHash::from_bits(1), Quota::per_minute(3).bucket(2)));
        assert_eq!((tiny.quota.limit(), tiny.quota.capacity()), (1, 1), "a share is at least 1");
    }

    #[test]
    fn local_decisions_bind_for_one_period_after_an_outage() {
        let fallback = fallback(OnOutage::Local);
        assert!(fallback.precharge(&[check()], 1, START).is_none());
        assert_eq!(admitted(15, || fallback.decide(&[check()], None, START)), 15);
        let after = START + Duration::from_secs(1);
        let precharged = || fallback.precharge(&[check()], 2, after).expect("local decisions bind");
        assert_eq!(admitted(40, precharged), 5);
        assert!(fallback.precharge(&[check()], 2, after + Duration::from_secs(61)).is_none());
    }

    #[test]
    fn local_decisions_bind_after_a_reconnection() {
        let fallback = fallback(OnOutage::Local);
        assert!(fallback.precharge(&[check()], 1, START).is_none(), "the first connection has lost nothing");
        assert!(fallback.precharge(&[check()], 2, START).is_some());
    }

    #[test]
    fn what_is_admitted_before_the_first_connection_is_owed_to_the_store() {
        let fallback = fallback(OnOutage::Local);
        let named = |key: u64| {
            let quota = Quota::per_minute(20);
            Check::new(KeyHash::from_bits(key), quota).cost(2).in_fleet(KeyHash::from_bits(key + 100))
        };
        let nameless = Check::new(KeyHash::from_bits(7), Quota::per_minute(20)).cost(2);
        assert_eq!(admitted(15, || fallback.decide(&[nameless], None, START)), 10);
        let owed = |check: Check, generation, now| {
            fallback.owed(&[check], generation, now).iter().map(|due| (due.check.cost, due.actual)).collect::<Vec<_>>()
        };
        assert_eq!(owed(named(7), 0, START), [], "not connected");
        assert_eq!(owed(nameless, 1, START), [], "its name is not known");
        assert_eq!(owed(named(8), 1, START), []);
        assert_eq!(owed(named(7), 1, START), [(0, 20)]);
        assert_eq!(owed(named(7), 1, START), [], "charged once");
        fallback.decide(&[named(9)], None, START);
        assert_eq!(owed(named(9), 1, START + Duration::from_secs(60)), [], "it counts no more");
        assert!(fallback.precharge(&[named(7)], 1, START).is_some());
        fallback.decide(&[named(10)], None, START);
        assert_eq!(owed(named(10), 2, START), [], "a later outage: local decisions bind");
        for key in 0..10_000 {
            fallback.owe(&[named(key)], &[Verdict::new(None, 1, Duration::ZERO)], START);
        }
        assert!(fallback.owed.lock().len() <= MAX_OWED);
    }

    #[test]
    fn unused_precharges_are_refunded() {
        let fallback = fallback(OnOutage::Local);
        fallback.decide(&[check()], None, START);
        for _ in 0..100 {
            let precharged = fallback.precharge(&[check()], 0, START).expect("local decisions bind");
            assert!(precharged[0].admits());
            fallback.release(&[check()], &precharged, START);
        }
    }
}
