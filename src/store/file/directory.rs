//! [`Directory`]: opens the files of a level, with the lock or without, and again after a failure.
//!
//! | the process | reads and stores | removals and invalidations |
//! |---|---|---|
//! | holds the lock | yes | to `journal` |
//! | does not | no: every look-up is a miss, puts are dropped | to a journal of its own, which the holder of the lock applies within a second |
//!
//! After a failed write nothing is read or stored until the directory is opened again. If removals may have been lost, it is
//! emptied first.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use super::absorb::{self, Absorber};
use super::checkpoint::{Checkpoint, SyncedFiles, SyncedJournal};
use super::disk;
use super::failure::Failure;
use super::index::Position;
use super::journal::{Journal, JournalFile, JournalHooks};
use super::journal_record::{JOURNAL_HEADER, JournalState, decode_header, decode_records};
use super::level::FileLevel;
use super::node::Node;
use super::record::RecordHead;
use super::recovery::{self, Recovered};
use super::segment_log::{LogCounters, SegmentLog};
use super::writer::SegmentWriter;
use crate::base::error::Error;
use crate::base::event::{Events, Once};
use crate::base::lock::Mutex;
use crate::cache::LevelStats;
use crate::store::remote::LocalEngine;

const JOURNAL: &str = "journal";
const LOCK: &str = "lock";
/// Bytes that must be free: a level on a full disk would be switched on and off again and again.
const ROOM: usize = 128 << 10;

/// Directory of a file level, open or not.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) level: FileLevel,
    /// The lock, once this process has it.
    lock: Mutex<Option<File>>,
    opening: Mutex<()>,
    /// The checkpoint of the last opening, after a failure that lost no removal. The next opening trusts it.
    trusted: Mutex<Option<Arc<Checkpoint>>>,
    /// Whether everything has to be discarded first.
    must_discard: AtomicBool,
    current: Mutex<Weak<Node>>,
    threads: Mutex<Weak<()>>,
    counters: Arc<LogCounters>,
    events: Mutex<Option<Events>>,
    warned: Once,
}

/// Contents of a directory when it is opened.
struct FoundFiles {
    synced: SyncedFiles,
    state: JournalState,
    recovered: Recovered,
}

impl Directory {
    pub(super) fn new(level: FileLevel) -> Self {
        Self {
            level,
            lock: Mutex::default(),
            opening: Mutex::default(),
            trusted: Mutex::default(),
            must_discard: AtomicBool::new(false),
            current: Mutex::default(),
            threads: Mutex::default(),
            counters: Arc::default(),
            events: Mutex::default(),
            warned: Once::new(),
        }
    }

    /// Opens the files, with the lock if it is free. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be read and written, or is being opened already.
    pub(super) fn open(self: &Arc<Self>) -> Result<Arc<Node>, Error> {
        let path = self.path().display();
        let Some(_opening) = self.opening.try_lock() else {
            return Err(Error::store(format!("{path} is being opened"), "busy"));
        };
        if self.threads.lock().strong_count() > 0 {
            return Err(Error::store(format!("{path} is being closed"), "busy"));
        }
        let opened = disk::create_directory(self.path()).and_then(|()| self.take_lock());
        let opened = opened.and_then(|is_locked| if is_locked { self.open_locked() } else { self.open_unlocked() });
        let node = opened.map_err(|error| Error::store(format!("cannot use {path}: {error}"), error))?;
        *self.current.lock() = Arc::downgrade(&node);
        if node.log.is_none() {
            self.warn_of_lock();
        }
        Ok(node)
    }

    pub(super) fn path(&self) -> &Path {
        &self.level.path
    }

