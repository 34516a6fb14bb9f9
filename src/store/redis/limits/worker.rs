//! Workers: batch queued checks into one script call, deliver the replies, and refund expired leases.

use std::sync::{Arc, Weak};
use std::time::Duration;

use smallvec::smallvec;
use tokio::runtime::Handle;

use super::protocol::{Answers, CheckGroup, GroupResult, LimitCommand, ScriptOp, SoldUnits, encode};
use super::queue::{Queued, QueuedGroup};
use super::{LimitsShared, count};
use crate::base::clock::{Timestamp, runtime_now};
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::base::outage::Outage;
use crate::limit::Quota;
use crate::limit::algorithm::lease::Unspent;
use crate::resilience::guard::Fault;

/// Interval of checks for expired leases, while there are any.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(20);

/// Queues a group and starts a worker if necessary. Returns false if the queue is full.
pub(super) fn queue(inner: &Arc<LimitsShared>, tag: usize, job: QueuedGroup) -> bool {
    match inner.queues[tag].push(job) {
        Queued::WorkersRunning => true,
        Queued::Full => false,
        Queued::StartWorker => {
            let lane = Worker { inner: inner.clone(), tag, closed: false };
            // Outside a runtime the group waits for the next caller inside one.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(lane.run());
            }
            true
        }
    }
}

struct Worker {
    inner: Arc<LimitsShared>,
    tag: usize,
    closed: bool,
}

impl Worker {
    async fn run(mut self) {
        while let Some(jobs) = self.inner.queues[self.tag].take() {
            send(&self.inner, jobs).await;
            // Callers that just got a reply may queue again: their checks share the next call.
            tokio::task::yield_now().await;
        }
        self.closed = true;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.closed {
            self.inner.queues[self.tag].worker_dropped();
        }
    }
}

async fn send(inner: &Arc<LimitsShared>, jobs: Vec<QueuedGroup>) {
    // The first has waited longest: its deadline applies to all.
    let waited = jobs.first().map_or(Duration::ZERO, |job| inner.clock.now().since(job.sent));
    let by = runtime_now() + inner.guard.remaining_timeout().saturating_sub(waited);
    let call = encode(jobs.iter().map(|job| &job.group));
    let now = inner.test_time_us();
    count(&inner.counters.commands);
    let reply = inner.guard.call_by(by, async |connection| {
        let values = inner.script.call(connection, &inner.names, &call, now).await?;
        let received = inner.clock.now();
        read(&values, &jobs).map(|(at, results)| (at, received, results)).ok_or_else(mismatched_reply)
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

/// Decodes each job's reply and the store's time; `None` if the reply does not match the request.
fn read(values: &[i64], jobs: &[QueuedGroup]) -> Option<(u64, Vec<GroupResult>)> {
    let mut answers = Answers::new(values)?;
    let results = jobs.iter().map(|job| answers.group(&job.group)).collect::<Option<_>>()?;
    answers.is_done().then_some((answers.now, results))
}

fn mismatched_reply() -> Fault {
    Fault::Lost(Error::store("redis: the limit script returned an unexpected reply", "does not match the request"))
}

fn deliver(inner: &Arc<LimitsShared>, job: QueuedGroup, results: GroupResult, at: u64) {
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

fn deliver_error(inner: &LimitsShared, job: QueuedGroup, outage: Outage) {
    for op in &job.group {
        if let LimitCommand::Take { want: 1.., .. } = op.act {
            inner.local_cache.lease_order_failed(op.key, op.quota);
        }
    }
    if let Some(reply) = job.reply {
        drop(reply.send(Err(outage)));
    }
}

fn record_lease(inner: &Arc<LimitsShared>, op: &ScriptOp, sold: SoldUnits, at: u64, sent: Timestamp) {
    // Clock rates may differ; a thousandth is a safe margin.
    let sold = SoldUnits { ttl: sold.ttl - sold.ttl / 1_000, ..sold };
    if let Some(unspent) = inner.local_cache.record_lease((op.key, op.quota), sold, at, sent) {
        refund(inner, op.key, op.quota, unspent, sent);
    }
    if sold.units > 0 {
        inner.leases.schedule_refund(inner, (op.key, op.quota, sent + sold.ttl));
    }
}

fn refund(inner: &Arc<LimitsShared>, key: u64, quota: Quota, unspent: Unspent, now: Timestamp) {
    let act = LimitCommand::Refund { charged: unspent.charged };
    let group: CheckGroup = smallvec![ScriptOp { key, quota, units: unspent.units, act }];
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
    fn schedule_refund(&self, inner: &Arc<LimitsShared>, lease: (u64, Quota, Timestamp)) {
        let mut active = self.active.lock();
        active.leases.push(lease);
        if !active.is_expiry_running
            && let Ok(runtime) = Handle::try_current()
        {
            active.is_expiry_running = true;
            runtime.spawn(LeaseExpiry(Arc::downgrade(inner)).run());
        }
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

struct LeaseExpiry(Weak<LimitsShared>);

impl LeaseExpiry {
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

impl Drop for LeaseExpiry {
    fn drop(&mut self) {
        // The runtime may have ended before the leases.
        if let Some(inner) = self.0.upgrade() {
            inner.leases.active.lock().is_expiry_running = false;
        }
    }
}
