//! [`FileBytes`]: a directory as a [`ByteStore`] with a [`ByteLog`].
//!
//! | operation | where it runs |
//! |---|---|
//! | look-up | in the calling task if nothing is stored under the names, else on the runtime's blocking threads |
//! | storing | in the calling task: it appends to memory |
//! | removal, invalidation | effective at once; the answer waits for the journal's sync |
//! | leases | all are granted: only one process uses the directory |

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::directory::Directory;
use super::journal::Durable;
use super::journal_record::JournalRecord;
use super::level::FileLevel;
use super::node::Node;
use super::record::hash;
use super::secret;
use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::{ByteLog, ByteStore, LogMessage, ScanPage};

/// Number of values per step of a scan.
const SCAN_STEP: usize = 256;
/// Number of bytes read from a value in a scan.
const HEAD_BYTES: usize = 8 * 1024;

/// Open directory of a [`FileLevel`]: bytes under names, and the log of invalidations. Clones share it; dropping the last
/// one writes what is buffered, for a second at most.
///
/// [`RemoteStore::file`](crate::store::RemoteStore::file) opens one in the background and again after a failure, and is
/// what a cache uses.
///
/// ```
/// use tollgate::cache::ByteStore;
/// use tollgate::store::file::{FileBytes, FileLevel};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// # let directory = std::env::temp_dir().join(format!("tollgate-doc-bytes-{}", std::process::id()));
/// let bytes = FileBytes::open(FileLevel::new(&directory, 64 << 20))?;
/// bytes.put("name".into(), "value".into(), std::time::Duration::from_secs(60)).await?;
/// assert_eq!(bytes.get_many(vec!["name".into()]).await?, [Some("value".into())]);
/// # drop(bytes);
/// # std::fs::remove_dir_all(directory).unwrap();
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FileBytes {
    node: Arc<Node>,
}

impl FileBytes {
    /// Opens a directory, and creates it if it does not exist. Blocks: about 0.2 s for a million entries.
    ///
    /// # Errors
    /// If a setting is invalid, or the directory cannot be read and written. A directory that another process uses is
    /// opened without its lock: look-ups find nothing, and puts are dropped.
    ///
    /// # Examples
    /// ```
    /// use tollgate::store::file::{FileBytes, FileLevel};
    ///
    /// let error = FileBytes::open(FileLevel::new("/proc/nowhere", 64 << 20)).unwrap_err();
    /// assert!(error.to_string().contains("/proc/nowhere"));
    /// ```
    pub fn open(level: FileLevel) -> Result<Self, Error> {
        level.check()?;
        Self::open_directory(&Arc::new(Directory::new(level)))
    }

    pub(super) fn open_directory(directory: &Arc<Directory>) -> Result<Self, Error> {
        directory.open().map(|node| Self { node })
    }

    /// Returns whether this process holds the lock of the directory.
    ///
    /// ```
    /// use tollgate::store::file::{FileBytes, FileLevel};
    /// # let directory = std::env::temp_dir().join(format!("tollgate-doc-lock-{}", std::process::id()));
    ///
    /// let level = FileLevel::new(&directory, 64 << 20);
    /// let (first, second) = (FileBytes::open(level.clone())?, FileBytes::open(level)?);
    /// assert!(first.has_lock() && !second.has_lock());
    /// # drop((first, second));
    /// # std::fs::remove_dir_all(directory).unwrap();
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn has_lock(&self) -> bool {
        self.node.log.is_some()
    }

