//! [`JobEngine`]: the jobs of a gate, and their tasks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

use super::claim::JobStore;
use super::job::{Job, JobSpec, JobsShared};
use super::run::JobRun;
use super::runner;
use super::status::JobStatus;
use super::triggered_job::TriggeredJob;
use crate::base::clock::{Clock, unix_millis};
use crate::base::error::Error;
use crate::base::event::Events;
use crate::base::lock::Mutex;
use crate::base::metrics::family::Metric;
use crate::base::metrics::samples::Samples;
use crate::base::mode::ModeCell;
use crate::base::random::random;
use crate::health::observed::ObservedJob;
use crate::store::fleet_records::port::FleetRecords;

/// Most jobs of a gate.
const MAX_JOBS: usize = 32;
/// Most runs at once in a process.
const MAX_RUNNING: usize = 4;
/// Time for which `shutdown` waits for runs.
const GRACE: Duration = Duration::from_secs(5);

/// The jobs of a gate. Dropping it ends their tasks.
pub(crate) struct JobEngine {
    shared: Arc<JobsShared>,
    pub(crate) mode: Arc<ModeCell>,
    jobs: Mutex<Vec<Arc<Job>>>,
}

impl JobEngine {
    pub(crate) fn new(records: Arc<dyn FleetRecords>, clock: Clock, events: Events) -> Self {
        let mode: Arc<ModeCell> = Arc::default();
        let store = JobStore { records, node: format!("{:08x}", random() >> 32).into() };
        let permits = Semaphore::new(MAX_RUNNING);
        let shared =
            Arc::new(JobsShared { store, clock, events, mode: mode.clone(), permits, stopping: Arc::default() });
        Self { shared, mode, jobs: Mutex::default() }
    }

    pub(super) fn add(&self, spec: JobSpec) -> Result<(), Error> {
        let mut jobs = self.jobs.lock();
        if jobs.iter().any(|job| job.spec.name == spec.name) {
            return Err(Error::config(format!("there is a job {:?} already", spec.name)));
        }
        if jobs.len() == MAX_JOBS {
            return Err(Error::config(format!("more than {MAX_JOBS} jobs")));
        }
        jobs.push(Arc::new(Job {
            spec,
            known: Mutex::default(),
            running: Mutex::default(),
            is_known: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            wake: Notify::new(),
            since: unix_millis(self.shared.clock.wall()),
            task: OnceLock::new(),
        }));
        drop(jobs);
        self.start();
        Ok(())
    }

    /// Starts the tasks that were not started yet, if there is a runtime.
    pub(crate) fn start(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        for job in self.jobs.lock().iter() {
            job.task.get_or_init(|| runtime.spawn(runner::run(self.shared.clone(), job.clone())).abort_handle());
        }
    }

    pub(crate) fn list(&self) -> Vec<JobStatus> {
        self.start();
        let now = unix_millis(self.shared.clock.wall());
        self.jobs.lock().iter().map(|job| job.status(now)).collect()
    }

    /// Returns what health is judged by.
    pub(crate) fn observed(&self) -> Vec<ObservedJob> {
        let observed = |job: &Arc<Job>| {
            let known = job.known.lock();
            let text = known.last.as_ref().map(|run| run.text.clone()).unwrap_or_default();
            ObservedJob { name: job.spec.name.to_string(), failed_in_a_row: known.failed_in_a_row, text }
        };
        self.jobs.lock().iter().map(observed).collect()
    }

    pub(crate) fn fill_metrics(&self, out: &mut dyn Samples) {
        for job in self.jobs.lock().iter() {
            let (name, known) = (&*job.spec.name, job.known.lock().clone());
            out.whole(Metric::JobAttempts, &[name, "done"], known.runs - known.failures);
            out.whole(Metric::JobAttempts, &[name, "failed"], known.failures);
            if known.succeeded_at > 0 {
                out.fraction(Metric::JobSucceeded, &[name], known.succeeded_at as f64 / 1e3);
            }
        }
    }

    pub(crate) async fn history(&self, name: &str) -> Vec<JobRun> {
        self.shared.store.runs(name).await.unwrap_or_default()
    }

    pub(crate) fn run_now(&self, name: &str) -> Result<(), Error> {
        let job = self.find(name)?;
        job.asked.store(true, Ordering::Release);
        job.wake.notify_one();
        self.start();
        Ok(())
    }

    pub(crate) async fn set_enabled(&self, name: &str, is_enabled: bool) -> Result<(), Error> {
        let job = self.find(name)?;
        self.shared.store.set_enabled(name, is_enabled).await?;
        job.known.lock().is_enabled = is_enabled;
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Arc<Job>, Error> {
        let jobs = self.jobs.lock();
        jobs.iter().find(|job| &*job.spec.name == name).cloned().ok_or_else(|| {
            let known: Vec<_> = jobs.iter().map(|job| &*job.spec.name).collect();
            Error::config(format!("unknown job {name:?}; use one of {known:?}"))
        })
    }

    /// Runs what is due, and waits for it, at most for this time. Says what became of each job.
    pub(crate) async fn run_due(&self, most: Duration) -> Vec<TriggeredJob> {
        self.start();
        let jobs: Vec<Arc<Job>> = self.jobs.lock().clone();
        let now = unix_millis(self.shared.clock.wall());
        let all = jobs.iter().map(|job| async move {
            let mut due = None;
            let ended = async {
                while !job.is_known.load(Ordering::Acquire) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                job.wake.notify_one();
                due = job.newest_due(now);
                while due.is_some_and(|due| !job.has_dealt_with(due)) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let has_ended = tokio::time::timeout(most, ended).await.is_ok();
            job.triggered(due, has_ended, now)
        });
        futures_util::future::join_all(all).await
    }

    /// Lets no run begin any more, and waits five seconds for those that have; then drops them, and another process makes the
    /// next attempt.
    pub(crate) async fn shutdown(&self) {
        if self.jobs.lock().is_empty() {
            return;
        }
        self.shared.stopping.store(true, Ordering::Release);
        self.jobs.lock().iter().for_each(|job| job.wake.notify_one());
        // All permits are free when nothing runs.
        let idle = self.shared.permits.acquire_many(MAX_RUNNING as u32);
        if tokio::time::timeout(GRACE, idle).await.is_err() {
            // Each run sees that its time is up, and gives its lease back.
            let given_back = self.shared.permits.acquire_many(MAX_RUNNING as u32);
            let _ = tokio::time::timeout(Duration::from_secs(1), given_back).await;
        }
    }
}

impl Drop for JobEngine {
    fn drop(&mut self) {
        self.jobs.lock().iter().filter_map(|job| job.task.get()).for_each(AbortHandle::abort);
    }
}
