//! The task of one job: waits for its times, claims them, and runs it. One run of a job at a time.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::Instant;

use super::claim::{ClaimRequest, GrantedAttempt, JobClaim, JobRecord, JobState, LEASE, is_in_time};
use super::context::{JobContext, RunState};
use super::job::{Job, JobsShared};
use super::run::{JobRun, cut};
use crate::base::clock::{runtime_now, unix_millis};
use crate::base::event::Event;
use crate::base::mode::Mode;
use crate::jobs::schedule::due::{LATE, backoff, jitter};
use crate::jobs::schedule::missed::Missed;

/// Longest time between two looks at the clock: it may be set, or turned by a test.
const LOOK: Duration = Duration::from_secs(1);
/// Time for which a run may go on while `shutdown` waits.
const GRACE: Duration = Duration::from_secs(5);

/// Runs a job until the engine is dropped or stops.
pub(super) async fn run(shared: Arc<JobsShared>, job: Arc<Job>) {
    let Some(record) = first(&shared, &job).await else { return };
    let mut last = record.slot;
    if matches!(record.status, JobState::Running | JobState::Retry) {
        // Another process began it, and may be gone.
        attend(&shared, &job, last, false).await;
    }
    while !shared.is_stopping() {
        let now = shared.now();
        if job.asked.swap(false, Ordering::AcqRel) {
            attend(&shared, &job, now.max(last + 1), true).await;
            last = last.max(now);
            continue;
        }
        if shared.mode.get() == Mode::Off {
            // What is due meanwhile is not missed: it is switched off.
            last = now;
        }
        for slot in job.spec.schedule.due(last, now, job.spec.missed) {
            attend(&shared, &job, slot, false).await;
            last = slot;
        }
        let until_next = job.spec.schedule.next_after(now).map_or(LOOK, |next| Duration::from_millis(next - now));
        let _ = tokio::time::timeout(until_next.clamp(Duration::from_millis(5), LOOK), job.wake.notified()).await;
    }
}

/// Returns what the fleet knows of the job; a new one is dealt with from its registration on.
async fn first(shared: &JobsShared, job: &Job) -> Option<JobRecord> {
    while !shared.is_stopping() {
        if let Ok(record) = shared.store.first(&job.spec.name, job.since).await {
            *job.known.lock() = record.clone();
            job.is_known.store(true, Ordering::Release);
            return Some(record);
        }
        tokio::time::sleep(LOOK).await;
    }
    None
}

/// Claims one time until nothing is left to do for it, and runs the job for each attempt that is granted.
async fn attend(shared: &Arc<JobsShared>, job: &Job, slot: u64, by_hand: bool) {
    if !by_hand {
        wait_until(shared, job, slot.saturating_add(millis(jitter(&job.spec.name, slot, job.spec.jitter)))).await;
    }
    let begun = shared.now();
    let mut current = slot;
    while !shared.is_stopping() {
        let Ok(permit) = shared.permits.acquire().await else { return };
        if shared.is_stopping() || shared.mode.get() == Mode::Off && !by_hand {
            return;
        }
        let wanted = ClaimRequest { job: &job.spec.name, slot: current, attempts: job.spec.attempts, by_hand };
        let asked = runtime_now();
        let pause = match shared.store.claim(wanted, shared.now()).await {
            Ok(JobClaim::Granted(granted)) => {
                *job.known.lock() = granted.record.clone();
                make(shared, job, &granted, asked).await;
                Duration::ZERO
            }
            Ok(JobClaim::Earlier(earlier)) => {
                current = earlier;
                Duration::ZERO
            }
            Ok(JobClaim::Done) if current != slot => {
                current = slot;
                Duration::ZERO
            }
            Ok(JobClaim::Done | JobClaim::Disabled) => break,
            // It would be late when the store is back.
            Err(_) if job.spec.missed == Missed::Skip && !by_hand && shared.now() > begun + LATE => break,
            Ok(JobClaim::RetryAt(at)) => Duration::from_millis(at.saturating_sub(shared.now())).min(LOOK),
            // Held by another process, or the store is away: then no run begins.
            Ok(JobClaim::Held) | Err(_) => LOOK,
        };
        drop(permit);
        tokio::time::sleep(pause).await;
    }
    if let Ok(Some(record)) = shared.store.read(&job.spec.name).await {
        *job.known.lock() = record;
    }
}