    /// Returns the value under a name, as [`get_many`](ByteStore::get_many) does, on this thread: blocks for the disk.
    ///
    /// # Errors
    /// If the directory has failed.
    ///
    /// # Examples
    /// ```
    /// use tollgate::store::file::{FileBytes, FileLevel};
    /// # let directory = std::env::temp_dir().join(format!("tollgate-doc-value-{}", std::process::id()));
    ///
    /// let bytes = FileBytes::open(FileLevel::new(&directory, 64 << 20))?;
    /// assert_eq!(bytes.value("any")?, None);
    /// # drop(bytes);
    /// # std::fs::remove_dir_all(directory).unwrap();
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn value(&self, name: &str) -> Result<Option<Bytes>, Error> {
        self.node.failure.check()?;
        let Some(log) = &self.node.log else { return Ok(None) };
        log.get(name).map_err(|error| self.failed(error))
    }

    /// Returns what `ready` does, unless the directory has failed.
    fn run<T: Send + 'static>(&self, ready: impl FnOnce(&Node) -> io::Result<T>) -> BoxFuture<Result<T, Error>> {
        let result = self.node.failure.check().and_then(|()| ready(&self.node).map_err(|error| self.failed(error)));
        Box::pin(std::future::ready(result))
    }

    /// Runs `blocking` on a thread that may block, unless the directory has failed.
    fn run_blocking<T: Send + 'static>(
        &self,
        blocking: impl FnOnce(&Node) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<Result<T, Error>> {
        let this = self.clone();
        Box::pin(async move {
            this.node.failure.check()?;
            let node = this.node.clone();
            let result = spawn_blocking(move || blocking(&node)).await;
            let result = result.map_err(|panic| Error::store("reading a file panicked", panic))?;
            result.map_err(|error| this.failed(error))
        })
    }

    /// Waits for the journal, half as long as a call may take.
    async fn durable(&self, durable: Durable) -> Result<(), Error> {
        let path = self.node.directory.path().display();
        match timeout(self.node.directory.level.deadline / 2, durable).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => {
                self.node.failure.check()?;
                Err(Error::disconnected(format!("{path} is closed")))
            }
            Err(_) => Err(Error::store(format!("{path} syncs slowly: the removal is not on disk yet"), "timeout")),
        }
    }

    /// Switches the level off after an I/O error.
    fn failed(&self, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::InvalidInput {
            return Error::store(format!("cannot store in {}: {error}", self.node.directory.path().display()), error);
        }
        self.node.fail(&error);
        self.node.failure.check().err().unwrap_or_else(|| Error::disconnected(error))
    }
}

impl ByteStore for FileBytes {
    fn get_many(&self, names: Vec<String>) -> BoxFuture<Result<Vec<Option<Bytes>>, Error>> {
        match &self.node.log {
            Some(log) if names.iter().any(|name| log.may_contain(name)) => {
                let log = log.clone();
                self.run_blocking(move |_| names.iter().map(|name| log.get(name)).collect())
            }
            _ => self.run(|_| Ok(vec![None; names.len()])),
        }
    }

    fn put(&self, name: String, value: Bytes, ttl: Duration) -> BoxFuture<Result<bool, Error>> {
        self.run(|node| node.log.as_ref().map_or(Ok(true), |log| log.put(&name, &value, ttl)))
    }

    fn remove(&self, names: Vec<String>) -> BoxFuture<Result<u64, Error>> {
        let this = self.clone();
        Box::pin(async move {
            this.node.failure.check()?;
            let hashes: Vec<u64> = names.iter().map(|name| hash(name)).collect();
            let (count, removals) = match &this.node.log {
                Some(log) => log.remove(&hashes),
                None => (0, hashes.into_iter().map(|hash| (hash, super::index::Position::default())).collect()),
            };
            let records = removals.into_iter().map(|(hash, before)| JournalRecord::Removal { hash, before });
            this.durable(this.node.journal.commit(records)).await?;
            Ok(count)
        })
    }

