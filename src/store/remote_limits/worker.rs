//! Workers: batch queued checks into one call, deliver the replies, and refund expired leases.

use std::sync::{Arc, Weak};
use std::time::Duration;

use smallvec::smallvec;
use tokio::runtime::Handle;

use super::backend::LimitBackend;
use super::engine::{LimitsShared, count};
use super::group::{CheckGroup, GroupResult, LimitCommand, LimitOp, SoldUnits};
use super::queue::{Queued, QueuedGroup};
use crate::base::clock::{Timestamp, runtime_now};
use crate::base::lock::Mutex;
use crate::base::outage::Outage;
use crate::limit::Quota;
use crate::limit::algorithm::lease::Unspent;

/// Interval of checks for expired leases, while there are any.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(20);

/// Queues a group and starts a worker if necessary. Returns false if the queue is full.
pub(super) fn queue<B: LimitBackend>(inner: &Arc<LimitsShared<B>>, tag: usize, job: QueuedGroup) -> bool {
    match inner.queues[tag].push(job) {
        Queued::WorkersRunning => true,
        Queued::Full => false,
        Queued::StartWorker => {
            let worker = Worker { inner: inner.clone(), tag, closed: false };
            // Outside a runtime the group waits for the next caller inside one.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(worker.run());
            }
            true
        }
    }
}

struct Worker<B: LimitBackend> {
    inner: Arc<LimitsShared<B>>,
    tag: usize,
    closed: bool,
}

impl<B: LimitBackend> Worker<B> {
    async fn run(mut self) {
        while let Some(jobs) = self.inner.queues[self.tag].take() {
            send(&self.inner, jobs).await;
            // Callers that just got a reply may queue again: their checks share the next call.
            tokio::task::yield_now().await;
        }
        self.closed = true;
    }
}

impl<B: LimitBackend> Drop for Worker<B> {
    fn drop(&mut self) {
        if !self.closed {
            self.inner.queues[self.tag].worker_dropped();
        }
    }
}

async fn send<B: LimitBackend>(inner: &Arc<LimitsShared<B>>, jobs: Vec<QueuedGroup>) {
    // The first has waited longest: its deadline applies to all.
    let waited = jobs.first().map_or(Duration::ZERO, |job| inner.clock.now().since(job.sent));
    let by = runtime_now() + inner.guard.remaining_timeout().saturating_sub(waited);
    let now = inner.test_time_us();
    count(&inner.counters.commands);
    let groups: Vec<&CheckGroup> = jobs.iter().map(|job| &job.group).collect();
    let reply = inner.guard.call_by(by, async |connection| {
        let (at, results) = inner.backend.call(connection, &groups, now, by).await?;
        Ok((at, inner.clock.now(), results))
    });
    match reply.await {
        Ok((at, received, results)) => {
            let is_local = (received.as_nanos() / 1_000) as i64;
            inner.offset_us.store((at as i64).saturating_sub(is_local), std::sync::atomic::Ordering::Relaxed);
            for (job, result) in jobs.into_iter().zip(results) {
                deliver(inner, job, result, at);
            }
        }
        Err(outage) => jobs.into_iter().for_each(|job| deliver_error(inner, job, outage)),
    }
}

fn deliver<B: LimitBackend>(inner: &Arc<LimitsShared<B>>, job: QueuedGroup, results: GroupResult, at: u64) {
    let mut sold = results.sold.into_iter();
    for (op, verdict) in job.group.iter().zip(&results.verdicts) {
        let LimitCommand::Take { enforced, want, .. } = op.act else { continue };
        if enforced && !verdict.admits() {
            inner.local_cache.refused(op.key, op.quota, op.units, verdict, job.sent);
        }
        if want > 0
            && let Some(sold) = sold.next()
        {
            record_lease(inner, op, sold, at, job.sent);
        }
    }
    if let Some(reply) = job.reply {
        // The caller may have left.
        drop(reply.send(Ok(results.verdicts)));
    }
}

