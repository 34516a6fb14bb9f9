//! [`MemoryBytes`]: a byte store in this process, for tests of what stands above one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::base::clock::{Clock, nanos, runtime_now};
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::{ByteLog, ByteStore, GetOrClaim, Lease, LeaseState, LogMessage, ScanPage, may_replace};

/// Byte store in this process, with or without a log. Clones share the bytes, as processes share a server.
///
/// ```
/// use std::sync::Arc;
/// use tollgate::cache::CacheLayer;
/// use tollgate::store::{RemoteSettings, RemoteStore};
/// use tollgate::testing::MemoryBytes;
///
/// let server = MemoryBytes::with_log();
/// let node = || {
///     let store = RemoteStore::new(server.clone(), RemoteSettings::new("shared"))?;
///     CacheLayer::builder().level_2(Arc::new(store)).build()
/// };
/// let (one, other) = (node()?, node()?);
/// # let _ = (one, other);
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemoryBytes {
    shared: Arc<Mutex<Contents>>,
    log: bool,
    messages: broadcast::Sender<LogMessage>,
}

#[derive(Debug, Default)]
struct Contents {
    values: HashMap<String, (Bytes, Instant)>,
    /// Token of the holder, or none if there is nothing to share, until a time.
    leases: HashMap<String, (Option<u64>, Instant)>,
    secret: Option<String>,
    log: Vec<(u64, Bytes)>,
}

impl Default for MemoryBytes {
    fn default() -> Self {
        Self::new()
    }
}

impl Contents {
    fn claim(&mut self, lease: Lease<String>, now: Instant) -> LeaseState {
        match self.leases.get(&lease.name).filter(|(_, until)| now < *until) {
            Some((None, _)) => LeaseState::Uncacheable,
            Some((Some(token), _)) if *token != lease.token => LeaseState::Held,
            _ => {
                self.leases.insert(lease.name, (Some(lease.token), now + lease.ttl));
                LeaseState::Granted
            }
        }
    }
}

impl MemoryBytes {
    /// Creates an empty store without a log.
    ///
    /// ```
    /// use tollgate::testing::MemoryBytes;
    ///
    /// let server = MemoryBytes::new();
    /// assert!(server.names().is_empty());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::default(), log: false, messages: broadcast::Sender::new(1_024) }
    }

    /// Creates an empty store with a log.
    ///
    /// ```
    /// use tollgate::testing::MemoryBytes;
    ///
    /// let server = MemoryBytes::with_log();
    /// # let _ = server;
    /// ```
    #[must_use]
    pub fn with_log() -> Self {
        Self { log: true, ..Self::new() }
    }

    /// Returns the stored value under a name, as a server's console would.
    ///
    /// ```
    /// use tollgate::testing::MemoryBytes;
    ///
    /// assert_eq!(MemoryBytes::new().value("any"), None);
    /// ```
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Bytes> {
        self.shared.lock().values.get(name).map(|(value, _)| value.clone())
    }

    /// Returns the names of all values.
    ///
    /// ```
    /// use tollgate::testing::MemoryBytes;
    ///
    /// assert!(MemoryBytes::new().names().is_empty());
    /// ```
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.shared.lock().values.keys().cloned().collect()
    }

    /// Loses the values and the log, as a server that restarts without a disk.
    ///
    /// ```
    /// use tollgate::testing::MemoryBytes;
    ///
    /// MemoryBytes::with_log().clear();
    /// ```
    pub fn clear(&self) {
        let mut contents = self.shared.lock();
        let secret = contents.secret.take();
        *contents = Contents { secret, ..Contents::default() };
    }

    /// Runs a call under the lock.
    fn run<T: Send + 'static>(&self, call: impl FnOnce(&mut Contents) -> T) -> BoxFuture<Result<T, Error>> {
        let answer = call(&mut self.shared.lock());
        Box::pin(std::future::ready(Ok(answer)))
    }
}

impl ByteStore for MemoryBytes {
    fn get_many(&self, names: Vec<String>) -> BoxFuture<Result<Vec<Option<Bytes>>, Error>> {
        let now = runtime_now();
        self.run(|contents| {
            let value = |name| contents.values.get(name).filter(|(_, until)| now < *until);
            names.iter().map(|name| value(name).map(|(value, _)| value.clone())).collect()
        })
    }