    fn scan(&self, prefix: String, cursor: Option<String>) -> BoxFuture<Result<ScanPage, Error>> {
        let Some(log) = self.node.log.clone() else { return self.run(|_| Ok(ScanPage::default())) };
        self.run_blocking(move |_| {
            let (shard, after) = cursor.as_deref().and_then(parse_cursor).unwrap_or((0, None));
            let Some(mut hashes) = log.index.shard_hashes(shard) else { return Ok(ScanPage::default()) };
            hashes.retain(|hash| after.is_none_or(|after| *hash > after));
            hashes.sort_unstable();
            let next = match hashes.get(SCAN_STEP) {
                Some(_) => format!("{shard}:{}", hashes[SCAN_STEP - 1]),
                None => format!("{}", shard + 1),
            };
            hashes.truncate(SCAN_STEP);
            let mut heads = Vec::with_capacity(hashes.len());
            for hash in hashes {
                heads.extend(log.beginning(hash, HEAD_BYTES)?.filter(|(name, _)| name.starts_with(&prefix)));
            }
            let more = log.index.shard_hashes(shard + 1).is_some() || next.contains(':');
            Ok(ScanPage::new(heads, more.then_some(next)))
        })
    }

    fn log(&self) -> Option<&dyn ByteLog> {
        Some(self)
    }
}

/// Parses a cursor: a shard of the index, and the last hash read in it.
fn parse_cursor(cursor: &str) -> Option<(usize, Option<u64>)> {
    match cursor.split_once(':') {
        Some((shard, hash)) => Some((shard.parse().ok()?, Some(hash.parse().ok()?))),
        None => Some((cursor.parse().ok()?, None)),
    }
}

impl ByteLog for FileBytes {
    fn now(&self) -> BoxFuture<Result<u64, Error>> {
        self.run(|node| Ok(node.wall_nanos()))
    }

    fn agree(&self, proposed: String) -> BoxFuture<Result<String, Error>> {
        self.run_blocking(move |node| secret::agree(node.directory.path(), &proposed))
    }

    fn append(&self, first: Bytes, record: Bytes) -> BoxFuture<Result<u64, Error>> {
        let this = self.clone();
        Box::pin(async move {
            this.node.failure.check()?;
            let (position, durable) = this.node.journal.append(first, record, this.node.log_start());
            this.durable(durable).await.map(|()| position)
        })
    }

    /// Also takes the lock of the directory when it has become free.
    fn read(&self, from: Option<u64>) -> BoxFuture<Result<Vec<(u64, Bytes)>, Error>> {
        let this = self.clone();
        self.run_blocking(move |node| match &node.log {
            Some(log) => {
                // Invalidations that waited for the directory are in the journal now.
                log.checkpoint.publish()?;
                Ok(this.node.journal.state().read(from.unwrap_or(0)))
            }
            None if node.directory.take_lock()? => Err(io::Error::other("its lock is free: opening it again")),
            None => Ok(node.journal.state().read(from.unwrap_or(0))),
        })
    }

    fn restart(&self, first: Bytes, known: u64) -> BoxFuture<Result<(), Error>> {
        let this = self.clone();
        Box::pin(async move {
            this.node.failure.check()?;
            match this.node.journal.restart(first, known, this.node.log_start()) {
                Some(durable) => this.durable(durable).await,
                None => Ok(()),
            }
        })
    }

    fn publish_removal(&self, key: Bytes) -> BoxFuture<Result<(), Error>> {
        self.run(|node| {
            node.journal.publish(LogMessage::Removal(key));
            Ok(())
        })
    }

    fn subscribe(&self) -> BoxFuture<Result<BoxStream<'static, LogMessage>, Error>> {
        self.run(|node| {
            let messages = stream::unfold(node.journal.subscribe(), async |mut messages| {
                match messages.recv().await {
                    Ok(message) => Some((message, messages)),
                    // A subscriber that lags reads the log.
                    Err(RecvError::Lagged(_)) => Some((LogMessage::Unknown, messages)),
                    Err(RecvError::Closed) => None,
                }
            });
            Ok(messages.boxed())
        })
    }
}

impl fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBytes").field("level", &self.node.directory.level).finish_non_exhaustive()
    }
}
