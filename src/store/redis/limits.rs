//! [`RedisLimits`]: the [`LimitStore`] that a fleet shares.
//!
//! | a decision | is made by | round trips |
//! |---|---|---|
//! | that was refused a moment ago | this process, until the retry time | 0 |
//! | of a hot key, in [`LimitMode::Leased`] | this process, from a block bought in advance | 0 |
//! | any other | Redis, in one call with all that wait at the same time | 1, shared |
//! | while Redis is away | nobody: it is an error at once, and the layer decides by itself | 0 |
//!
//! In a Cluster keys are spread over sixteen hash tags. What a request owes on several of them is asked in parallel and
//! given back where one refuses: for a moment others may be refused what is given back.

mod local_cache;
mod protocol;
mod queue;
mod script;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use futures_util::future::join_all;
use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;

use super::connect::Conn;
use super::settings::Redis;
use crate::base::clock::{Clock, Timestamp};
use crate::base::error::Error;
use crate::base::event::{Events, Hook};
use crate::base::maybe_ready::MaybeReady;
use crate::base::outage::Outage;
use crate::identity::FleetSecret;
use crate::limit::{Check, LimitStore, LimitStoreStats, RemoteStats, Settlement, Verdict, Verdicts};
use crate::resilience::guard::FailOpen;
use local_cache::LocalCache;
use protocol::{CheckGroup, LimitCommand, Op};
use queue::{CallQueue, QueuedGroup};
use script::{Script, ScriptKeys};

/// How limits use a Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitMode {
    /// Every decision asks Redis, in one call with those that wait at the same time.
    #[default]
    Exact,
    /// A hot key's node buys blocks of it in advance and spends them by itself. Never more than the limit's bound is
    /// admitted; up to a quarter of what is left may for a moment be held by nodes that do not need it.
    Leased,
}

/// Tags that keys of a Cluster are spread over.
const TAGS: u64 = 16;

/// Limits in Redis. Clones share everything.
///
/// ```
/// use std::sync::Arc;
/// use tollgate::limit::{Quota, RateLimitLayer, Limit};
/// use tollgate::store::redis::{LimitMode, Redis, RedisLimits};
///
/// let redis = Redis::new("redis://127.0.0.1")?.limit_mode(LimitMode::Leased);
/// let layer = RateLimitLayer::builder()
///     .limit(Limit::per_ip(Quota::per_minute(100)))
///     .store(Arc::new(RedisLimits::new(&redis)?))
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone)]
pub struct RedisLimits {
    inner: Arc<Inner>,
}

struct Inner {
    guard: FailOpen<Conn>,
    secret: FleetSecret,
    script: Script,
    names: ScriptKeys,
    queues: Box<[CallQueue]>,
    near: LocalCache,
    mode: LimitMode,
    leases: worker::Leases,
    clock: Clock,
    /// Whether the script is told the time, as tests do.
    tells_time: bool,
    /// Redis's time less ours, in microseconds: not more than it is.
    ahead: AtomicI64,
    counters: RedisCounters,
}

