//! [`ByteStore`]: the port for any server that keeps bytes under names. [`ByteLog`]: its invalidation log, if it has one.
//!
//! A byte store knows nothing of HTTP, of entries or of failures. [`RemoteStore`](crate::store::RemoteStore) above it
//! encodes and checks entries, hashes names with a secret, and adds the deadline, the circuit breaker and reconnection.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::engine::codec::FetchOrder;
use crate::cache::engine::lease::{GetOrClaim, Lease, LeaseState};

/// Bytes under names, in a server that processes share: a key-value service, an object store, a database.
///
/// | method | contract |
/// |---|---|
/// | [`get_many`](Self::get_many) | one value or `None` for each name, in order, each in an allocation of its own; a removed value is never returned again |
/// | [`put`](Self::put) | replaces the value, unless it [may not](may_replace): the fetch of the stored one began later |
/// | [`remove`](Self::remove) | returns when no reader can see the value any more |
/// | an error | anything that went wrong; the caller treats it as a miss |
///
/// A server may drop values at any time, and need not expire them exactly: readers compare times. A returned error that
/// [`Error::disconnected`] created makes the caller reconnect. Futures may be dropped at any time.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
///
/// use bytes::Bytes;
/// use futures_util::future::{BoxFuture, ready};
/// use tollgate::Error;
/// use tollgate::cache::{ByteStore, may_replace};
///
/// #[derive(Default)]
/// struct Table(Mutex<HashMap<String, Bytes>>);
///
/// impl ByteStore for Table {
///     fn get_many(&self, names: Vec<String>) -> BoxFuture<'static, Result<Vec<Option<Bytes>>, Error>> {
///         let table = self.0.lock().unwrap();
///         let found = names.iter().map(|name| table.get(name).cloned()).collect();
///         Box::pin(ready(Ok(found)))
///     }
///
///     fn put(&self, name: String, value: Bytes, _ttl: Duration) -> BoxFuture<'static, Result<bool, Error>> {
///         let mut table = self.0.lock().unwrap();
///         let replaces = table.get(&name).is_none_or(|old| may_replace(old, &value));
///         if replaces {
///             table.insert(name, value);
///         }
///         Box::pin(ready(Ok(replaces)))
///     }
///
///     fn remove(&self, names: Vec<String>) -> BoxFuture<'static, Result<u64, Error>> {
///         let mut table = self.0.lock().unwrap();
///         let removed = names.iter().filter_map(|name| table.remove(name)).count();
///         Box::pin(ready(Ok(removed as u64)))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// tollgate::testing::contract::bytes(Arc::new(Table::default())).await;
/// # }
/// ```
///
/// [`testing::contract::bytes`](crate::testing::contract::bytes) tests an implementation. `examples/http_kv/client.rs` is
/// one in eighty lines, over a plain HTTP service.
pub trait ByteStore: Send + Sync + 'static {
    /// Returns the values under these names.
    fn get_many(&self, names: Vec<String>) -> BoxFuture<Result<Vec<Option<Bytes>>, Error>>;

    /// Stores a value for `ttl`. Returns whether it was stored: `false` if the fetch of the stored value [began later](may_replace).
    fn put(&self, name: String, value: Bytes, ttl: Duration) -> BoxFuture<Result<bool, Error>>;

    /// Removes the values under these names; returns how many there were, as far as known.
    fn remove(&self, names: Vec<String>) -> BoxFuture<Result<u64, Error>>;

    /// Asks for a lease: of all tokens that ask within its lifetime, one gets it, and gets it again. A store without leases
    /// grants all.
    fn claim(&self, _lease: Lease<String>) -> BoxFuture<Result<LeaseState, Error>> {
        Box::pin(std::future::ready(Ok(LeaseState::Granted)))
    }

    /// Ends a [lease](Self::claim) of this token early. With `uncacheable`, the store answers so to all for that long.
    fn release(&self, _lease: Lease<String>, _uncacheable: Option<Duration>) -> BoxFuture<Result<(), Error>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Returns the value under this name; if there is none, asks for the lease in the same round trip, which by default it
    /// does not.
    fn get_or_claim(&self, name: String, _lease: Lease<String>) -> BoxFuture<Result<GetOrClaim<Bytes>, Error>> {
        let found = self.get_many(vec![name]);
        Box::pin(async move { Ok(found.await?.into_iter().next().flatten().into()) })
    }

    /// Returns a page of the values whose names begin with `prefix`, for administrative scans.
    ///
    /// # Errors
    /// By default: the store cannot be scanned.
    fn scan(&self, _prefix: String, _cursor: Option<String>) -> BoxFuture<Result<ScanPage, Error>> {
        Box::pin(std::future::ready(Err(Error::store("this store cannot be scanned", "no scan"))))
    }

    /// Returns the invalidation log. Without one, every invalidation stays in its process and returns an error, and only the
    /// value under a key is removed for all: not those that an identity, a key field or a forwarded scheme keeps apart.
    /// Other processes keep copies in memory for five seconds at most.
    fn log(&self) -> Option<&dyn ByteLog> {
        None
    }
}

/// Page of a [scan](ByteStore::scan).
///
/// ```
/// use bytes::Bytes;
/// use tollgate::cache::ScanPage;
///
/// let last = ScanPage::new(vec![("tollgate:entry:7f".to_owned(), Bytes::from_static(b"the beginning"))], None);
/// assert_eq!(last.heads.len(), 1);
/// ```
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
    ///
    /// ```
    /// use tollgate::cache::ScanPage;
    ///
    /// let empty = ScanPage::new(Vec::new(), None);
    /// assert!(empty.next.is_none());
    /// ```
    #[must_use]
    pub const fn new(heads: Vec<(String, Bytes)>, next: Option<String>) -> Self {
        Self { heads, next }
    }
}

/// Log of invalidations in the server of a [`ByteStore`]: numbered records, of which the latest are kept.
///
/// Positions grow by one from record to record, and never return to a smaller one: a log that starts anew begins at the
/// server's time in microseconds.
///
/// ```
/// use tollgate::cache::{ByteLog, ByteStore};
/// use tollgate::testing::MemoryBytes;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let server = MemoryBytes::with_log();
/// let log = server.log().unwrap();
/// let position = log.append("the first record".into(), "an invalidation".into()).await?;
/// assert_eq!(log.read(Some(position)).await?, [(position, "an invalidation".into())]);
/// # Ok(()) }
/// ```
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
///
/// ```
/// use tollgate::cache::LogMessage;
///
/// let message = LogMessage::Record(7, "an invalidation".into());
/// assert_ne!(message, LogMessage::Unknown);
/// ```
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
