//! A directory behind a [`RemoteStore`]: opened in the background, and again after a failure.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::bytes::FileBytes;
use super::directory::Directory;
use super::level::FileLevel;
use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::cache::ByteStore;
use crate::store::remote::{LogRank, RemoteSettings, RemoteStore};

/// Interval between attempts to open the directory.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of an attempt: a large directory is read, and a slow disk may have many entries.
const OPEN_TIMEOUT: Duration = Duration::from_secs(600);

impl RemoteStore {
    /// Creates a cache store in a directory, to be used behind a local memory; opens it in the background. While it cannot
    /// be used, look-ups are misses, and it is tried again every 5 s.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tollgate::cache::DataCache;
    /// use tollgate::store::RemoteStore;
    /// use tollgate::store::file::FileLevel;
    ///
    /// let store = RemoteStore::file(FileLevel::new("/var/cache/app", 2 << 30))?;
    /// let data = DataCache::builder().level_2(Arc::new(store)).build();
    /// # let _ = data;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the path is empty, the bound less than 16 MiB, or the deadline zero or over a minute.
    pub fn file(level: FileLevel) -> Result<Self, Error> {
        level.check()?;
        let settings = RemoteSettings::new("file").deadline(level.deadline).max_entry(level.max_entry());
        let settings = settings.dialling(RETRY_INTERVAL, OPEN_TIMEOUT).log_rank(LogRank::File);
        let settings = settings.max_ttl(level.max_ttl);
        let directory = Arc::new(Directory::new(level));
        let engine = directory.clone();
        let dial = move || -> BoxFuture<Result<Arc<dyn ByteStore>, Error>> {
            let directory = directory.clone();
            Box::pin(async move {
                let opened = spawn_blocking(move || FileBytes::open_directory(&directory)).await;
                let bytes = opened.map_err(|panic| Error::store("opening the directory panicked", panic))??;
                Ok(Arc::new(bytes) as Arc<dyn ByteStore>)
            })
        };
        Ok(Self::dialled(dial, true, settings)?.over(engine))
    }
}