#[derive(Default)]
struct RedisCounters {
    decisions: AtomicU64,
    leased: AtomicU64,
    remembered: AtomicU64,
    commands: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl RedisLimits {
    /// Limits in this Redis. Nothing fails where it is down.
    ///
    /// # Errors
    /// Where a setting is wrong.
    pub fn new(redis: &Redis) -> Result<Self, Error> {
        redis.check()?;
        let secret = redis.secret.as_ref().map_or_else(FleetSecret::unknown, FleetSecret::new);
        let tags = if redis.address.is_cluster() { TAGS } else { 1 };
        let inner = Inner {
            guard: redis.guard_limits(&secret, Events::default()),
            secret,
            script: Script::new(),
            names: ScriptKeys::new(&redis.prefix, tags),
            queues: (0..tags).map(|_| CallQueue::default()).collect(),
            near: LocalCache::new(),
            mode: redis.mode,
            leases: worker::Leases::default(),
            clock: redis.time.clone().unwrap_or_default(),
            tells_time: redis.time.is_some(),
            ahead: AtomicI64::new(0),
            counters: RedisCounters::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl LimitStore for RedisLimits {
    fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        let inner = &self.inner;
        if let Some(refusal) = inner.refusal(checks, now) {
            count(&inner.counters.decisions);
            count(&inner.counters.remembered);
            return MaybeReady::Ready(Ok(refusal));
        }
        if inner.mode == LimitMode::Leased
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
        let corrections: Vec<Op> = settlements.iter().filter_map(|settlement| inner.correction(settlement)).collect();
        if corrections.is_empty() {
            return MaybeReady::Ready(Ok(()));
        }
        if let Err(outage) = inner.guard.check() {
            return MaybeReady::Ready(Err(away(outage)));
        }
        corrections.iter().for_each(|op| inner.near.forget_refusal(op.key));
        let asked: Vec<_> = corrections.into_iter().map(|op| inner.send(smallvec![op], now)).collect();
        MaybeReady::Pending(Box::pin(async move {
            join_all(asked.into_iter().map(answered)).await.into_iter().try_for_each(|answer| answer.map(|_| ()))
        }))
    }

    fn stats(&self) -> LimitStoreStats {
        LimitStoreStats::default()
    }

    fn secret(&self) -> Option<FleetSecret> {
        Some(self.inner.secret.clone())
    }

    fn generation(&self) -> u64 {
        self.inner.guard.generation()
    }

    fn listen(&self, hook: Hook) {
        self.inner.guard.listen(Events::new(Some(hook)));
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
            remembered: load(&counters.remembered),
            commands: load(&counters.commands),
            failures: guard.failures + guard.timeouts,
            last_error: guard.last_error,
        })
    }
}

/// An answer that is on its way.
type Asked = Option<oneshot::Receiver<Result<Verdicts, Outage>>>;

async fn answered(asked: Asked) -> Result<Verdicts, Error> {
    let Some(asked) = asked else { return Err(away(Outage::Full)) };
    // A lane that ended without an answer ended with its runtime.
    asked.await.unwrap_or(Err(Outage::Disconnected)).map_err(away)
}

fn away(outage: Outage) -> Error {
    Error::outage("limits", outage)
}

impl Inner {
    /// The verdicts, where one of the checks is remembered as refused.
    fn refusal(&self, checks: &[Check], now: Timestamp) -> Option<Verdicts> {
        let remembered = |check: &Check| {
            let key = check.fleet()?.to_bits();
            self.near.refusal(key, check.quota, check.cost, now).filter(|_| check.enforced)
        };
        if let [check] = checks {
            return remembered(check).map(|verdict| smallvec![verdict]);
        }
        let found: SmallVec<[Option<Verdict>; 2]> = checks.iter().map(remembered).collect();
        // Of the others nothing is known but that they are not what refuses.
        let unknown = Verdict::new(None, 0, std::time::Duration::ZERO);
        let any = found.iter().any(Option::is_some);
        any.then(|| found.into_iter().map(|verdict| verdict.unwrap_or(unknown)).collect())
    }

    /// Pays all checks from leases, or none.
    fn pay(self: &Arc<Self>, checks: &[Check], now: Timestamp) -> Option<Verdicts> {
        let mut verdicts = Verdicts::new();
        for check in checks {
            let key = check.fleet().map_or(0, |key| key.to_bits());
            let Some(paid) = self.near.pay(key, check.quota, check.cost, now) else {
                for paid in &checks[..verdicts.len()] {
                    let key = paid.fleet().map_or(0, |key| key.to_bits());
                    self.near.unpay(key, paid.quota, paid.cost);
                }
                return None;
            };
            if paid.runs_low {
                self.renew(key, check, now);
            }
            verdicts.push(paid.verdict);
        }
        Some(verdicts)
    }

    /// Buys the next block while this one lasts.
    #[cold]
    fn renew(self: &Arc<Self>, key: u64, check: &Check, now: Timestamp) {
        let order = self.near.order(key, check.quota, 0, now, self.store_us(now));
        let Some((want, life)) = order else { return };
        let act = LimitCommand::Take { enforced: true, want, life };
        let op = Op { key, quota: check.quota, units: 0, act };
        if !self.submit(smallvec![op], now, None) {
            self.near.order_failed(key, check.quota);
        }
    }