    fn put(&self, name: String, value: Bytes, ttl: Duration) -> BoxFuture<Result<bool, Error>> {
        let now = runtime_now();
        self.run(|contents| {
            let old = contents.values.get(&name).filter(|(_, until)| now < *until);
            let stored = old.is_none_or(|(old, _)| may_replace(old, &value));
            if stored {
                contents.values.insert(name, (value, now + ttl));
            }
            stored
        })
    }

    fn remove(&self, names: Vec<String>) -> BoxFuture<Result<u64, Error>> {
        self.run(|contents| names.iter().filter(|name| contents.values.remove(*name).is_some()).count() as u64)
    }

    fn claim(&self, lease: Lease<String>) -> BoxFuture<Result<LeaseState, Error>> {
        let now = runtime_now();
        self.run(|contents| contents.claim(lease, now))
    }

    fn release(&self, lease: Lease<String>, uncacheable: Option<Duration>) -> BoxFuture<Result<(), Error>> {
        let now = runtime_now();
        self.run(|contents| {
            if contents.leases.get(&lease.name).is_some_and(|(token, _)| *token == Some(lease.token)) {
                match uncacheable {
                    Some(span) => contents.leases.insert(lease.name, (None, now + span)),
                    None => contents.leases.remove(&lease.name),
                };
            }
        })
    }

    fn get_or_claim(&self, name: String, lease: Lease<String>) -> BoxFuture<Result<GetOrClaim<Bytes>, Error>> {
        let now = runtime_now();
        self.run(|contents| match contents.values.get(&name).filter(|(_, until)| now < *until) {
            Some((value, _)) => GetOrClaim::Found(value.clone()),
            None => GetOrClaim::Missing(Some(contents.claim(lease, now))),
        })
    }

    fn scan(&self, prefix: String, _cursor: Option<String>) -> BoxFuture<Result<ScanPage, Error>> {
        self.run(|contents| {
            let matching = contents.values.iter().filter(|(name, _)| name.starts_with(&prefix));
            ScanPage::new(matching.map(|(name, (value, _))| (name.clone(), value.clone())).collect(), None)
        })
    }

    fn log(&self) -> Option<&dyn ByteLog> {
        self.log.then_some(self)
    }
}

impl ByteLog for MemoryBytes {
    fn now(&self) -> BoxFuture<Result<u64, Error>> {
        let wall = Clock::System.wall().duration_since(std::time::UNIX_EPOCH).map_or(0, nanos);
        Box::pin(std::future::ready(Ok(wall)))
    }

    fn agree(&self, proposed: String) -> BoxFuture<Result<String, Error>> {
        self.run(|contents| contents.secret.get_or_insert(proposed).clone())
    }

    fn append(&self, first: Bytes, record: Bytes) -> BoxFuture<Result<u64, Error>> {
        let messages = self.messages.clone();
        self.run(move |contents| {
            if contents.log.is_empty() {
                contents.log.push((start(), first));
            }
            let position = contents.log.last().map_or(0, |(last, _)| *last) + 1;
            contents.log.push((position, record.clone()));
            // Without subscribers it is read in the log.
            let _ = messages.send(LogMessage::Record(position, record));
            position
        })
    }

    fn read(&self, from: Option<u64>) -> BoxFuture<Result<Vec<(u64, Bytes)>, Error>> {
        let from = from.unwrap_or(0);
        self.run(|contents| contents.log.iter().filter(|(position, _)| *position >= from).cloned().collect())
    }

    fn restart(&self, first: Bytes, known: u64) -> BoxFuture<Result<(), Error>> {
        self.run(|contents| {
            if contents.log.last().is_none_or(|(last, _)| *last < known) {
                contents.log = vec![(start().max(known + 1), first)];
            }
        })
    }

    fn publish_removal(&self, key: Bytes) -> BoxFuture<Result<(), Error>> {
        let _ = self.messages.send(LogMessage::Removal(key));
        Box::pin(std::future::ready(Ok(())))
    }

    fn subscribe(&self) -> BoxFuture<Result<BoxStream<'static, LogMessage>, Error>> {
        let messages = stream::unfold(self.messages.subscribe(), async |mut messages| {
            // A subscriber that lags reads the log.
            let message = messages.recv().await.unwrap_or(LogMessage::Unknown);
            Some((message, messages))
        });
        Box::pin(std::future::ready(Ok(messages.boxed())))
    }
}

/// Position of a log that starts now.
fn start() -> u64 {
    Clock::System.wall().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| nanos(since) / 1_000)
}
