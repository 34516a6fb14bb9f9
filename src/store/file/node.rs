//! [`Node`]: an open directory. [`Threads`]: what writes its files.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use super::directory::Directory;
use super::failure::Failure;
use super::journal::Journal;
use super::segment_log::SegmentLog;
use crate::base::clock::nanos;
use crate::base::lock::Mutex;

/// How long closing waits for what is buffered to be written.
const CLOSING: Duration = Duration::from_secs(1);

/// Open directory, with the lock or without.
pub(super) struct Node {
    pub(super) directory: Arc<Directory>,
    pub(super) journal: Journal,
    /// The values; `None` without the lock.
    pub(super) log: Option<Arc<SegmentLog>>,
    pub(super) failure: Arc<Failure>,
    pub(super) threads: Threads,
}

impl Node {
    pub(super) fn new(
        directory: Arc<Directory>,
        journal: Journal,
        log: Option<Arc<SegmentLog>>,
        failure: Arc<Failure>,
    ) -> Self {
        Self { directory, journal, log, failure, threads: Threads::new() }
    }

    /// Switches the level off after an I/O error.
    pub(super) fn fail(&self, error: &io::Error) {
        match &self.log {
            Some(log) => self.directory.failed(&log.checkpoint, &self.failure, error, false),
            None => self.failure.set(format!("{}: {error}", self.directory.path().display())),
        }
    }

    /// Returns the position at which an invalidation log begins. One of a process without the lock begins below all others:
    /// the process goes over to that of the directory later, which must not begin anew for it.
    pub(super) fn log_start(&self) -> u64 {
        if self.log.is_some() { self.wall_nanos() / 1_000 } else { 1 }
    }

    /// Returns the wall-clock time in nanoseconds since 1970.
    pub(super) fn wall_nanos(&self) -> u64 {
        self.directory.level.clock.wall().duration_since(std::time::UNIX_EPOCH).map_or(0, nanos)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.threads.stop.store(true, Ordering::Release);
        if let Some(log) = &self.log {
            log.wake();
        }
        self.journal.close();
        self.threads.join();
    }
}

/// The threads of an open directory.
pub(super) struct Threads {
    stop: Arc<AtomicBool>,
    alive: Arc<()>,
    token: mpsc::Sender<()>,
    /// Disconnected when all threads have ended.
    ended: Mutex<mpsc::Receiver<()>>,
}

/// Held by a thread while it runs.
pub(super) struct ThreadToken {
    _alive: Arc<()>,
    _ended: mpsc::Sender<()>,
}

impl Threads {
    pub(super) fn new() -> Self {
        let (token, ended) = mpsc::channel();
        Self { stop: Arc::default(), alive: Arc::default(), token, ended: Mutex::new(ended) }
    }

    pub(super) fn token(&self) -> ThreadToken {
        ThreadToken { _alive: self.alive.clone(), _ended: self.token.clone() }
    }

    pub(super) fn stop(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Returns a reference that is alive while a thread runs.
    pub(super) fn alive(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }

    /// Waits until the threads have ended, for a second at most: a disk may hang.
    fn join(&mut self) {
        let (unused, _) = mpsc::channel();
        self.token = unused;
        let _ = self.ended.lock().recv_timeout(CLOSING);
    }
}
