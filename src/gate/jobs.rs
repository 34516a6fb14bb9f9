//! [`Jobs`]: the jobs of a gate.

use std::fmt;
use std::sync::Arc;

use crate::base::error::Error;
use crate::base::mode::Mode;
use crate::base::span::parse_span;
use crate::jobs::engine::builder::JobBuilder;
use crate::jobs::engine::job_engine::JobEngine;
use crate::jobs::engine::run::JobRun;
use crate::jobs::engine::status::JobStatus;
use crate::jobs::schedule::cron::Cron;
use crate::jobs::schedule::due::Schedule;
use crate::jobs::tower::trigger::JobTrigger;

/// Jobs of a [`Tollgate`](crate::Tollgate): named work on a schedule, such as fetching what users will ask for. Clones share state.
///
/// With [`redis`](crate::TollgateBuilder::redis), [`postgres`](crate::TollgateBuilder::postgres) or
/// [`file`](crate::TollgateBuilder::file), a job runs once in the fleet at each of its times, whichever node begins it: an attempt
/// is run by at most one process, by the clock of the store. A process that ends while it runs one loses its lease within 30 s,
/// and another one makes the next attempt. While the store is away no run begins. The guide is
/// [`docs::jobs`](crate::docs::jobs).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let gate = tollgate::Tollgate::builder().build()?;
/// gate.jobs().every("15m").job("coins", |ctx| async move {
///     ctx.progress(0, 250);
///     // …fetch, and put into the cache…
///     Ok::<_, String>("250 coins")
/// })?;
/// gate.jobs().cron("0 3 * * *").job("cleanup", |_| async { Ok::<_, String>(()) })?;
/// assert_eq!(gate.jobs().list().len(), 2);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Jobs {
    engine: Arc<JobEngine>,
}

impl Jobs {
    pub(crate) const fn new(engine: Arc<JobEngine>) -> Self {
        Self { engine }
    }

    /// Begins a job that runs at the multiples of an interval, such as `15m`, since 1970: at 10:00, 10:15 and so on, on all nodes.
    /// Intervals are written with `ms`, `s`, `m`, `h` or `d`.
    pub fn every(&self, interval: &str) -> JobBuilder {
        JobBuilder::new(self.engine.clone(), parse_span(interval).map(Schedule::Every), format!("every {interval}"))
    }

    /// Begins a job that runs at the times of five fields in UTC: minute, hour, day of the month, month, day of the week. Fields
    /// are `*`, numbers, ranges `1-5`, steps `*/15`, lists, and names of months and days; if both days are restricted, one
    /// of them suffices.
    pub fn cron(&self, fields: &str) -> JobBuilder {
        JobBuilder::new(self.engine.clone(), Cron::parse(fields).map(Schedule::Cron), fields.to_owned())
    }

    /// Begins a job that runs only on demand: [`run_now`](Self::run_now).
    pub fn on_demand(&self) -> JobBuilder {
        JobBuilder::new(self.engine.clone(), Ok(Schedule::OnDemand), "on demand".to_owned())
    }

    /// Returns the status of each job, in the order in which they were added.
    #[must_use]
    pub fn list(&self) -> Vec<JobStatus> {
        self.engine.list()
    }

    /// Returns the attempts that are kept of a job, newest first: the last twenty that failed and the last ten that did not.
    /// Empty while the store is away.
    pub async fn history(&self, name: &str) -> Vec<JobRun> {
        self.engine.history(name).await
    }

    /// Runs a job now, in this process, also if it is disabled. It begins within a second, unless this process waits for a run of
    /// the job, or for the pause before its next attempt.
    ///
    /// # Errors
    /// If there is no such job.
    pub fn run_now(&self, name: &str) -> Result<(), Error> {
        self.engine.run_now(name)
    }

    /// Lets a job run on its schedule, or not, on all nodes and after a restart.
    ///
    /// # Errors
    /// If there is no such job, or the store is unavailable.
    pub async fn set_enabled(&self, name: &str, is_enabled: bool) -> Result<(), Error> {
        self.engine.set_enabled(name, is_enabled).await
    }

    /// Creates a service that runs what is due when a cron service asks it with this secret of at least 16 bytes.
    ///
    /// # Errors
    /// If the secret is shorter.
    pub fn trigger(&self, secret: &str) -> Result<JobTrigger, Error> {
        JobTrigger::new(self.engine.clone()).secret(secret)
    }

    /// Switches all jobs of this process. In [`Mode::Shadow`] each time is claimed and recorded, and nothing is run.
    pub fn set_mode(&self, mode: Mode) {
        self.engine.mode.set(mode);
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}
