//! Claims: at most one process runs an attempt, by the clock of the store.
//!
//! A claim takes the lease of the job, which expires by itself, and then raises attempt and token in the job's record, by
//! compare-and-set. A process that was suspended beyond its lease finds the record changed: its result is not written.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::run::JobRun;
use crate::base::error::Error;
use crate::store::fleet_records::port::{FleetRecord, FleetRecords};

/// Kinds of records.
pub(super) const JOBS: &str = "jobs";
const LEASES: &str = "job-leases";
const RUNS: &str = "job-runs";
/// Time for which a lease is valid without renewal.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// Time for which records are kept.
const KEPT: Duration = Duration::from_secs(400 * 86_400);
/// Runs that are kept of a job: failures do not make room for successes.
const FAILURES: u64 = 20;
const SUCCESSES: u64 = 10;
/// Attempts to record the end of a run, a second apart: fewer than the lease has left.
const FINISH_ATTEMPTS: u32 = 15;

/// State of a job, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JobRecord {
    /// The last time that was dealt with, in milliseconds since 1970; 0 for none.
    pub(super) slot: u64,
    pub(super) attempt: u32,
    /// Number of attempts so far.
    pub(super) token: u64,
    pub(super) status: JobState,
    /// Time of the next attempt, while it is to be retried.
    pub(super) retry_at: u64,
    pub(super) is_enabled: bool,
    pub(super) runs: u64,
    pub(super) failures: u64,
    /// Failed runs since the last success.
    pub(super) failed_in_a_row: u64,
    /// Time of the last success; 0 for none.
    pub(super) succeeded_at: u64,
    pub(super) last: Option<JobRun>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum JobState {
    Running,
    Retry,
    Done,
    Failed,
}

impl Default for JobRecord {
    fn default() -> Self {
        Self {
            slot: 0,
            attempt: 0,
            token: 0,
            status: JobState::Done,
            retry_at: 0,
            is_enabled: true,
            runs: 0,
            failures: 0,
            failed_in_a_row: 0,
            succeeded_at: 0,
            last: None,
        }
    }
}

/// Outcome of a claim.
#[derive(Debug)]
pub(super) enum JobClaim {
    /// This process runs the attempt.
    Granted(GrantedAttempt),
    /// Another process runs the job.
    Held,
    /// Attempts of this earlier time are to be made first.
    Earlier(u64),
    /// The last attempt for this time has ended.
    Done,
    /// The next attempt is due at this time.
    RetryAt(u64),
    Disabled,
}

/// An attempt that this process runs.
#[derive(Debug)]
pub(super) struct GrantedAttempt {
    pub(super) record: JobRecord,
    lease: Vec<u8>,
}

/// Request for the next attempt of a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimRequest<'a> {
    pub(super) job: &'a str,
    pub(super) slot: u64,
    pub(super) attempts: u32,
    /// Whether a person asked for it: also if the job is disabled.
    pub(super) by_hand: bool,
}

/// Record of a job as it was read.
struct KnownRecord {
    record: JobRecord,
    contents: Vec<u8>,
}

/// Jobs in a store.
#[derive(Clone)]
pub(super) struct JobStore {
    pub(super) records: Arc<dyn FleetRecords>,
    pub(super) node: Arc<str>,
}

impl JobStore {
    /// Reads what is known of a job.
    pub(super) async fn read(&self, job: &str) -> Result<Option<JobRecord>, Error> {
        Ok(self.known(job).await?.map(|known| known.record))
    }

    async fn known(&self, job: &str) -> Result<Option<KnownRecord>, Error> {
        let found = self.records.list(JOBS).await?.into_iter().find(|kept| kept.name == job);
        // What another version wrote and this one cannot read is replaced.
        Ok(found.map(|FleetRecord { contents, .. }| KnownRecord {
            record: serde_json::from_slice(&contents).unwrap_or_default(),
            contents,
        }))
    }

    /// Returns the record of a job; the first process that sees the job writes one, so that what is due counts from then.
    pub(super) async fn first(&self, job: &str, since: u64) -> Result<JobRecord, Error> {
        for _ in 0..5 {
            let known = self.known(job).await?;
            if let Some(known) = &known
                && known.record.slot > 0
            {
                return Ok(known.record.clone());
            }
            let record = known.as_ref().map(|known| known.record.clone()).unwrap_or_default();
            let record = JobRecord { slot: since, ..record };
            if self.write(job, &record, known.as_ref()).await? {
                return Ok(record);
            }
        }
        Err(conflict())
    }

