//! [`FleetRecords`]: port of an engine that keeps small records for all nodes.

use std::time::Duration;

use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;

/// Maximum number of records of a kind; the engine refuses more.
pub(crate) const MAX_RECORDS: usize = 1_024;
/// Maximum size of a record in bytes.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 10;

/// Record of a kind, under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FleetRecord {
    pub(crate) name: String,
    pub(crate) contents: Vec<u8>,
    /// Time until it expires, by the clock of the store.
    pub(crate) left: Duration,
}

/// Engine that keeps small records for all nodes.
pub(crate) trait FleetRecords: Send + Sync {
    /// Writes a record of a kind, or replaces that of the same name.
    ///
    /// # Errors
    /// If the store is unavailable, or has too many records of the kind.
    fn put(&self, kind: &'static str, record: FleetRecord) -> BoxFuture<Result<(), Error>>;

    /// Writes a record if the one of its name has these contents, or if there is none of its name (`None`); returns whether it did.
    /// Of several at once one succeeds.
    ///
    /// # Errors
    /// If the store is unavailable.
    #[cfg(feature = "jobs")]
    fn replace(
        &self,
        kind: &'static str,
        record: FleetRecord,
        expected: Option<Vec<u8>>,
    ) -> BoxFuture<Result<bool, Error>>;

    /// Removes a record.
    ///
    /// # Errors
    /// If the store is unavailable.
    fn remove(&self, kind: &'static str, name: &str) -> BoxFuture<Result<(), Error>>;

    /// Returns all records of a kind that have not expired.
    ///
    /// # Errors
    /// If the store is unavailable.
    fn list(&self, kind: &'static str) -> BoxFuture<Result<Vec<FleetRecord>, Error>>;
}

/// Returns the error of a record that is refused.
pub(crate) fn refused(kind: &str) -> Error {
    Error::config(format!("{kind}: more than {MAX_RECORDS} records, or one of more than {MAX_RECORD_BYTES} bytes"))
}
