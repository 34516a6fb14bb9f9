//! [`LimitEngine`]: limits of a fleet in a remote store, the same for every engine ([`LimitBackend`]).
//!
//! | decision | made by | round trips |
//! |---|---|---|
//! | on a key that was just refused | this process, until the retry time | 0 |
//! | on a hot key, where nodes lease | this process, from a leased block | 0 |
//! | any other | the store, in one call for all queued decisions | 1, shared |
//! | before the first connection | waits for it, at most for the deadline of a decision | – |
//! | while the store is unavailable | an immediate error; the layer falls back to local decisions | 0 |
//!
//! A store may spread keys over several tags, each with calls of its own. Checks of one request on several tags are sent in
//! parallel and refunded if one refuses: meanwhile the charged units may cause other refusals.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;
use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::backend::LimitBackend;
use super::group::{CheckGroup, LimitCommand, LimitOp};
use super::local_cache::LocalCache;
use super::queue::{CallQueue, QueuedGroup};
use super::worker;
use crate::base::clock::{Clock, Timestamp, runtime_now};
use crate::base::error::Error;
use crate::base::event::{Events, Hook};
use crate::base::maybe_ready::MaybeReady;
use crate::base::outage::Outage;
use crate::identity::FleetSecret;
use crate::limit::algorithm::lease::Unspent;
use crate::limit::{Check, LimitStore, LimitStoreStats, Quota, RemoteStats, Settlement, Verdict, Verdicts};
use crate::resilience::guard::FailOpen;
use crate::resilience::outage_switch::OutageSwitch;

/// Limits in a remote store. Clones share state.
pub(crate) struct LimitEngine<B: LimitBackend> {
    inner: Arc<LimitsShared<B>>,
}

pub(super) struct LimitsShared<B: LimitBackend> {
    pub(super) guard: FailOpen<B::Connection>,
    secret: FleetSecret,
    pub(super) backend: B,
    pub(super) queues: Box<[CallQueue]>,
    pub(super) local_cache: LocalCache,
    /// Whether nodes lease blocks of hot keys.
    is_leased: bool,
    pub(super) leases: worker::Leases,
    pub(super) clock: Clock,
    /// Whether the store gets the time as an argument, as in tests.
    pub(super) passes_time: bool,
    /// Lower bound of the store's time minus the local time, in microseconds.
    pub(super) offset_us: AtomicI64,
    pub(super) counters: RemoteCounters,
    /// Whether decisions no longer wait for the first connection.
    started: AtomicBool,
    /// Time until which they wait, from the first one on.
    starts_by: OnceLock<Instant>,
}

