//! Lanes: tasks that send what waits and hand the answers out, and give back what leases leave over.

use std::sync::{Arc, Weak};
use std::time::Duration;

use smallvec::smallvec;
use tokio::runtime::Handle;

use super::protocol::{Answers, CheckGroup, GroupResult, LimitCommand, Op, SoldUnits, encode};
use super::queue::{Queued, QueuedGroup};
use super::{Inner, count};
use crate::base::clock::{Timestamp, runtime_now};
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::base::outage::Outage;
use crate::limit::Quota;
use crate::limit::algorithm::lease::Unspent;
use crate::resilience::guard::Fault;

/// How often ended leases are looked for, while there are leases.
const GLANCE: Duration = Duration::from_millis(20);

/// Queues a job and sees to it that somebody sends it. False where there is no room.
pub(super) fn queue(inner: &Arc<Inner>, tag: usize, job: QueuedGroup) -> bool {
    match inner.queues[tag].push(job) {
        Queued::Waiting => true,
        Queued::Full => false,
        Queued::Open => {
            let lane = Worker { inner: inner.clone(), tag, closed: false };
            // Outside a runtime the job waits for the next one that comes from inside.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(lane.run());
            }
            true
        }
    }
}

struct Worker {
    inner: Arc<Inner>,
    tag: usize,
    closed: bool,
}

impl Worker {
    async fn run(mut self) {
        while let Some(jobs) = self.inner.queues[self.tag].take() {
            send(&self.inner, jobs).await;
            // Who was just answered may ask again: they leave together.
            tokio::task::yield_now().await;
        }
        self.closed = true;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.closed {
            self.inner.queues[self.tag].abandon();
        }
    }
}

async fn send(inner: &Arc<Inner>, jobs: Vec<QueuedGroup>) {
    // The first has waited longest: by its time all are answered, one way or the other.
    let waited = jobs.first().map_or(Duration::ZERO, |job| inner.clock.now().since(job.sent));
    let by = runtime_now() + inner.guard.remaining_timeout().saturating_sub(waited);
    let call = encode(jobs.iter().map(|job| &job.group));
    let now = inner.tells_time.then(|| inner.clock.now().as_nanos() / 1_000);
    count(&inner.counters.commands);
    let answer = inner.guard.call_by(by, async |connection| {
        let values = inner.script.call(connection, &inner.names, &call, now).await?;
        let received = inner.clock.now();
        read(&values, &jobs).map(|(at, told)| (at, received, told)).ok_or_else(foreign)
    });
    match answer.await {
        Ok((at, received, told)) => {
            let ours = (received.as_nanos() / 1_000) as i64;
            inner.ahead.store((at as i64).saturating_sub(ours), std::sync::atomic::Ordering::Relaxed);
            for (job, told) in jobs.into_iter().zip(told) {
                deliver(inner, job, told, at);
            }
        }
        Err(outage) => jobs.into_iter().for_each(|job| fail(inner, job, outage)),
    }
}

/// Decodes each job's reply and the store's time; `None` if the reply does not match the request.
fn read(values: &[i64], jobs: &[QueuedGroup]) -> Option<(u64, Vec<GroupResult>)> {
    let mut answers = Answers::new(values)?;
    let told = jobs.iter().map(|job| answers.group(&job.group)).collect::<Option<_>>()?;
    answers.is_done().then_some((answers.now, told))
}

fn foreign() -> Fault {
    Fault::Lost(Error::store("redis: a foreign answer", "it does not fit the question"))
}

fn deliver(inner: &Arc<Inner>, job: QueuedGroup, told: GroupResult, at: u64) {
    let mut sold = told.sold.into_iter();
    for (op, verdict) in job.group.iter().zip(&told.verdicts) {
        let LimitCommand::Take { enforced, want, .. } = op.act else { continue };
        if enforced && !verdict.admits() {
            inner.near.refused(op.key, op.quota, op.units, verdict, job.sent);
        }
        if want > 0
            && let Some(sold) = sold.next()
        {
            bought(inner, op, sold, at, job.sent);
        }
    }
    if let Some(reply) = job.reply {
        // Who has left no longer waits.
        drop(reply.send(Ok(told.verdicts)));
    }
}

fn fail(inner: &Inner, job: QueuedGroup, outage: Outage) {
    for op in &job.group {
        if let LimitCommand::Take { want: 1.., .. } = op.act {
            inner.near.order_failed(op.key, op.quota);
        }
    }
    if let Some(reply) = job.reply {
        drop(reply.send(Err(outage)));
    }
}

fn bought(inner: &Arc<Inner>, op: &Op, sold: SoldUnits, at: u64, sent: Timestamp) {
    // Two clocks need not run at one speed: a thousandth is more than they may differ by.
    let sold = SoldUnits { life: sold.life - sold.life / 1_000, ..sold };
    if let Some(unspent) = inner.near.bought((op.key, op.quota), sold, at, sent) {
        give_back(inner, op.key, op.quota, unspent, sent);
    }
    if sold.units > 0 {
        inner.leases.watch(inner, (op.key, op.quota, sent + sold.life));
    }
}

fn give_back(inner: &Arc<Inner>, key: u64, quota: Quota, unspent: Unspent, now: Timestamp) {
    let act = LimitCommand::Refund { charged: unspent.charged };
    let group: CheckGroup = smallvec![Op { key, quota, units: unspent.units, act }];
    // Where it cannot be sent it is not given back: units unused, never used twice.
    inner.submit(group, now, None);
}

/// Leases that run, and when they end.
#[derive(Default)]
pub(super) struct Leases {
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    leases: Vec<(u64, Quota, Timestamp)>,
    watched: bool,
}

impl Leases {
    /// Sees to it that what a lease leaves over is given back.
    fn watch(&self, inner: &Arc<Inner>, lease: (u64, Quota, Timestamp)) {
        let mut running = self.running.lock();
        running.leases.push(lease);
        if !running.watched
            && let Ok(runtime) = Handle::try_current()
        {
            running.watched = true;
            runtime.spawn(Watch(Arc::downgrade(inner)).run());
        }
    }

    /// Those that have ended; none closes the watch.
    fn ended(&self, now: Timestamp) -> Option<Vec<(u64, Quota, Timestamp)>> {
        let mut running = self.running.lock();
        if running.leases.is_empty() {
            running.watched = false;
            return None;
        }
        let (ended, rest) = running.leases.iter().copied().partition(|(_, _, until)| *until <= now);
        running.leases = rest;
        Some(ended)
    }
}

struct Watch(Weak<Inner>);

impl Watch {
    /// Ends with the last lease, and with the store.
    async fn run(self) {
        loop {
            tokio::time::sleep(GLANCE).await;
            let Some(inner) = self.0.upgrade() else { return };
            let now = inner.clock.now();
            let Some(ended) = inner.leases.ended(now) else { return };
            for (key, quota, _) in ended {
                if let Some(unspent) = inner.near.expire(key, quota, now) {
                    give_back(&inner, key, quota, unspent, now);
                }
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Its runtime may have ended before the leases did.
        if let Some(inner) = self.0.upgrade() {
            inner.leases.running.lock().watched = false;
        }
    }
}
