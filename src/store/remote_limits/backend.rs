//! [`LimitBackend`]: port of an engine that keeps the limits of a fleet.

use std::time::Duration;

use tokio::time::Instant;

use super::group::{CheckGroup, GroupResult};
use crate::base::error::Error;
use crate::resilience::guard::Fault;

/// Reply to a call: the store's time in microseconds, and the result of each group.
pub(crate) type CallReply = (u64, Vec<GroupResult>);

/// Version of the published records, and their names, contents and remaining times.
pub(crate) type PublishedRecords = (u64, Vec<(u64, Vec<u8>, Duration)>);

/// Maximum number of published records.
const MAX_RECORDS: usize = 4_096;
/// Number of records beyond which bans are refused: a flood of them leaves room for grants.
const MAX_BANS: usize = 3_072;
/// Record of a ban.
const BAN: u8 = 2;

/// Returns the number of records beyond which this one is refused.
pub(crate) fn max_records(record: &[u8]) -> usize {
    if record == [BAN] { MAX_BANS } else { MAX_RECORDS }
}

/// Engine that keeps the limits of a fleet.
pub(crate) trait LimitBackend: Send + Sync + 'static {
    /// Whether nodes share records.
    const SHARES_RECORDS: bool = false;

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

    /// Publishes a record under a name to all nodes, for `ttl`; zero removes it. Returns its version; 0 if there are too many.
    /// Defaults to an error, for stores that share no records.
    ///
    /// # Errors
    /// If the store did not answer, or rejected the call.
    fn publish(
        &self,
        _connection: Self::Connection,
        _record: (u64, Vec<u8>),
        _ttl: Duration,
        _now: Option<u64>,
    ) -> impl Future<Output = Result<u64, Fault>> + Send {
        std::future::ready(Err(Fault::Refused(Error::store("limits: applied in this process alone", "no records"))))
    }

    /// Returns the version of the published records, and unless that is the known one, all of them with the time they have
    /// left. Defaults to none.
    ///
    /// # Errors
    /// If the store did not answer, or rejected the call.
    fn published(
        &self,
        _connection: Self::Connection,
        _known: u64,
        _now: Option<u64>,
    ) -> impl Future<Output = Result<PublishedRecords, Fault>> + Send {
        std::future::ready(Ok((0, Vec::new())))
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