    fn ask(self: &Arc<Self>, checks: &[Check], now: Timestamp, takes: bool) -> MaybeReady<Result<Verdicts, Error>> {
        if checks.is_empty() {
            return MaybeReady::Ready(Ok(Verdicts::new()));
        }
        if checks.iter().any(|check| check.fleet().is_none()) {
            // The fleet's names of these keys are not known yet.
            let outage = self.guard.check().err().unwrap_or(Outage::Disconnected);
            return MaybeReady::Ready(Err(away(outage)));
        }
        if let Err(outage) = self.guard.check() {
            return MaybeReady::Ready(Err(away(outage)));
        }
        count(&self.counters.decisions);
        let group: CheckGroup = checks.iter().map(|check| self.op(check, now, takes)).collect();
        let tag = self.names.tag(group.first().map_or(0, |op| op.key));
        if group.iter().all(|op| self.names.tag(op.key) == tag) {
            let asked = self.send(group, now);
            return MaybeReady::Pending(Box::pin(answered(asked)));
        }
        MaybeReady::Pending(Box::pin(self.clone().ask_apart(group, now)))
    }

    fn op(&self, check: &Check, now: Timestamp, takes: bool) -> Op {
        let key = check.fleet().map_or(0, |key| key.to_bits());
        let (quota, units, enforced) = (check.quota, check.cost, check.enforced);
        let order = || self.near.order(key, quota, units, now, self.store_us(now));
        let (want, life) =
            if takes && self.mode == LimitMode::Leased { order().unwrap_or_default() } else { Default::default() };
        let act = if takes { LimitCommand::Take { enforced, want, life } } else { LimitCommand::Ask { enforced } };
        Op { key, quota, units, act }
    }

    /// A request's checks that live on several nodes: asked in parallel, and given back where one refuses.
    async fn ask_apart(self: Arc<Self>, group: CheckGroup, now: Timestamp) -> Result<Verdicts, Error> {
        let asked: Vec<Asked> = group.iter().map(|op| self.send(smallvec![*op], now)).collect();
        let answers = join_all(asked.into_iter().map(answered)).await;
        let enforced = |op: &Op| {
            matches!(op.act, LimitCommand::Take { enforced: true, .. } | LimitCommand::Ask { enforced: true })
        };
        let admits = |answer: &Result<Verdicts, Error>| {
            answer.as_ref().is_ok_and(|verdicts| verdicts.iter().all(Verdict::admits))
        };
        let refused = group.iter().zip(&answers).any(|(op, answer)| enforced(op) && !admits(answer));
        if refused {
            for (op, _) in group.iter().zip(&answers).filter(|(_, answer)| admits(answer)) {
                if let LimitCommand::Take { .. } = op.act {
                    let charged = self.store_us(now);
                    self.submit(smallvec![Op { act: LimitCommand::Refund { charged }, ..*op }], now, None);
                }
            }
        }
        answers.into_iter().map(|answer| answer.map(|verdicts| verdicts[0])).collect()
    }

    fn correction(&self, settlement: &Settlement) -> Option<Op> {
        let Settlement { check, at, actual } = settlement;
        let (key, quota) = (check.fleet()?.to_bits(), check.quota);
        let charged = self.store_us(*at);
        match actual.cmp(&check.cost) {
            std::cmp::Ordering::Less => {
                Some(Op { key, quota, units: check.cost - actual, act: LimitCommand::Refund { charged } })
            }
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => {
                Some(Op { key, quota, units: actual - check.cost, act: LimitCommand::Charge })
            }
        }
    }

    /// Queues a question; `None` where there is no room.
    fn send(self: &Arc<Self>, group: CheckGroup, now: Timestamp) -> Asked {
        let (reply, asked) = oneshot::channel();
        self.submit(group, now, Some(reply)).then_some(asked)
    }

    fn submit(
        self: &Arc<Self>,
        group: CheckGroup,
        sent: Timestamp,
        reply: Option<oneshot::Sender<Result<Verdicts, Outage>>>,
    ) -> bool {
        let tag = self.names.tag(group.first().map_or(0, |op| op.key)) as usize;
        worker::queue(self, tag, QueuedGroup { group, sent, reply })
    }

    /// Redis's time at `at`, in microseconds, or a little earlier.
    fn store_us(&self, at: Timestamp) -> u64 {
        let ahead = self.ahead.load(Ordering::Relaxed);
        (at.as_nanos() / 1_000).saturating_add_signed(ahead)
    }
}

impl fmt::Debug for RedisLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLimits").field("mode", &self.inner.mode).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