fn deliver_error<B: LimitBackend>(inner: &LimitsShared<B>, job: QueuedGroup, outage: Outage) {
    for op in &job.group {
        if let LimitCommand::Take { want: 1.., .. } = op.act {
            inner.local_cache.lease_order_failed(op.key, op.quota);
        }
    }
    if let Some(reply) = job.reply {
        drop(reply.send(Err(outage)));
    }
}

fn record_lease<B: LimitBackend>(
    inner: &Arc<LimitsShared<B>>,
    op: &LimitOp,
    sold: SoldUnits,
    at: u64,
    sent: Timestamp,
) {
    // Clock rates may differ; a thousandth is a safe margin.
    let sold = SoldUnits { ttl: sold.ttl - sold.ttl / 1_000, ..sold };
    if let Some(unspent) = inner.local_cache.record_lease((op.key, op.quota), sold, at, sent) {
        refund(inner, op.key, op.quota, unspent, sent);
    }
    if sold.units > 0 {
        inner.leases.schedule_refund(inner, (op.key, op.quota, sent + sold.ttl));
    }
}

fn refund<B: LimitBackend>(inner: &Arc<LimitsShared<B>>, key: u64, quota: Quota, unspent: Unspent, now: Timestamp) {
    let act = LimitCommand::Refund { charged: unspent.charged };
    let group: CheckGroup = smallvec![LimitOp { key, quota, units: unspent.units, act }];
    // If it cannot be sent, the units remain unused: never spent twice.
    inner.submit(group, now, None);
}

/// Active leases and their expiry.
#[derive(Default)]
pub(super) struct Leases {
    active: Mutex<ActiveLeases>,
}

#[derive(Default)]
struct ActiveLeases {
    leases: Vec<(u64, Quota, Timestamp)>,
    is_expiry_running: bool,
}

impl Leases {
    /// Schedules the refund of a lease's unspent units.
    fn schedule_refund<B: LimitBackend>(&self, inner: &Arc<LimitsShared<B>>, lease: (u64, Quota, Timestamp)) {
        let mut active = self.active.lock();
        active.leases.push(lease);
        if !active.is_expiry_running
            && let Ok(runtime) = Handle::try_current()
        {
            active.is_expiry_running = true;
            runtime.spawn(LeaseExpiry(Arc::downgrade(inner)).run());
        }
    }

    /// Takes all leases, expired or not.
    pub(super) fn take_all(&self) -> Vec<(u64, Quota)> {
        std::mem::take(&mut self.active.lock().leases).into_iter().map(|(key, quota, _)| (key, quota)).collect()
    }

    /// Returns the expired leases; `None` if no lease is active, which ends the task.
    fn take_expired(&self, now: Timestamp) -> Option<Vec<(u64, Quota, Timestamp)>> {
        let mut active = self.active.lock();
        if active.leases.is_empty() {
            active.is_expiry_running = false;
            return None;
        }
        let (take_expired, rest) = active.leases.iter().copied().partition(|(_, _, until)| *until <= now);
        active.leases = rest;
        Some(take_expired)
    }
}

struct LeaseExpiry<B: LimitBackend>(Weak<LimitsShared<B>>);

impl<B: LimitBackend> LeaseExpiry<B> {
    /// Runs until the last lease has expired, or the store is dropped.
    async fn run(self) {
        loop {
            tokio::time::sleep(EXPIRY_INTERVAL).await;
            let Some(inner) = self.0.upgrade() else { return };
            let now = inner.clock.now();
            let Some(take_expired) = inner.leases.take_expired(now) else { return };
            for (key, quota, _) in take_expired {
                if let Some(unspent) = inner.local_cache.expire(key, quota, now) {
                    refund(&inner, key, quota, unspent, now);
                }
            }
        }
    }
}

impl<B: LimitBackend> Drop for LeaseExpiry<B> {
    fn drop(&mut self) {
        // The runtime may have ended before the leases.
        if let Some(inner) = self.0.upgrade() {
            inner.leases.active.lock().is_expiry_running = false;
        }
    }
}