/// Makes an attempt, and records how it ended.
async fn make(shared: &JobsShared, job: &Job, granted: &GrantedAttempt, asked: Instant) {
    let (record, started_at) = (&granted.record, shared.now());
    let state = Arc::new(RunState {
        job: job.spec.name.clone(),
        slot: std::time::UNIX_EPOCH + Duration::from_millis(record.slot),
        attempt: record.attempt,
        token: record.token,
        done: AtomicU64::new(0),
        of: AtomicU64::new(0),
        stopping: shared.stopping.clone(),
    });
    *job.running.lock() = Some(state.clone());
    let (outcome, text) = match shared.mode.get() {
        Mode::Shadow => ("shadow", String::new()),
        // The process was suspended: another one may run it by now.
        _ if !is_in_time(runtime_now() - asked) => ("lapsed", "its lease had ended before it began".to_owned()),
        _ => ended(shared, job, (granted, asked), JobContext { shared: state }).await,
    };
    *job.running.lock() = None;
    let run = JobRun {
        slot: record.slot,
        attempt: record.attempt,
        token: record.token,
        node: shared.store.node.to_string(),
        started_at,
        took_ms: shared.now().saturating_sub(started_at),
        outcome: outcome.to_owned(),
        text: cut(&text),
    };
    shared.events.emit(&Event::JobEnded {
        job: &job.spec.name,
        attempt: run.attempt,
        outcome,
        text: &run.text,
        took: Duration::from_millis(run.took_ms),
    });
    let (next, retry_at) = match run.is_failure() {
        false => (JobState::Done, 0),
        true if record.attempt >= job.spec.attempts => (JobState::Failed, 0),
        // Another process goes on at once.
        true if shared.is_stopping() => (JobState::Retry, shared.now()),
        true => (JobState::Retry, shared.now() + millis(backoff(record.attempt + 1))),
    };
    shared.store.finish(&job.spec.name, granted, run, next, retry_at).await;
}

/// Runs the job until it ends, its time is up, the lease is lost, or the process stops.
async fn ended(
    shared: &JobsShared,
    job: &Job,
    lease: (&GrantedAttempt, Instant),
    context: JobContext,
) -> (&'static str, String) {
    let work = tokio::time::timeout(job.spec.timeout, (job.spec.run)(context));
    let given_up = pin!(async {
        match select(pin!(lease_lost(shared, job, lease)), pin!(stopped(shared))).await {
            Either::Left(_) => ("lapsed", "its lease could not be renewed".to_owned()),
            Either::Right(_) => ("failed", "the process ended".to_owned()),
        }
    });
    match select(pin!(work), given_up).await {
        Either::Left((Ok(Ok(text)), _)) => ("done", text),
        Either::Left((Ok(Err(error)), _)) => ("failed", error),
        Either::Left((Err(_), _)) => ("timed-out", format!("it took longer than {:?}", job.spec.timeout)),
        Either::Right((given_up, _)) => given_up,
    }
}

/// Renews the lease until it is lost, or could not be renewed in time.
async fn lease_lost(shared: &JobsShared, job: &Job, (granted, mut renewed): (&GrantedAttempt, Instant)) {
    loop {
        tokio::time::sleep(LEASE / 6).await;
        let asked = runtime_now();
        match shared.store.renew(&job.spec.name, granted).await {
            Ok(true) => renewed = asked,
            Ok(false) => return,
            // It ends while the lease certainly lasts.
            Err(_) if !is_in_time(runtime_now() - renewed) => return,
            Err(_) => {}
        }
    }
}

async fn stopped(shared: &JobsShared) {
    while !shared.is_stopping() {
        tokio::time::sleep(LOOK / 10).await;
    }
    tokio::time::sleep(GRACE).await;
}

async fn wait_until(shared: &JobsShared, job: &Job, at: u64) {
    while !shared.is_stopping() && shared.now() < at {
        let left = Duration::from_millis(at - shared.now());
        let _ = tokio::time::timeout(left.min(LOOK), job.wake.notified()).await;
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl JobsShared {
    fn now(&self) -> u64 {
        unix_millis(self.clock.wall())
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}
