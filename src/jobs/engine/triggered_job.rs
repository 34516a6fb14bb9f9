//! [`TriggeredJob`]: the result of a job, in the answer of a trigger.

use serde::Serialize;

/// Result of a job, in the answer of a trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TriggeredJob {
    pub(crate) job: String,
    /// `done`, `failed`, `running`, `disabled`, `not due` or `store away`.
    pub(crate) result: &'static str,
    /// Result or error of the run.
    pub(crate) text: String,
}