#[derive(Default)]
pub(super) struct RemoteCounters {
    decisions: AtomicU64,
    leased: AtomicU64,
    cached_refusals: AtomicU64,
    pub(super) commands: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl<B: LimitBackend> LimitEngine<B> {
    /// Creates a limit store behind this guard. Tests give the `time`.
    pub(crate) fn new(
        backend: B,
        guard: FailOpen<B::Connection>,
        secret: FleetSecret,
        is_leased: bool,
        time: Option<Clock>,
    ) -> Self {
        let queues = (0..backend.tags()).map(|_| CallQueue::new(B::WORKERS)).collect();
        let inner = LimitsShared {
            guard,
            secret,
            backend,
            queues,
            local_cache: LocalCache::new(),
            is_leased,
            leases: worker::Leases::default(),
            passes_time: time.is_some(),
            clock: time.unwrap_or_default(),
            offset_us: AtomicI64::new(0),
            counters: RemoteCounters::default(),
            started: AtomicBool::new(false),
            starts_by: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl<B: LimitBackend> Clone for LimitEngine<B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<B: LimitBackend> LimitEngine<B> {
    /// Returns the switch of the server.
    pub(super) fn switch(&self) -> OutageSwitch {
        self.inner.guard.switch()
    }
}

impl<B: LimitBackend> LimitStore for LimitEngine<B> {
    fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        let inner = &self.inner;
        if let Some(refusal) = inner.refusal(checks, now) {
            count(&inner.counters.decisions);
            count(&inner.counters.cached_refusals);
            return MaybeReady::Ready(Ok(refusal));
        }
        if inner.is_leased
            && let Some(paid) = inner.pay(checks, now)
        {
            count(&inner.counters.decisions);
            count(&inner.counters.leased);
            return MaybeReady::Ready(Ok(paid));
        }
        inner.ask(checks, now, true)
    }

    fn peek(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        self.inner.ask(checks, now, false)
    }

    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>> {
        let inner = &self.inner;
        let corrections: Vec<LimitOp> =
            settlements.iter().filter_map(|settlement| inner.correction(settlement)).collect();
        if corrections.is_empty() {
            return MaybeReady::Ready(Ok(()));
        }
        if let Err(outage) = inner.guard.check() {
            return MaybeReady::Ready(Err(outage_error(outage)));
        }
        corrections.iter().for_each(|op| inner.local_cache.clear_refusal(op.key));
        let pending: Vec<_> = corrections.into_iter().map(|op| inner.send(smallvec![op], now)).collect();
        MaybeReady::Pending(Box::pin(async move {
            join_all(pending.into_iter().map(await_reply)).await.into_iter().try_for_each(|reply| reply.map(|_| ()))
        }))
    }

    fn reset(&self, checks: &[Check]) -> MaybeReady<Result<(), Error>> {
        let inner = &self.inner;
        if let Err(outage) = inner.guard.check() {
            return MaybeReady::Ready(Err(outage_error(outage)));
        }
        let op = |check: &Check| {
            let key = check.fleet()?.to_bits();
            inner.local_cache.clear_refusal(key);
            Some(LimitOp { key, quota: check.quota, units: 0, act: LimitCommand::Reset })
        };
        let pending: Vec<_> =
            checks.iter().filter_map(op).map(|op| inner.send(smallvec![op], inner.clock.now())).collect();
        MaybeReady::Pending(Box::pin(async move {
            join_all(pending.into_iter().map(await_reply)).await.into_iter().try_for_each(|reply| reply.map(|_| ()))
        }))
    }

    fn publish(&self, name: u64, record: &[u8], ttl: Duration) -> MaybeReady<Result<(), Error>> {
        if !B::SHARES_RECORDS {
            let error = Error::store("limits: applied in this process alone", "the store shares no bans and grants");
            return MaybeReady::Ready(if ttl.is_zero() { Ok(()) } else { Err(error) });
        }
        let (inner, record) = (self.inner.clone(), (name, record.to_vec()));
        MaybeReady::Pending(Box::pin(async move {
            let (now, by) = (inner.test_time_us(), runtime_now() + inner.guard.remaining_timeout());
            let published = inner.guard.call_by(by, |to| inner.backend.publish(to, record, ttl, now));
            match published.await.map_err(outage_error)? {
                0 => Err(Error::store("limits: too many grants and bans in the store", "reset some of them")),
                _ => Ok(()),
            }
        }))
    }

    fn published(&self, known: u64) -> MaybeReady<Result<(u64, Vec<(u64, Vec<u8>, Duration)>), Error>> {
        if !B::SHARES_RECORDS {
            return MaybeReady::Ready(Ok((0, Vec::new())));
        }
        let inner = self.inner.clone();
        MaybeReady::Pending(Box::pin(async move {
            let (now, by) = (inner.test_time_us(), runtime_now() + inner.guard.remaining_timeout());
            inner.guard.call_by(by, |to| inner.backend.published(to, known, now)).await.map_err(outage_error)
        }))
    }

    fn stats(&self) -> LimitStoreStats {
        LimitStoreStats::default()
    }

    fn secret(&self) -> Option<FleetSecret> {
        Some(self.inner.secret.clone())
    }

    fn ready(&self) -> MaybeReady<()> {
        if self.inner.started.load(Ordering::Relaxed) { MaybeReady::Ready(()) } else { self.inner.start() }
    }

    fn generation(&self) -> u64 {
        self.inner.guard.generation()
    }

    fn listen(&self, hook: Hook) {
        self.inner.guard.listen(Events::new(Some(hook)));
    }

    fn shutdown(&self) -> MaybeReady<Result<(), Error>> {
        let inner = self.inner.clone();
        let now = inner.clock.now();
        let returned: Vec<LimitOp> =
            inner.leases.take_all().into_iter().filter_map(|lease| inner.unspent(lease)).collect();
        if returned.is_empty() {
            return MaybeReady::Ready(Ok(()));
        }
        let pending: Vec<_> = returned.into_iter().map(|op| inner.send(smallvec![op], now)).collect();
        MaybeReady::Pending(Box::pin(async move {
            join_all(pending.into_iter().map(await_reply)).await.into_iter().try_for_each(|reply| reply.map(|_| ()))
        }))
    }

    fn remote(&self) -> Option<RemoteStats> {
        let guard = self.inner.guard.stats();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.inner.counters;
        Some(RemoteStats {
            store: guard.name,
            up: guard.up,
            connections: guard.connections,
            decisions: load(&counters.decisions),
            leased: load(&counters.leased),
            remembered: load(&counters.cached_refusals),
            commands: load(&counters.commands),
            failures: guard.failures + guard.timeouts,
            last_error: guard.last_error,
        })
    }
}

/// Receiver of a pending reply.
type PendingReply = Option<oneshot::Receiver<Result<Verdicts, Outage>>>;

async fn await_reply(pending: PendingReply) -> Result<Verdicts, Error> {
    let Some(pending) = pending else { return Err(outage_error(Outage::Full)) };
    // A worker that ends without a reply ended with its runtime.
    pending.await.unwrap_or(Err(Outage::Disconnected)).map_err(outage_error)
}

fn outage_error(outage: Outage) -> Error {
    Error::outage("limits", outage)
}

impl<B: LimitBackend> LimitsShared<B> {
    /// Waits for the first connection, at most for the deadline of a decision: what each node of a fleet admitted alone
    /// meanwhile would add up.
    #[cold]
    fn start(self: &Arc<Self>) -> MaybeReady<()> {
        // Starts to connect if that has not been possible before.
        let _ = self.guard.check();
        let by = *self.starts_by.get_or_init(|| runtime_now() + self.guard.remaining_timeout());
        let late = self.guard.generation() > 0 || runtime_now() >= by;
        if late || tokio::runtime::Handle::try_current().is_err() {
            self.started.store(late, Ordering::Relaxed);
            return MaybeReady::Ready(());
        }
        let (shared, mut connects) = (self.clone(), self.guard.connects());
        MaybeReady::Pending(Box::pin(async move {
            let _ = tokio::time::timeout_at(by, connects.wait_for(|generation| *generation > 0)).await;
            shared.started.store(true, Ordering::Relaxed);
        }))
    }

    /// Returns the verdicts if one of the checks has a cached refusal.
    fn refusal(&self, checks: &[Check], now: Timestamp) -> Option<Verdicts> {
        let cached_refusal = |check: &Check| {
            let key = check.fleet()?.to_bits();
            self.local_cache.refusal(key, check.quota, check.cost, now).filter(|_| check.enforced && !check.settles)
        };
        if let [check] = checks {
            return cached_refusal(check).map(Verdicts::from);
        }
        let refusals: SmallVec<[Option<Verdict>; 2]> = checks.iter().map(cached_refusal).collect();
        // Nothing is known of the other checks, which do not refuse.
        let unknown = Verdict::new(None, 0, Duration::ZERO);
        let any = refusals.iter().any(Option::is_some);
        any.then(|| refusals.into_iter().map(|verdict| verdict.unwrap_or(unknown)).collect())
    }

    /// Pays all checks from leases, or none.
    fn pay(self: &Arc<Self>, checks: &[Check], now: Timestamp) -> Option<Verdicts> {
        let mut verdicts = Verdicts::new();
        // Units of a lease are charged as of its end, and cannot be refunded singly.
        if checks.iter().any(|check| check.settles) {
            return None;
        }
        for check in checks {
            let key = check.fleet().map_or(0, |key| key.to_bits());
            let Some(paid) = self.local_cache.pay(key, check.quota, check.cost, now) else {
                for paid in &checks[..verdicts.len()] {
                    let key = paid.fleet().map_or(0, |key| key.to_bits());
                    self.local_cache.undo_payment(key, paid.quota, paid.cost);
                }
                return None;
            };
            if paid.runs_low {
                self.lease_next_block(key, check, now);
            }
            verdicts.push(paid.verdict);
        }
        Some(verdicts)
    }

    /// Leases the next block before this one is spent.
    #[cold]
    fn lease_next_block(self: &Arc<Self>, key: u64, check: &Check, now: Timestamp) {
        let order = self.local_cache.lease_order(key, check.quota, 0, now, self.store_us(now));
        let Some((want, ttl)) = order else { return };
        let act = LimitCommand::Take { enforced: true, want, ttl };
        let op = LimitOp { key, quota: check.quota, units: 0, act };
        if !self.submit(smallvec![op], now, None) {
            self.local_cache.lease_order_failed(key, check.quota);
        }
    }

    fn ask(self: &Arc<Self>, checks: &[Check], now: Timestamp, takes: bool) -> MaybeReady<Result<Verdicts, Error>> {
        if checks.is_empty() {
            return MaybeReady::Ready(Ok(Verdicts::new()));
        }
        if checks.iter().any(|check| check.fleet().is_none()) {
            // The fleet names of these keys are not known yet.
            let outage = self.guard.check().err().unwrap_or(Outage::Disconnected);
            return MaybeReady::Ready(Err(outage_error(outage)));
        }
        if let Err(outage) = self.guard.check() {
            return MaybeReady::Ready(Err(outage_error(outage)));
        }
        count(&self.counters.decisions);
        let group: CheckGroup = checks.iter().map(|check| self.op(check, now, takes)).collect();
        let tag = self.backend.tag(group.first().map_or(0, |op| op.key));
        if group.iter().all(|op| self.backend.tag(op.key) == tag) {
            let pending = self.send(group, now);
            return MaybeReady::Pending(Box::pin(await_reply(pending)));
        }
        MaybeReady::Pending(Box::pin(self.clone().send_to_several_tags(group, now)))
    }

    fn op(&self, check: &Check, now: Timestamp, takes: bool) -> LimitOp {
        let key = check.fleet().map_or(0, |key| key.to_bits());
        let (quota, units, enforced) = (check.quota, check.cost, check.enforced);
        let order = || self.local_cache.lease_order(key, quota, units, now, self.store_us(now));
        let (want, ttl) =
            if takes && !check.settles && self.is_leased { order().unwrap_or_default() } else { Default::default() };
        let act = if takes { LimitCommand::Take { enforced, want, ttl } } else { LimitCommand::Ask { enforced } };
        LimitOp { key, quota, units, act }
    }

    /// Sends checks of several tags in parallel, and refunds them if one refuses.
    async fn send_to_several_tags(self: Arc<Self>, group: CheckGroup, now: Timestamp) -> Result<Verdicts, Error> {
        let pending: Vec<PendingReply> = group.iter().map(|op| self.send(smallvec![*op], now)).collect();
        let replies = join_all(pending.into_iter().map(await_reply)).await;
        let enforced = |op: &LimitOp| {
            matches!(op.act, LimitCommand::Take { enforced: true, .. } | LimitCommand::Ask { enforced: true })
        };
        let admits =
            |reply: &Result<Verdicts, Error>| reply.as_ref().is_ok_and(|verdicts| verdicts.iter().all(Verdict::admits));
        let refused = group.iter().zip(&replies).any(|(op, reply)| enforced(op) && !admits(reply));
        if refused {
            for (op, _) in group.iter().zip(&replies).filter(|(_, reply)| admits(reply)) {
                if let LimitCommand::Take { .. } = op.act {
                    let charged = self.store_us(now);
                    self.submit(smallvec![LimitOp { act: LimitCommand::Refund { charged }, ..*op }], now, None);
                }
            }
        }
        replies.into_iter().map(|reply| reply.map(|verdicts| verdicts[0])).collect()
    }

    fn correction(&self, settlement: &Settlement) -> Option<LimitOp> {
        let Settlement { check, at, actual } = settlement;
        let (key, quota) = (check.fleet()?.to_bits(), check.quota);
        let charged = self.store_us(*at);
        match actual.cmp(&check.cost) {
            std::cmp::Ordering::Less => {
                Some(LimitOp { key, quota, units: check.cost - actual, act: LimitCommand::Refund { charged } })
            }
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => {
                Some(LimitOp { key, quota, units: actual - check.cost, act: LimitCommand::Charge })
            }
        }
    }

    /// Ends a lease; returns the refund of its unspent units.
    fn unspent(&self, (key, quota): (u64, Quota)) -> Option<LimitOp> {
        let Unspent { units, charged } = self.local_cache.expire(key, quota, Timestamp::MAX)?;
        Some(LimitOp { key, quota, units, act: LimitCommand::Refund { charged } })
    }

    /// Queues a group; `None` if the queue is full.
    fn send(self: &Arc<Self>, group: CheckGroup, now: Timestamp) -> PendingReply {
        let (reply, pending) = oneshot::channel();
        self.submit(group, now, Some(reply)).then_some(pending)
    }

    pub(super) fn submit(
        self: &Arc<Self>,
        group: CheckGroup,
        sent: Timestamp,
        reply: Option<oneshot::Sender<Result<Verdicts, Outage>>>,
    ) -> bool {
        let tag = self.backend.tag(group.first().map_or(0, |op| op.key)) as usize;
        worker::queue(self, tag, QueuedGroup { group, sent, reply })
    }

    /// Returns the time that the store is given, in microseconds, in tests that turn a clock.
    pub(super) fn test_time_us(&self) -> Option<u64> {
        self.passes_time.then(|| self.clock.now().as_nanos() / 1_000)
    }

    /// Returns the store's time at `at`, in microseconds, or slightly less.
    fn store_us(&self, at: Timestamp) -> u64 {
        let offset_us = self.offset_us.load(Ordering::Relaxed);
        (at.as_nanos() / 1_000).saturating_add_signed(offset_us)
    }
}
