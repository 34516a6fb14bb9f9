//! [`TriggeredJob`]: what became of a job that a cron service asked for.

use serde::Serialize;

/// What became of a job that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TriggeredJob {
    pub(crate) job: String,
    /// `done`, `failed`, `running`, `disabled`, `not due` or `store away`.
    pub(crate) result: &'static str,
    /// Result or error of the run.
    pub(crate) text: String,
}
