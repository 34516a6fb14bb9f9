//! Queue of decisions, which batches concurrent ones into one call.
//!
//! A single decision is sent at once: the first to queue starts a worker, a task that sends the queued groups until
//! none are left. During a worker's call further groups queue up for the next. No decision is delayed to fill a batch,
//! and a caller that leaves cancels nothing for others.

use std::collections::VecDeque;
use std::sync::MutexGuard;

use tokio::sync::oneshot;

use super::group::{CheckGroup, MAX_OPS};
use crate::base::clock::Timestamp;
use crate::base::lock::Mutex;
use crate::base::outage::Outage;
use crate::limit::Verdicts;

/// Maximum number of queued decisions, beyond which replies would come too late.
const MAX_QUEUED: usize = 16_384;

/// A queued group.
pub(super) struct QueuedGroup {
    pub(super) group: CheckGroup,
    /// Time of the request, by the caller's clock.
    pub(super) sent: Timestamp,
    /// `None` for leases in advance and refunds.
    pub(super) reply: Option<oneshot::Sender<Result<Verdicts, Outage>>>,
}

pub(super) struct CallQueue {
    state: Mutex<QueueState>,
    /// Maximum number of concurrent calls.
    max_workers: usize,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<QueuedGroup>,
    workers: usize,
}

/// Action required after queueing.
pub(super) enum Queued {
    /// Start a worker.
    StartWorker,
    /// The running workers will send it.
    WorkersRunning,
    /// The queue is full.
    Full,
}

impl CallQueue {
    pub(super) fn new(max_workers: usize) -> Self {
        Self { state: Mutex::default(), max_workers }
    }

    pub(super) fn push(&self, job: QueuedGroup) -> Queued {
        let mut state = self.lock();
        if state.jobs.len() >= MAX_QUEUED {
            return Queued::Full;
        }
        state.jobs.push_back(job);
        if state.workers >= self.max_workers {
            return Queued::WorkersRunning;
        }
        state.workers += 1;
        Queued::StartWorker
    }

    /// Returns the groups of the next call, in order; `None` ends the worker.
    pub(super) fn take(&self) -> Option<Vec<QueuedGroup>> {
        let mut state = self.lock();
        let (mut ops, mut jobs) = (0, 0);
        for job in &state.jobs {
            ops += job.group.len();
            if ops > MAX_OPS && jobs > 0 {
                break;
            }
            jobs += 1;
        }
        if jobs == 0 {
            state.workers = state.workers.saturating_sub(1);
            return None;
        }
        Some(state.jobs.drain(..jobs).collect())
    }

    /// Accounts for a worker that was dropped, as with its runtime.
    pub(super) fn worker_dropped(&self) {
        let mut state = self.lock();
        state.workers = state.workers.saturating_sub(1);
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }
}