    /// Claims the next attempt for this time.
    pub(super) async fn claim(&self, wanted: ClaimRequest<'_>, now: u64) -> Result<JobClaim, Error> {
        let before = self.read(wanted.job).await?;
        if let Some(decided) = before.as_ref().and_then(|record| decided(record, wanted, now)) {
            return Ok(decided);
        }
        // The number makes each lease of a process another one.
        let lease = format!("{} {}", self.node, before.map_or(0, |record| record.token) + 1).into_bytes();
        if !self.records.replace(LEASES, lease_record(wanted.job, &lease), None).await? {
            return Ok(JobClaim::Held);
        }
        let claimed = self.claim_with_lease(wanted, now, &lease).await;
        if !matches!(claimed, Ok(JobClaim::Granted(_))) {
            self.release(wanted.job, &lease).await;
        }
        claimed
    }

    async fn claim_with_lease(&self, wanted: ClaimRequest<'_>, now: u64, lease: &[u8]) -> Result<JobClaim, Error> {
        let known = self.known(wanted.job).await?;
        let record = known.as_ref().map(|known| known.record.clone()).unwrap_or_default();
        if let Some(decided) = decided(&record, wanted, now) {
            return Ok(decided);
        }
        if record.status == JobState::Running && record.slot < wanted.slot && !wanted.by_hand {
            // Its process is gone. The claim for that time makes its next attempt, or ends it.
            return Ok(JobClaim::Earlier(record.slot));
        }
        let is_next = record.slot == wanted.slot;
        // This process has the lease now: the one that ran the attempt is gone.
        let lapsed = (record.status == JobState::Running).then(|| record.lapsed(now));
        let mut next = record.ended_by(lapsed.clone());
        if let Some(run) = &lapsed {
            self.keep(wanted.job, run, &next).await;
        }
        if is_next && next.attempt >= wanted.attempts {
            next.status = JobState::Failed;
            let _ = self.write(wanted.job, &next, known.as_ref()).await?;
            return Ok(JobClaim::Done);
        }
        next.attempt = if is_next { next.attempt + 1 } else { 1 };
        (next.slot, next.status, next.retry_at) = (wanted.slot, JobState::Running, 0);
        next.token += 1;
        match self.write(wanted.job, &next, known.as_ref()).await? {
            true => Ok(JobClaim::Granted(GrantedAttempt { record: next, lease: lease.to_vec() })),
            false => Ok(JobClaim::Held),
        }
    }

    /// Renews the lease; returns whether this process still has it.
    pub(super) async fn renew(&self, job: &str, granted: &GrantedAttempt) -> Result<bool, Error> {
        self.records.replace(LEASES, lease_record(job, &granted.lease), Some(granted.lease.clone())).await
    }

