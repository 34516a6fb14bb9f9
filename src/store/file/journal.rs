//! [`Journal`]: removals and invalidations, on disk before they are acknowledged.
//!
//! One thread writes and syncs what was committed meanwhile, at most once in 5 ms; a record that comes alone is written at
//! once. It is a thread apart from the writer of segments, so that no removal waits for a segment to be synced.
//!
//! The journal is replaced by a shorter one when it is long; the checkpoint names both until the rename is on disk.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{broadcast, oneshot};

use super::checkpoint::{Checkpoint, SyncedJournal};
use super::disk;
use super::journal_record::{JournalRecord, JournalState, SYNCED_OFFSET, encode_synced};
use crate::base::clock::Clock;
use crate::base::lock::Mutex;
use crate::base::random::random;
use crate::cache::LogMessage;

/// Minimum interval between two syncs.
const SYNC_INTERVAL: Duration = Duration::from_millis(5);
/// Interval of waking without work.
const IDLE: Duration = Duration::from_secs(1);

/// Prefix of the names of journals of processes without the lock.
pub(super) const OTHER_JOURNAL: &str = "journal-";
/// Interval of looking whether a flush is complete, where opening a directory blocks.
const FLUSH_POLL: Duration = Duration::from_millis(1);

/// Notification that a record is on disk; an error if it will not be.
pub(super) type Durable = oneshot::Receiver<()>;

/// File of a journal.
pub(super) struct JournalFile {
    pub(super) path: PathBuf,
    pub(super) id: u64,
    pub(super) length: u64,
    pub(super) file: File,
}

impl JournalFile {
    /// Writes a journal with this state, in place of an existing one. Without a checkpoint it is locked, and names its
    /// synced length itself.
    pub(super) fn create(path: PathBuf, state: &JournalState, checkpoint: Option<&Checkpoint>) -> io::Result<Self> {
        let id = random();
        let contents = state.encode(id);
        let temporary = path.with_extension("new");
        let file = disk::create(&temporary)?;
        if checkpoint.is_none() {
            file.try_lock()?;
        }
        disk::write_all_at(&file, &contents, 0)?;
        file.sync_all()?;
        let synced = SyncedJournal { id, length: contents.len() as u64 };
        if let Some(checkpoint) = checkpoint {
            checkpoint.update(|files| files.journals[1] = synced)?;
            checkpoint.sync()?;
        }
        fs::rename(&temporary, &path)?;
        if let Some(directory) = path.parent() {
            disk::sync_directory(directory)?;
        }
        if let Some(checkpoint) = checkpoint {
            checkpoint.update(|files| files.journals = [synced, SyncedJournal::default()])?;
        }
        Ok(Self { path, id, length: synced.length, file })
    }

    /// Creates an empty journal of a process without the lock.
    pub(super) fn create_other(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!("{OTHER_JOURNAL}{:016x}", random()));
        Self::create(path, &JournalState::default(), None)
    }

    fn append(&mut self, records: &[JournalRecord], checkpoint: Option<&Checkpoint>) -> io::Result<()> {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        disk::write_all_at(&self.file, &bytes, self.length)?;
        self.file.sync_data()?;
        self.length += bytes.len() as u64;
        let synced = SyncedJournal { id: self.id, length: self.length };
        match checkpoint {
            Some(checkpoint) => checkpoint.update(|files| files.journals[0] = synced),
            None => disk::write_all_at(&self.file, &encode_synced(self.length), SYNCED_OFFSET as u64),
        }
    }
}

/// Journal of one process. Clones share it.
#[derive(Clone)]
pub(super) struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// State of the records that are on disk.
    state: Mutex<JournalState>,
    messages: broadcast::Sender<LogMessage>,
    thread: OnceLock<Thread>,
    length: AtomicU64,
}

#[derive(Default)]
struct Queue {
    records: Vec<JournalRecord>,
    waiting: Vec<oneshot::Sender<()>>,
    /// Position of the last record of the invalidation log, on disk or not; 0 for none.
    last: u64,
    /// Whether records that were taken are not on disk yet.
    is_writing: bool,
    /// No more records are accepted.
    closed: bool,
}

/// Settings of a journal's thread.
pub(super) struct JournalHooks {
    pub(super) checkpoint: Option<Arc<Checkpoint>>,
    /// Called before the thread ends because of an error.
    pub(super) failed: Box<dyn Fn(io::Error) + Send>,
    /// Length from which the journal is replaced by a shorter one.
    pub(super) max_length: u64,
}

