//! [`JobContext`]: the run of a job, for the job itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

/// The run of a job, for the job itself. Clones are the same run.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let gate = tollgate::Tollgate::builder().build()?;
/// gate.jobs().every("15m").job("coins", |ctx| async move {
///     for page in 0..10 {
///         ctx.progress(page, 10);
///         if ctx.is_stopping() {
///             return Err("the process ends");
///         }
///     }
///     Ok("ten pages")
/// })?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct JobContext {
    pub(super) shared: Arc<RunState>,
}

/// State of a run that its job and the engine share.
#[derive(Debug)]
pub(crate) struct RunState {
    pub(super) job: Arc<str>,
    pub(super) slot: SystemTime,
    pub(super) attempt: u32,
    pub(super) token: u64,
    pub(super) done: AtomicU64,
    pub(super) of: AtomicU64,
    pub(super) stopping: Arc<AtomicBool>,
}

impl JobContext {
    /// Name of the job.
    #[must_use]
    pub fn job(&self) -> &str {
        &self.shared.job
    }

    /// Time for which it runs: it began at this time or, by jitter, retries or because it was missed, later.
    #[must_use]
    pub fn slot(&self) -> SystemTime {
        self.shared.slot
    }

    /// Number of the attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.shared.attempt
    }

    /// Fencing token: greater for every later attempt of this job, on any node. A store that rejects writes with a smaller token
    /// than it has seen cannot be changed by a process that was suspended and has lost the job meanwhile.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.shared.token
    }

    /// Tells how much is done, for the status.
    pub fn progress(&self, done: u64, of: u64) {
        self.shared.done.store(done, Ordering::Relaxed);
        self.shared.of.store(of, Ordering::Relaxed);
    }

    /// Whether [`shutdown`](crate::Tollgate::shutdown) waits for the job: it is dropped five seconds later.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }
}
