//! Decisions that wait at the same time share a call.
//!
//! A decision that comes alone is sent at once: the first to queue starts a lane, a task that sends what it finds until
//! it finds nothing. While a lane's call is on its way others queue, and leave together with the next. Nothing waits
//! for company, and nobody's leaving cancels what others wait for.

use std::collections::VecDeque;
use std::sync::MutexGuard;

use tokio::sync::oneshot;

use super::protocol::{CheckGroup, MOST};
use crate::base::clock::Timestamp;
use crate::base::lock::Mutex;
use crate::base::outage::Outage;
use crate::limit::Verdicts;

/// Calls on their way at one time: the server works on one while others travel.
const LANES: usize = 4;
/// Decisions that may wait. More of them would not be answered in time.
const WAITING: usize = 16_384;

/// A group that waits for its answer.
pub(super) struct QueuedGroup {
    pub(super) group: CheckGroup,
    /// When it was asked, by the caller's clock.
    pub(super) sent: Timestamp,
    /// Nobody waits for a block that is bought ahead, or for what is given back.
    pub(super) reply: Option<oneshot::Sender<Result<Verdicts, Outage>>>,
}

#[derive(Default)]
pub(super) struct CallQueue {
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<QueuedGroup>,
    lanes: usize,
}

/// Next step after queueing.
pub(super) enum Queued {
    /// Open a lane.
    Open,
    /// Somebody is at it.
    Waiting,
    /// There is no room.
    Full,
}

impl CallQueue {
    pub(super) fn push(&self, job: QueuedGroup) -> Queued {
        let mut line = self.lock();
        if line.jobs.len() >= WAITING {
            return Queued::Full;
        }
        line.jobs.push_back(job);
        if line.lanes >= LANES {
            return Queued::Waiting;
        }
        line.lanes += 1;
        Queued::Open
    }

    /// The next call's jobs, in order; none closes the lane.
    pub(super) fn take(&self) -> Option<Vec<QueuedGroup>> {
        let mut line = self.lock();
        let (mut ops, mut jobs) = (0, 0);
        for job in &line.jobs {
            ops += job.group.len();
            if ops > MOST && jobs > 0 {
                break;
            }
            jobs += 1;
        }
        if jobs == 0 {
            line.lanes = line.lanes.saturating_sub(1);
            return None;
        }
        Some(line.jobs.drain(..jobs).collect())
    }

    /// A lane that ended otherwise, as with its runtime.
    pub(super) fn abandon(&self) {
        let mut line = self.lock();
        line.lanes = line.lanes.saturating_sub(1);
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock()
    }
}
