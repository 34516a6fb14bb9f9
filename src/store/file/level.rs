//! [`FileLevel`]: directory and bounds of a file level.

use std::path::PathBuf;
use std::time::Duration;

use super::segment_log::LogSize;
use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::store::remote::MAX_TTL;

const MIB: u64 = 1 << 20;
/// Smallest bound of the bytes on disk.
const MIN_BOUND: u64 = 16 * MIB;
/// Number of segments, unless they would be too large.
const SEGMENTS: u64 = 32;
const MAX_SEGMENT: u64 = 1 << 30;
/// Deadline of a look-up.
const DEADLINE: Duration = Duration::from_millis(50);
/// Length of the longest entry, unless segments are shorter.
const MAX_ENTRY: usize = 8 << 20;
/// Bytes for the name of an entry.
const NAME: usize = 1 << 10;

/// Settings of a file level: cached responses and values in a directory, behind the memory of this process, so that they
/// survive a restart.
///
/// [`CacheBuilder::file`](crate::cache::CacheBuilder::file) and its siblings take directory and bound alone. A directory
/// serves one cache of one process at a time.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use tollgate::cache::CacheLayer;
/// use tollgate::store::RemoteStore;
/// use tollgate::store::file::FileLevel;
///
/// let level = FileLevel::new("/var/cache/app", 2 << 30).deadline(Duration::from_millis(20));
/// let layer = CacheLayer::builder().level_2(Arc::new(RemoteStore::file(level)?)).build()?;
/// # let _ = layer;
/// # Ok::<(), tollgate::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct FileLevel {
    pub(super) path: PathBuf,
    pub(super) bound: u64,
    pub(super) deadline: Duration,
    pub(super) max_ttl: Duration,
    pub(super) clock: Clock,
}

impl FileLevel {
    /// Creates the settings of a level in this directory, with at most `bound` bytes on disk (and a thirty-second part
    /// more for a moment). The directory is created when it is opened, for this user alone.
    ///
    /// ```
    /// use tollgate::store::file::FileLevel;
    ///
    /// let level = FileLevel::new("/var/cache/app", 2 << 30);
    /// # let _ = level;
    /// ```
    pub fn new(path: impl Into<PathBuf>, bound: u64) -> Self {
        Self { path: path.into(), bound, deadline: DEADLINE, max_ttl: MAX_TTL, clock: Clock::System }
    }

    /// Sets the deadline of a call, after which it is a miss. Defaults to 50 ms. Removals and invalidations wait half as
    /// long for the disk.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::store::file::FileLevel;
    ///
    /// let level = FileLevel::new("/var/cache/app", 2 << 30).deadline(Duration::from_millis(200));
    /// # let _ = level;
    /// ```
    pub const fn deadline(mut self, span: Duration) -> Self {
        self.deadline = span;
        self
    }

    /// Limits how long the directory keeps an entry; other levels may keep it for longer. Defaults to a year.
    ///
    /// ```
    /// use tollgate::store::file::FileLevel;
    ///
    /// let level = FileLevel::new("/var/cache/app", 2 << 30).max_ttl(std::time::Duration::from_secs(86_400));
    /// # let _ = level;
    /// ```
    pub const fn max_ttl(mut self, span: Duration) -> Self {
        self.max_ttl = span;
        self
    }

    /// Sets the clock, of which only the wall-clock time is used: entries written in its future are misses. Defaults to the
    /// operating system's.
    ///
    /// ```
    /// use tollgate::store::file::FileLevel;
    /// use tollgate::{Clock, ManualClock};
    ///
    /// let level = FileLevel::new("/var/cache/app", 2 << 30).clock(Clock::Manual(ManualClock::new()));
    /// # let _ = level;
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.path.as_os_str().is_empty() {
            return Err(Error::config("file level: the path is empty; name a directory"));
        }
        if self.bound < MIN_BOUND {
            return Err(Error::config(format!(
                "file level: a bound of {} bytes is too small; use at least {MIN_BOUND}",
                self.bound
            )));
        }
        Ok(())
    }

    pub(super) fn size(&self) -> LogSize {
        let segment_bytes = u32::try_from((self.bound / SEGMENTS).min(MAX_SEGMENT)).unwrap_or(u32::MAX);
        LogSize { bound: self.bound, segment_bytes, journal_bytes: self.journal_bytes() }
    }

    /// Length from which the journal is shortened.
    pub(super) fn journal_bytes(&self) -> u64 {
        (self.bound / 16).min(8 * MIB)
    }

    /// Bytes of invalidations that are kept.
    pub(super) fn max_log_bytes(&self) -> usize {
        usize::try_from(self.journal_bytes() / 4).unwrap_or(usize::MAX)
    }

    /// Length of the longest encoded entry.
    pub(super) fn max_entry(&self) -> usize {
        let segment = self.size().segment_bytes as usize;
        MAX_ENTRY.min(segment - segment / 8 - NAME)
    }
}
