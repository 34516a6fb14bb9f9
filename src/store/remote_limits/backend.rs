//! [`LimitBackend`]: port of an engine that keeps the limits of a fleet.

use tokio::time::Instant;

use super::group::{CheckGroup, GroupResult};
use crate::resilience::guard::Fault;

/// Reply to a call: the store's time in microseconds, and the result of each group.
pub(crate) type CallReply = (u64, Vec<GroupResult>);

/// Engine that keeps the limits of a fleet.
pub(crate) trait LimitBackend: Send + Sync + 'static {
    /// Connection to the store.
    type Connection: Clone + Send + Sync + 'static;

    /// Maximum number of concurrent calls of a tag.
    const WORKERS: usize;

    /// Returns the number of tags, over which keys are spread.
    fn tags(&self) -> u64 {
        1
    }

    /// Returns the tag of a key. The groups of a call have keys of one tag.
    fn tag(&self, key: u64) -> u64 {
        let _ = key;
        0
    }

    /// Evaluates and charges groups in their order, each all or none. Tests give the time `now` in microseconds.
    ///
    /// # Errors
    /// If the store did not answer before `by`, or rejected the call.
    fn call(
        &self,
        connection: Self::Connection,
        groups: &[&CheckGroup],
        now: Option<u64>,
        by: Instant,
    ) -> impl Future<Output = Result<CallReply, Fault>> + Send;
}
