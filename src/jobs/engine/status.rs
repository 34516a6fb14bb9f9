//! [`JobStatus`]: what a process knows of a job.

use serde::Serialize;

use super::run::JobRun;

/// Status of a job in this process. Serialises to JSON, with times in milliseconds since 1970.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let gate = tollgate::Tollgate::builder().build()?;
/// gate.jobs().cron("*/5 * * * *").job("coins", |_| async { Ok::<_, String>(()) })?;
/// let status = &gate.jobs().list()[0];
/// assert_eq!((status.name.as_str(), status.schedule.as_str()), ("coins", "*/5 * * * *"));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct JobStatus {
    /// Name of the job.
    pub name: String,
    /// Schedule, as it was given.
    pub schedule: String,
    /// Whether it runs on its schedule.
    pub is_enabled: bool,
    /// Whether it is running in this process.
    pub is_running: bool,
    /// Progress of the running job: how much is done, of how much.
    pub progress: Option<(u64, u64)>,
    /// Next time at which it is due; `None` if it runs on demand.
    pub next_at: Option<u64>,
    /// Attempts that ended, in the fleet, as far as this process knows.
    #[serde(rename = "runs_total")]
    pub runs: u64,
    /// Attempts that failed.
    #[serde(rename = "failures_total")]
    pub failures: u64,
    /// Attempts that failed since the last success.
    pub failed_in_a_row: u64,
    /// Last success; 0 for none.
    pub succeeded_at: u64,
    /// Last attempt that ended.
    pub last: Option<JobRun>,
}
