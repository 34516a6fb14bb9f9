//! [`Job`]: a job, and what this process knows of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

use super::claim::{JobRecord, JobState, JobStore};
use super::context::{JobContext, RunState};
use super::status::JobStatus;
use super::triggered_job::TriggeredJob;
use crate::base::clock::Clock;
use crate::base::event::Events;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::base::mode::ModeCell;
use crate::jobs::schedule::due::Schedule;
use crate::jobs::schedule::missed::Missed;

/// Work of a job.
pub(super) type RunJob = Box<dyn Fn(JobContext) -> BoxFuture<Result<String, String>> + Send + Sync>;

/// Definition of a job.
pub(crate) struct JobSpec {
    pub(super) name: Arc<str>,
    pub(super) schedule: Schedule,
    /// Schedule as it was given.
    pub(super) text: String,
    pub(super) jitter: Duration,
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
    pub(super) missed: Missed,
    pub(super) run: RunJob,
}

/// A job, and what this process knows of it.
pub(super) struct Job {
    pub(super) spec: JobSpec,
    pub(super) known: Mutex<JobRecord>,
    pub(super) running: Mutex<Option<Arc<RunState>>>,
    /// Whether its record has been read from the store.
    pub(super) is_known: AtomicBool,
    /// Whether a person asked for a run.
    pub(super) asked: AtomicBool,
    pub(super) wake: Notify,
    /// When it was added, in milliseconds since 1970.
    pub(super) since: u64,
    pub(super) task: OnceLock<AbortHandle>,
}

/// State that the tasks of all jobs share.
pub(super) struct JobsShared {
    pub(super) store: JobStore,
    pub(super) clock: Clock,
    pub(super) events: Events,
    pub(super) mode: Arc<ModeCell>,
    pub(super) permits: Semaphore,
    pub(super) stopping: Arc<AtomicBool>,
}

impl Job {
    /// Returns the last time that is due and was not dealt with yet.
    pub(super) fn newest_due(&self, now: u64) -> Option<u64> {
        let known = self.known.lock();
        let is_pending = matches!(known.status, JobState::Running | JobState::Retry).then_some(known.slot);
        let due = self.spec.schedule.due(known.slot, now, self.spec.missed);
        due.last().copied().filter(|_| known.is_enabled).or(is_pending)
    }

    /// Whether nothing is left to do for this time.
    pub(super) fn has_dealt_with(&self, slot: u64) -> bool {
        let known = self.known.lock();
        known.slot > slot || known.slot == slot && matches!(known.status, JobState::Done | JobState::Failed)
    }

    /// Says what became of the job, of which this time was due, or that ran by itself since it was asked for.
    pub(super) fn triggered(&self, due: Option<u64>, has_ended: bool, asked_at: u64) -> TriggeredJob {
        let known = self.known.lock();
        let last = known.last.as_ref().filter(|run| Some(run.slot) == due || run.started_at >= asked_at);
        let result = match (due, has_ended, last) {
            _ if !self.is_known.load(Ordering::Acquire) => "store away",
            (None, _, None) if !known.is_enabled => "disabled",
            (None, _, None) => "not due",
            (_, false, _) => "running",
            (.., Some(run)) if run.is_failure() => "failed",
            _ => "done",
        };
        let text = last.filter(|_| has_ended).map(|run| run.text.clone()).unwrap_or_default();
        TriggeredJob { job: self.spec.name.to_string(), result, text }
    }

    pub(super) fn status(&self, now: u64) -> JobStatus {
        let (known, running) = (self.known.lock().clone(), self.running.lock().clone());
        let progress = running.as_ref().map(|run| (run.done.load(Ordering::Relaxed), run.of.load(Ordering::Relaxed)));
        JobStatus {
            name: self.spec.name.to_string(),
            schedule: self.spec.text.clone(),
            is_enabled: known.is_enabled,
            is_running: running.is_some(),
            progress: progress.filter(|(_, of)| *of > 0),
            next_at: self.spec.schedule.next_after(now),
            runs: known.runs,
            failures: known.failures,
            failed_in_a_row: known.failed_in_a_row,
            succeeded_at: known.succeeded_at,
            last: known.last,
        }
    }
}
