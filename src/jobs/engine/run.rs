//! [`JobRun`]: what became of an attempt, as it is kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Longest text of a result or error, in characters.
const MAX_TEXT: usize = 500;

/// One attempt to run a job. Serialises to JSON, with times in milliseconds since 1970.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let gate = tollgate::Tollgate::builder().build()?;
/// gate.jobs().every("15m").job("coins", |_| async { Ok::<_, String>(()) })?;
/// for run in gate.jobs().history("coins").await {
///     println!("{:?} attempt {}: {}", run.slot(), run.attempt, run.outcome);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobRun {
    /// Time for which it ran, in milliseconds since 1970.
    pub slot: u64,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Fencing token.
    pub token: u64,
    /// Node that ran it, by a name drawn at its start.
    pub node: String,
    /// Begin, in milliseconds since 1970.
    pub started_at: u64,
    /// Duration in milliseconds.
    pub took_ms: u64,
    /// `done`, `failed`, `timed-out`, `lapsed` (its process ended, or could not renew its lease) or `shadow`.
    pub outcome: String,
    /// Result or error, its first 500 characters.
    pub text: String,
}

impl JobRun {
    /// Time for which it ran.
    #[must_use]
    pub fn slot(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.slot)
    }

    /// Whether it did not do its work.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        !matches!(&*self.outcome, "done" | "shadow")
    }
}

/// Cuts a text to what is kept.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}
