//! [`ByteStore`]: the port for any server that keeps bytes under names. [`ByteLog`]: its invalidation log, if it has one.
//!
//! A byte store knows nothing of HTTP, of entries or of failures. [`RemoteStore`](crate::store::RemoteStore) above it
//! encodes, checks and encrypts names, and adds the deadline, the circuit breaker and reconnection.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::engine::codec::FetchOrder;

/// Bytes under names, in a server that processes share: a key-value service, an object store, a database.
///
/// | method | contract |
/// |---|---|
/// | [`get_many`](Self::get_many) | one value or `None` for each name, in order; a removed value is never returned again |
/// | [`put`](Self::put) | replaces the value, unless it [may not](may_replace): the fetch of the stored one began later |
/// | [`remove`](Self::remove) | returns when no reader can see the value any more |
/// | an error | anything that went wrong; the caller treats it as a miss |
///
/// A server may drop values at any time, and need not expire them exactly: readers compare times. A returned error that
/// [`Error::disconnected`] created makes the caller reconnect. Futures may be dropped at any time.
///
/// [`testing::contract::bytes`](crate::testing::contract::bytes) tests an implementation. `examples/http_kv.rs` is one in
/// eighty lines, over a plain HTTP service.
pub trait ByteStore: Send + Sync + 'static {
    /// Returns the values under these names.
    fn get_many(&self, names: Vec<String>) -> BoxFuture<Result<Vec<Option<Bytes>>, Error>>;

    /// Stores a value for `ttl`. Returns whether it was stored: `false` if the fetch of the stored value [began later](may_replace).
    fn put(&self, name: String, value: Bytes, ttl: Duration) -> BoxFuture<Result<bool, Error>>;

    /// Removes the values under these names; returns how many there were, as far as known.
    fn remove(&self, names: Vec<String>) -> BoxFuture<Result<u64, Error>>;

    /// Leases a name: of all processes that ask within `lease`, one gets `true`. A store without leases grants all.
    fn claim(&self, _name: String, _lease: Duration) -> BoxFuture<Result<bool, Error>> {
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Ends a [lease](Self::claim) early.
    fn release(&self, _name: String) -> BoxFuture<Result<(), Error>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Returns a page of the values whose names begin with `prefix`, for administrative scans.
    ///
    /// # Errors
    /// By default: the store cannot be scanned.
    fn scan(&self, _prefix: String, _cursor: Option<String>) -> BoxFuture<Result<ScanPage, Error>> {
        Box::pin(std::future::ready(Err(Error::store("this store cannot be scanned", "no scan"))))
    }

    /// Returns the invalidation log. Without one, invalidations by tag, prefix and pattern stay in their process, and
    /// other processes keep copies in memory for five seconds at most.
    fn log(&self) -> Option<&dyn ByteLog> {
        None
    }
}

/// Page of a [scan](ByteStore::scan).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ScanPage {
    /// Names with the first 8 KiB of their values.
    pub heads: Vec<(String, Bytes)>,
    /// Where to continue; `None` at the end.
    pub next: Option<String>,
}

impl ScanPage {
    /// Creates a page.
    #[must_use]
    pub const fn new(heads: Vec<(String, Bytes)>, next: Option<String>) -> Self {
        Self { heads, next }
    }
}

/// Log of invalidations in the server of a [`ByteStore`]: numbered records, of which the latest are kept.
///
/// Positions grow by one from record to record, and never return to a smaller one: a log that starts anew begins at the
/// server's time in microseconds.
pub trait ByteLog: Send + Sync + 'static {
    /// Returns the server's time in nanoseconds since 1970.
    fn now(&self) -> BoxFuture<Result<u64, Error>>;

    /// Returns the secret that all processes share; `proposed` if there was none.
    fn agree(&self, proposed: String) -> BoxFuture<Result<String, Error>>;

    /// Appends a record and publishes it; returns its position. Starts the log with `first` if there is none.
    fn append(&self, first: Bytes, record: Bytes) -> BoxFuture<Result<u64, Error>>;

    /// Returns the records from this position on, itself included; all of them for `None`.
    fn read(&self, from: Option<u64>) -> BoxFuture<Result<Vec<(u64, Bytes)>, Error>>;

    /// Starts a new log with `first` if there is none, or if it ends before `known`.
    fn restart(&self, first: Bytes, known: u64) -> BoxFuture<Result<(), Error>>;

    /// Publishes that a value was removed. Best effort.
    fn publish_removal(&self, key: Bytes) -> BoxFuture<Result<(), Error>>;

    /// Returns what is published from now on. Messages are hints: the log is read once a second in any case.
    fn subscribe(&self) -> BoxFuture<Result<BoxStream<'static, LogMessage>, Error>>;
}

/// Message of a [`ByteLog`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogMessage {
    /// A record was appended at this position.
    Record(u64, Bytes),
    /// A value was removed.
    Removal(Bytes),
    /// A message of another format: read the log.
    Unknown,
}

/// Whether `new` may replace `old`: its fetch began later, or so much earlier that a clock was set back. Compares the
/// first 26 bytes of the values: a server that cannot run this compares, behind four equal bytes, the eight from the
/// eleventh on (the start in microseconds) and the eight after them (the position in the log), both big-endian.
///
/// ```
/// use tollgate::cache::may_replace;
///
/// assert!(may_replace(b"not a value of this crate", b"another one"));
/// ```
#[must_use]
pub fn may_replace(old: &[u8], new: &[u8]) -> bool {
    FetchOrder::of(new).may_replace(FetchOrder::of(old))
}