    /// Takes the lock if it is free; returns whether this process has it.
    pub(super) fn take_lock(&self) -> io::Result<bool> {
        let mut lock = self.lock.lock();
        if lock.is_some() {
            return Ok(true);
        }
        let file = disk::open_or_create(&self.path().join(LOCK))?;
        match file.try_lock() {
            Ok(()) => {
                *lock = Some(file);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn open_locked(self: &Arc<Self>) -> io::Result<Arc<Node>> {
        let FoundFiles { synced, state, recovered } = self.find()?;
        disk::check_room(self.path(), ROOM)?;
        let unsynced: Vec<u64> = state.removals().map(|(hash, _)| *hash).collect();
        let checkpoint = Arc::new(Checkpoint::new(self.path().to_owned(), synced));
        match &mut *self.trusted.lock() {
            Some(trusted) => *trusted = checkpoint.clone(),
            None => checkpoint.publish()?,
        }
        let file = JournalFile::create(self.path().join(JOURNAL), &state, Some(&checkpoint))?;
        let log = self.log(recovered, checkpoint.clone());
        // Their own records may have been in a tail that was cut. A later value hides the removed ones as well.
        let now = log.now();
        for hash in unsynced.into_iter().filter(|hash| log.index.get(*hash).is_none()) {
            log.tail.lock().append_always(&RecordHead::removal(hash, now), &[], &[]);
        }
        let failure = log.failure.clone();
        let node = Arc::new(Node::new(self.clone(), Journal::new(state), Some(log.clone()), failure));
        *self.threads.lock() = node.threads.alive();
        let directory = self.clone();
        let (failing, max_length) = (log.clone(), self.level.journal_bytes());
        let failed = move |error| directory.failed(&failing.checkpoint, &failing.failure, &error, true);
        start_journal(
            &node,
            file,
            JournalHooks { checkpoint: Some(checkpoint), failed: Box::new(failed), max_length },
        )?;
        let mut absorber = Absorber::default();
        absorber.run(&log, &node.journal).inspect_err(|error| self.discards_after(error))?;
        // Before anyone reads the log: what others invalidated is part of it.
        node.journal.flush()?;
        self.start_writer(&node, &log, absorber)?;
        *self.trusted.lock() = None;
        Ok(node)
    }

    fn log(&self, recovered: Recovered, checkpoint: Arc<Checkpoint>) -> Arc<SegmentLog> {
        let (path, clock) = (self.path().to_owned(), self.level.clock.clone());
        let mut log = SegmentLog::new(path, self.level.size(), clock, recovered, checkpoint);
        log.counters = self.counters.clone();
        Arc::new(log)
    }

    fn open_unlocked(self: &Arc<Self>) -> io::Result<Arc<Node>> {
        let state = JournalState::new(self.level.max_log_bytes());
        let file = JournalFile::create_other(self.path())?;
        let failure = Arc::new(Failure::default());
        let node = Arc::new(Node::new(self.clone(), Journal::new(state), None, failure.clone()));
        *self.threads.lock() = node.threads.alive();
        let directory = self.clone();
        let failed = move |error: io::Error| {
            failure.set(format!("cannot write to {}: {error}", directory.path().display()));
            // The holder of the lock may miss a removal: the next process to open the directory discards it.
            let _ = disk::delete(&directory.path().join(super::checkpoint::CHECKPOINT));
        };
        let max_length = self.level.journal_bytes();
        start_journal(&node, file, JournalHooks { checkpoint: None, failed: Box::new(failed), max_length })?;
        Ok(node)
    }

    /// Reads what is there; discards it if it cannot be trusted.
    fn find(&self) -> io::Result<FoundFiles> {
        let must_discard = self.must_discard.load(Ordering::Acquire);
        let trusted = self.trusted.lock().as_ref().map(|checkpoint| checkpoint.synced());
        let trusted = trusted.or_else(|| Checkpoint::load(self.path()));
        let found = trusted.filter(|_| !must_discard).and_then(|synced| self.read_journal(synced));
        let Some((synced, state)) = found else {
            self.discard()?;
            self.must_discard.store(false, Ordering::Release);
            let state = JournalState::new(self.level.max_log_bytes());
            return Ok(FoundFiles { synced: SyncedFiles::default(), state, recovered: Recovered::empty() });
        };
        let mut removed: HashMap<u64, Position> = HashMap::new();
        for (hash, before) in state.removals() {
            let latest = removed.entry(*hash).or_default();
            *latest = (*latest).max(*before);
        }
        let recovered = recovery::recover(self.path(), &synced, &removed)?;
        self.counters.unreadable.fetch_add(recovered.skipped + recovered.damaged, Ordering::Relaxed);
        Ok(FoundFiles { synced, state, recovered })
    }

    /// Reads the journal; `None` if it is damaged. From now on the checkpoint names it first, and can name the next one.
    fn read_journal(&self, synced: SyncedFiles) -> Option<(SyncedFiles, JournalState)> {
        let bytes = fs::read(self.path().join(JOURNAL)).ok()?;
        let (id, _) = decode_header(&bytes)?;
        let (records, end) = decode_records(&bytes, JOURNAL_HEADER);
        let journal = *synced.journals.iter().find(|journal| journal.id == id && end as u64 >= journal.length)?;
        let mut state = JournalState::new(self.level.max_log_bytes());
        records.iter().for_each(|record| state.apply(record));
        Some((SyncedFiles { journals: [journal, SyncedJournal::default()], ..synced }, state))
    }

    /// Deletes all segments, and the journals that say what was removed from them.
    fn discard(&self) -> io::Result<()> {
        let segments = super::segments::Segment::list(self.path())?.len() as u64;
        self.counters.unreadable.fetch_add(segments, Ordering::Relaxed);
        recovery::discard(self.path())?;
        absorb::discard(self.path())?;
        disk::delete(&self.path().join(JOURNAL))?;
        *self.trusted.lock() = None;
        disk::sync_directory(self.path())
    }

    /// Closes the directory after an error; `discards` if removals may be lost.
    pub(super) fn failed(&self, checkpoint: &Arc<Checkpoint>, failure: &Failure, error: &io::Error, discards: bool) {
        failure.set(format!("cannot use {}: {error}", self.path().display()));
        // A process that opens the directory after this one has ended discards it: invalidations wait in memory meanwhile.
        let revoked = checkpoint.revoke();
        if !discards {
            *self.trusted.lock() = Some(checkpoint.clone());
            return;
        }
        self.must_discard.store(true, Ordering::Release);
        if revoked.is_err() {
            // The checkpoint cannot be deleted, so what it vouches for is. Nothing helps if neither can be.
            let _ = recovery::discard(self.path());
        }
    }

    /// Warns once that another process holds the lock, if there is a receiver.
    fn warn_of_lock(&self) {
        let Some(events) = self.events.lock().clone() else { return };
        let path = self.path().display();
        let message = format!(
            "another process, or another cache of this one, uses {path}: the file level is off until it ends; give each \
             cache a directory of its own"
        );
        events.warn_once(&self.warned, "locked-directory", &message);
    }

    /// A journal that cannot be read may have removed anything.
    fn discards_after(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::InvalidData {
            self.must_discard.store(true, Ordering::Release);
        }
    }

    fn start_writer(
        self: &Arc<Self>,
        node: &Arc<Node>,
        log: &Arc<SegmentLog>,
        mut absorber: Absorber,
    ) -> io::Result<()> {
        let (directory, log, journal) = (self.clone(), log.clone(), node.journal.clone());
        let (stop, token) = (node.threads.stop(), node.threads.token());
        let run = move || {
            let each_second = || {
                journal.state().forget_removals(log.checkpoint.synced().segment);
                if let Err(error) = absorber.run(&log, &journal) {
                    let discards = error.kind() == io::ErrorKind::InvalidData;
                    directory.failed(&log.checkpoint, &log.failure, &error, discards);
                }
            };
            if let Err(error) = SegmentWriter::new(log.clone()).run(&stop, each_second) {
                directory.failed(&log.checkpoint, &log.failure, &error, false);
            }
            // The lock is free when the token is dropped.
            drop((directory, log, journal));
            drop(token);
        };
        thread::Builder::new().name("tollgate-file".to_owned()).spawn(run).map(drop)
    }
}

impl LocalEngine for Directory {
    fn report(&self, stats: &mut LevelStats) {
        stats.capacity_bytes = self.level.bound;
        stats.dropped = self.counters.dropped.load(Ordering::Relaxed);
        stats.decode_errors += self.counters.unreadable.load(Ordering::Relaxed);
        let node = self.current.lock().upgrade();
        match node.as_ref().and_then(|node| Some((node, node.log.as_ref()?))) {
            Some((node, log)) => {
                stats.up &= !node.failure.is_set();
                (stats.entries, stats.memory_bytes) = log.index.totals();
                stats.bytes = log.bytes() + node.journal.length();
            }
            None => stats.up = false,
        }
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.level.path)
    }

    fn listen(&self, events: Events) {
        *self.events.lock() = Some(events);
        if self.current.lock().upgrade().is_some_and(|node| node.log.is_none()) {
            self.warn_of_lock();
        }
    }
}

fn start_journal(node: &Node, file: JournalFile, hooks: JournalHooks) -> io::Result<()> {
    let (journal, token) = (node.journal.clone(), node.threads.token());
    let run = move || {
        journal.run(file, &hooks);
        // The lock is free when the token is dropped.
        drop((hooks, journal));
        drop(token);
    };
    thread::Builder::new().name("tollgate-journal".to_owned()).spawn(run).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process is killed after it renamed its journal, and before the checkpoint forgot the one before; the next one is
    /// killed before it renames its own.
    #[test]
    fn two_kills_while_journals_are_replaced_lose_nothing() {
        let path = std::env::temp_dir().join(format!("tollgate-directory-{}", std::process::id()));
        disk::create_directory(&path).expect("created");
        let directory = || Directory::new(FileLevel::new(&path, 16 << 20));
        let killed = Checkpoint::new(path.clone(), SyncedFiles::default());
        killed.publish().expect("written");
        let state = JournalState::new(1 << 20);
        let renamed = JournalFile::create(path.join(JOURNAL), &state, Some(&killed)).expect("created").id;
        let former = SyncedJournal { id: 1, length: 9 };
        killed.update(|files| files.journals = [former, files.journals[0]]).expect("written");

        let found = directory().find().expect("read");
        assert_eq!(found.synced.journals[0].id, renamed);
        let killed = Checkpoint::new(path.clone(), found.synced);
        killed.publish().expect("written");
        killed.update(|files| files.journals[1] = SyncedJournal { id: 2, length: 9 }).expect("written");

        let synced = Checkpoint::load(&path).expect("a checkpoint");
        assert!(directory().read_journal(synced).is_some(), "{synced:?}");
        fs::remove_dir_all(&path).expect("deleted");
    }
}