    /// Records the end of an attempt, unless another process has taken the job over. While the store is away it tries again, as
    /// long as the lease certainly lasts: the work is done, and would be repeated.
    pub(super) async fn finish(&self, job: &str, granted: &GrantedAttempt, run: JobRun, next: JobState, retry_at: u64) {
        let known = granted.record.clone();
        let token = known.token;
        let mut record = JobRecord { status: next, retry_at, ..known.ended_by(Some(run.clone())) };
        for _ in 0..FINISH_ATTEMPTS {
            let is_written = match self.known(job).await {
                Ok(Some(current)) if current.record.token != token => break,
                Ok(Some(current)) if current.record.status == JobState::Running => {
                    // Someone may have enabled or disabled it meanwhile.
                    record.is_enabled = current.record.is_enabled;
                    self.write(job, &record, Some(&current)).await.unwrap_or(false)
                }
                // The answer to the write was lost.
                Ok(Some(_)) => true,
                Ok(None) => break,
                Err(_) => false,
            };
            if is_written {
                self.keep(job, &run, &record).await;
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.release(job, &granted.lease).await;
    }

    /// Enables or disables a job.
    pub(super) async fn set_enabled(&self, job: &str, is_enabled: bool) -> Result<(), Error> {
        for _ in 0..5 {
            let known = self.known(job).await?;
            let record = known.as_ref().map(|known| known.record.clone()).unwrap_or_default();
            let next = JobRecord { is_enabled, ..record };
            if self.write(job, &next, known.as_ref()).await? {
                return Ok(());
            }
        }
        Err(conflict())
    }

    /// Returns the runs that are kept, the newest first.
    pub(super) async fn runs(&self, job: &str) -> Result<Vec<JobRun>, Error> {
        let found = self.records.list(RUNS).await?;
        let of_job = found.iter().filter(|record| record.name.rsplitn(3, ' ').nth(2) == Some(job));
        let mut runs: Vec<JobRun> = of_job.filter_map(|record| serde_json::from_slice(&record.contents).ok()).collect();
        runs.sort_by_key(|run| std::cmp::Reverse((run.token, run.started_at)));
        Ok(runs)
    }

    async fn write(&self, job: &str, record: &JobRecord, known: Option<&KnownRecord>) -> Result<bool, Error> {
        let encoded = serde_json::to_vec(record);
        let contents = encoded.map_err(|error| Error::store("jobs: a record cannot be encoded", error))?;
        let record = FleetRecord { name: job.to_owned(), contents, left: KEPT };
        self.records.replace(JOBS, record, known.map(|known| known.contents.clone())).await
    }

    /// Keeps a run that is counted in this record: failures and successes have places of their own.
    async fn keep(&self, job: &str, run: &JobRun, counted: &JobRecord) {
        let (kind, place) = match run.is_failure() {
            true => ("failed", counted.failures % FAILURES),
            false => ("done", (counted.runs - counted.failures) % SUCCESSES),
        };
        let Ok(contents) = serde_json::to_vec(run) else { return };
        let name = format!("{job} {kind} {place}");
        // Losing a line of the history is better than a job that runs twice.
        let _ = self.records.put(RUNS, FleetRecord { name, contents, left: KEPT }).await;
    }

    async fn release(&self, job: &str, lease: &[u8]) {
        let ended = FleetRecord { left: Duration::ZERO, ..lease_record(job, lease) };
        // Otherwise it expires.
        let _ = self.records.replace(LEASES, ended, Some(lease.to_vec())).await;
    }
}

/// Whether a lease that was asked for so long ago certainly lasts for some more seconds.
pub(super) fn is_in_time(span: Duration) -> bool {
    span <= LEASE * 2 / 3
}

/// A record changes whenever it is to be replaced.
fn conflict() -> Error {
    Error::store("jobs: the record changes too often", "conflict")
}

fn lease_record(job: &str, lease: &[u8]) -> FleetRecord {
    FleetRecord { name: job.to_owned(), contents: lease.to_vec(), left: LEASE }
}

/// Returns the outcome of a claim that needs no lease.
fn decided(record: &JobRecord, wanted: ClaimRequest<'_>, now: u64) -> Option<JobClaim> {
    if !record.is_enabled && !wanted.by_hand {
        return Some(JobClaim::Disabled);
    }
    match (record.slot.cmp(&wanted.slot), record.status) {
        (std::cmp::Ordering::Greater, _) => Some(JobClaim::Done),
        (std::cmp::Ordering::Equal, JobState::Done | JobState::Failed) => Some(JobClaim::Done),
        (std::cmp::Ordering::Equal, JobState::Retry) if record.retry_at > now => {
            Some(JobClaim::RetryAt(record.retry_at))
        }
        (std::cmp::Ordering::Less, JobState::Retry) if !wanted.by_hand => Some(JobClaim::Earlier(record.slot)),
        _ => None,
    }
}

impl JobRecord {
    /// The attempt that was running ended without a word.
    fn lapsed(&self, now: u64) -> JobRun {
        let started_at = self.last.as_ref().map_or(now, |last| last.started_at.max(self.slot)).min(now);
        JobRun {
            slot: self.slot,
            attempt: self.attempt,
            token: self.token,
            node: String::new(),
            started_at,
            took_ms: 0,
            outcome: "lapsed".to_owned(),
            text: "its process ended, or could not renew its lease".to_owned(),
        }
    }

    /// Counts an attempt that ended.
    fn ended_by(self, run: Option<JobRun>) -> Self {
        let Some(run) = run else { return self };
        let is_failure = run.is_failure();
        Self {
            runs: self.runs + 1,
            failures: self.failures + u64::from(is_failure),
            failed_in_a_row: if is_failure { self.failed_in_a_row + 1 } else { 0 },
            succeeded_at: if is_failure { self.succeeded_at } else { run.started_at + run.took_ms },
            last: Some(run),
            ..self
        }
    }
}

#[cfg(test)]
mod tests;