impl Journal {
    /// Creates a journal with this state; [`run`](Self::run) writes it.
    pub(super) fn new(state: JournalState) -> Self {
        let queue = Queue { last: state.last(), ..Queue::default() };
        let shared = Shared {
            queue: Mutex::new(queue),
            state: Mutex::new(state),
            messages: broadcast::Sender::new(1_024),
            thread: OnceLock::new(),
            length: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Commits records; they are on disk when the answer comes.
    pub(super) fn commit(&self, records: impl IntoIterator<Item = JournalRecord>) -> Durable {
        let mut queue = self.shared.queue.lock();
        queue.records.extend(records);
        self.wake(queue)
    }

    /// Appends a record to the invalidation log; returns its position. Starts the log with `first` at `start` if there is
    /// none.
    pub(super) fn append(&self, first: Bytes, record: Bytes, start: u64) -> (u64, Durable) {
        let mut queue = self.shared.queue.lock();
        if queue.last == 0 {
            queue.last = start;
            queue.records.push(JournalRecord::Restart { position: start, record: first });
        }
        self.append_next(queue, record)
    }

    /// Appends a record to the invalidation log, if there is one.
    pub(super) fn append_existing(&self, record: Bytes) {
        let queue = self.shared.queue.lock();
        if queue.last > 0 {
            drop(self.append_next(queue, record));
        }
    }

    fn append_next(&self, mut queue: MutexGuard<'_, Queue>, record: Bytes) -> (u64, Durable) {
        queue.last += 1;
        let position = queue.last;
        queue.records.push(JournalRecord::Log { position, record });
        (position, self.wake(queue))
    }

    /// Starts a new invalidation log with `first` if there is none, or if it ends before `known`.
    pub(super) fn restart(&self, first: Bytes, known: u64, start: u64) -> Option<Durable> {
        let mut queue = self.shared.queue.lock();
        if queue.last > 0 && queue.last >= known {
            return None;
        }
        let position = start.max(known + 1);
        queue.last = position;
        queue.records.push(JournalRecord::Restart { position, record: first });
        Some(self.wake(queue))
    }

    /// Publishes a message to the subscribers in this process.
    pub(super) fn publish(&self, message: LogMessage) {
        // Without subscribers it is read in the log.
        let _ = self.shared.messages.send(message);
    }

    /// Blocks until what was committed is on disk.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut durable = self.commit([]);
        loop {
            match durable.try_recv() {
                Ok(()) => return Ok(()),
                Err(TryRecvError::Empty) => thread::sleep(FLUSH_POLL),
                Err(TryRecvError::Closed) => return Err(io::Error::other("the journal is closed")),
            }
        }
    }

    /// Lets the thread end when everything is written.
    pub(super) fn close(&self) {
        self.shared.queue.lock().closed = true;
        self.unpark();
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<LogMessage> {
        self.shared.messages.subscribe()
    }

    /// Returns the state of the records that are on disk.
    pub(super) fn state(&self) -> MutexGuard<'_, JournalState> {
        self.shared.state.lock()
    }

    /// Returns the length of the file.
    pub(super) fn length(&self) -> u64 {
        self.shared.length.load(Ordering::Relaxed)
    }

    /// Returns whether everything committed is on disk.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.shared.queue.lock();
        queue.records.is_empty() && !queue.is_writing
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>) -> Durable {
        let (sender, receiver) = oneshot::channel();
        if queue.closed {
            queue.records.clear();
        } else {
            queue.waiting.push(sender);
        }
        drop(queue);
        self.unpark();
        receiver
    }

    fn unpark(&self) {
        if let Some(thread) = self.shared.thread.get() {
            thread.unpark();
        }
    }

    /// Writes what is committed, until the journal is closed or a write fails.
    pub(super) fn run(&self, mut file: JournalFile, hooks: &JournalHooks) {
        let _ = self.shared.thread.set(thread::current());
        self.shared.length.store(file.length, Ordering::Relaxed);
        let mut max_length = hooks.max_length;
        loop {
            let (records, waiting, closed) = self.take();
            if records.is_empty() {
                waiting.into_iter().for_each(acknowledge);
                if closed {
                    return;
                }
                thread::park_timeout(IDLE);
                continue;
            }
            let began = Clock::System.now();
            if let Err(error) = file.append(&records, hooks.checkpoint.as_deref()) {
                self.shared.queue.lock().closed = true;
                (hooks.failed)(error);
                // Those who wait get an error.
                drop((self.take(), waiting));
                return;
            }
            self.synced(records, waiting, hooks.checkpoint.is_some());
            if file.length > max_length {
                self.shorten(&mut file, hooks);
                max_length = hooks.max_length.max(file.length * 2);
            }
            self.shared.length.store(file.length, Ordering::Relaxed);
            let rest = SYNC_INTERVAL.saturating_sub(Clock::System.now().since(began));
            if !rest.is_zero() && !closed {
                thread::sleep(rest);
            }
        }
    }

    fn take(&self) -> (Vec<JournalRecord>, Vec<oneshot::Sender<()>>, bool) {
        let mut queue = self.shared.queue.lock();
        queue.is_writing = !queue.records.is_empty();
        (std::mem::take(&mut queue.records), std::mem::take(&mut queue.waiting), queue.closed)
    }

    /// Applies and publishes records that are on disk.
    fn synced(&self, records: Vec<JournalRecord>, waiting: Vec<oneshot::Sender<()>>, keeps_removals: bool) {
        let mut state = self.state();
        let applies = |record: &&JournalRecord| keeps_removals || !matches!(record, JournalRecord::Removal { .. });
        records.iter().filter(applies).for_each(|record| state.apply(record));
        drop(state);
        for record in records {
            if let JournalRecord::Log { position, record } = record {
                self.publish(LogMessage::Record(position, record));
            }
        }
        waiting.into_iter().for_each(acknowledge);
    }

    /// Replaces a long journal. If that fails, the long one remains.
    fn shorten(&self, file: &mut JournalFile, hooks: &JournalHooks) {
        let shorter = match (&hooks.checkpoint, file.path.parent()) {
            (Some(checkpoint), _) => JournalFile::create(file.path.clone(), &self.state(), Some(checkpoint)),
            // The holder of the lock applies and deletes the long one, which this process does not hold any more.
            (None, Some(directory)) => JournalFile::create_other(directory),
            (None, None) => return,
        };
        if let Ok(shorter) = shorter {
            *file = shorter;
        }
    }
}

fn acknowledge(waiting: oneshot::Sender<()>) {
    // The caller may have left.
    let _ = waiting.send(());
}
