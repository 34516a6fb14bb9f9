//! [`SegmentLog`]: the engine. Values by name in an append-only log of segments, with an index in memory.
//!
//! | operation | what it does |
//! |---|---|
//! | put | appends to the [tail](Tail) in memory; a full tail drops the put, and counts it |
//! | get | reads the record at its position, and verifies checksum, name and times |
//! | remove | appends a record to the tail, however full, for segments that a journal no longer covers |
//!
//! Positions and index entries change under the lock of the tail, so that the order in the log is that of the calls.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;

use super::checkpoint::Checkpoint;
use super::failure::Failure;
use super::index::{FileIndex, IndexEntry, Position};
use super::record::{self, RECORD_HEADER, RecordHead};
use super::recovery::Recovered;
use super::segments::Segment;
use super::tail::Tail;
use crate::base::clock::{Clock, nanos};
use crate::base::lock::{Mutex, RwLock};
use crate::cache::may_replace;

/// Milliseconds by which a record may be from the future: two readings of a wall clock that is adjusted.
const TOLERANCE_MILLIS: u64 = 1_000;
/// Bytes in the tail from which the writer does not wait for more.
pub(super) const MUCH: usize = 1 << 20;
/// Beginning of a value that tells the order of fetches.
const ORDER: u32 = 26;

/// Bounds of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSize {
    /// Bytes on disk.
    pub(super) bound: u64,
    pub(super) segment_bytes: u32,
    /// Bytes that are kept free for the journal.
    pub(super) journal_bytes: u64,
}

/// Log of segments. The [writer](super::writer) writes its tail.
#[derive(Debug)]
pub(super) struct SegmentLog {
    pub(super) directory: PathBuf,
    pub(super) size: LogSize,
    pub(super) clock: Clock,
    pub(super) index: FileIndex,
    pub(super) tail: Mutex<Tail>,
    pub(super) segments: RwLock<BTreeMap<u32, Arc<Segment>>>,
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) failure: Arc<Failure>,
    /// Bits of the position up to which the tail is written.
    pub(super) written: AtomicU64,
    pub(super) writer: OnceLock<Thread>,
    pub(super) counters: Arc<LogCounters>,
}

/// Counters of a log.
#[derive(Debug, Default)]
pub(super) struct LogCounters {
    /// Puts that were dropped because too much waited to be written.
    pub(super) dropped: AtomicU64,
    /// Records that were damaged, and segments that were damaged or of another version.
    pub(super) unreadable: AtomicU64,
}

impl SegmentLog {
    pub(super) fn new(
        directory: PathBuf,
        size: LogSize,
        clock: Clock,
        recovered: Recovered,
        checkpoint: Arc<Checkpoint>,
    ) -> Self {
        let previous = recovered.segments.last_key_value().map_or(0, |(id, _)| *id);
        Self {
            directory,
            size,
            clock,
            index: recovered.index,
            tail: Mutex::new(Tail::new(recovered.next, previous, size.segment_bytes)),
            segments: RwLock::new(recovered.segments),
            checkpoint,
            failure: Arc::default(),
            written: AtomicU64::new(0),
            writer: OnceLock::new(),
            counters: Arc::default(),
        }
    }

    /// Stores a value. Returns whether it was stored: `false` if the fetch of the stored value began later.
    pub(super) fn put(&self, name: &str, value: &[u8], ttl: Duration) -> io::Result<bool> {
        let now = self.now();
        let expires_at = now.saturating_add(nanos(ttl).div_ceil(1_000_000));
        let head = RecordHead::value(name, value, now, expires_at);
        let head = head.filter(|head| head.length <= self.max_record());
        let Some(head) = head else {
            let message = format!("{} bytes do not fit in a segment", value.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        let mut tail = self.tail.lock();
        if let Some(old) = self.index.get(head.hash)
            && !self.replaces(&tail, &old, name, value, now)?
        {
            return Ok(false);
        }
        let wakes = tail.is_empty();
        let Some(at) = tail.append(&head, name.as_bytes(), value) else {
            // The value that it would have replaced is not served any more.
            self.index.remove(head.hash);
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        };
        self.index.insert(head.hash, head.index_entry(at));
        let queued = tail.queued();
        drop(tail);
        if wakes || queued >= MUCH && queued - (head.length as usize) < MUCH {
            self.wake();
        }
        Ok(true)
    }

    /// Returns the length of the longest record.
    pub(super) const fn max_record(&self) -> u32 {
        self.size.segment_bytes - self.size.segment_bytes / 16 - 64
    }

    /// Returns the value under a name.
    pub(super) fn get(&self, name: &str) -> io::Result<Option<Bytes>> {
        let hash = record::hash(name);
        let Some(entry) = self.index.hit(hash) else { return Ok(None) };
        let Some((head, record)) = self.record(hash, &entry)? else { return Ok(None) };
        let now = self.now();
        let is_current = head.written_at <= now + TOLERANCE_MILLIS && now < head.expires_at;
        if !is_current || head.name_in(&record) != name.as_bytes() {
            return Ok(None);
        }
        Ok(Some(Bytes::from(record).slice(head.value_offset()..)))
    }

    /// Returns the name and the first `length` bytes of the value under a hash, for scans.
    pub(super) fn beginning(&self, hash: u64, length: usize) -> io::Result<Option<(String, Bytes)>> {
        let Some(entry) = self.index.get(hash) else { return Ok(None) };
        let Some((head, record)) = self.record(hash, &entry)? else { return Ok(None) };
        let Ok(name) = String::from_utf8(head.name_in(&record).to_vec()) else { return Ok(None) };
        let value = &record[head.value_offset()..];
        Ok(Some((name, Bytes::copy_from_slice(&value[..value.len().min(length)]))))
    }

    /// Returns whether something may be stored under a name.
    pub(super) fn may_contain(&self, name: &str) -> bool {
        self.index.get(record::hash(name)).is_some()
    }

    /// Removes what is stored under these hashes. Returns how many there were, and the positions before which the
    /// removals apply, to be recorded in the journal.
    pub(super) fn remove(&self, hashes: &[u64]) -> (u64, Vec<(u64, Position)>) {
        let now = self.now();
        let mut tail = self.tail.lock();
        let mut count = 0;
        let removals = hashes.iter().map(|hash| {
            let at = tail.append_always(&RecordHead::removal(*hash, now), &[], &[]);
            count += u64::from(self.index.remove(*hash));
            (*hash, at)
        });
        let removals = removals.collect();
        drop(tail);
        self.wake();
        (count, removals)
    }

    /// Returns the bytes on disk, without the journal.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.read().values().map(|segment| segment.bytes()).sum()
    }

    pub(super) fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// Returns the wall-clock time in milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.clock.wall().duration_since(UNIX_EPOCH).map_or(0, |since| nanos(since) / 1_000_000)
    }

    /// Reads and verifies a record. A damaged one is counted and forgotten.
    pub(super) fn record(&self, hash: u64, entry: &IndexEntry) -> io::Result<Option<(RecordHead, Vec<u8>)>> {
        let Some(record) = self.read(entry.at, entry.length)? else { return Ok(None) };
        let Some(head) = RecordHead::verify(&record, entry.at) else {
            self.counters.unreadable.fetch_add(1, Ordering::Relaxed);
            self.index.remove_at(hash, entry.at);
            return Ok(None);
        };
        Ok(Some((head, record)))
    }

    /// Reads from the tail, or else from the segment; `None` if that was deleted meanwhile.
    fn read(&self, at: Position, length: u32) -> io::Result<Option<Vec<u8>>> {
        if at.to_bits() >= self.written.load(Ordering::Acquire)
            && let Some(record) = self.tail.lock().read(at, length)
        {
            return Ok(Some(record));
        }
        self.read_written(at, length)
    }

    fn read_written(&self, at: Position, length: u32) -> io::Result<Option<Vec<u8>>> {
        let segment = self.segments.read().get(&at.segment).cloned();
        segment.map_or(Ok(None), |segment| segment.read(at.offset, length))
    }

    /// Whether a new value may replace the stored one. Reads that only if the new fetch may have begun before the stored
    /// value was written.
    fn replaces(&self, tail: &Tail, old: &IndexEntry, name: &str, new: &[u8], now: u64) -> io::Result<bool> {
        let written_until = (old.written_seconds() + 1) * 1_000;
        let began_at = order_micros(new) / 1_000;
        if began_at == 0 || began_at >= written_until || old.written_seconds() * 1_000 > now + TOLERANCE_MILLIS {
            return Ok(true);
        }
        let length = old.length.min((RECORD_HEADER + name.len()) as u32 + ORDER);
        let beginning = match tail.read(old.at, length) {
            Some(beginning) => Some(beginning),
            None => self.read_written(old.at, length)?,
        };
        let Some(beginning) = beginning else { return Ok(true) };
        let Some(head) = RecordHead::decode(&beginning, old.at) else { return Ok(true) };
        let is_current = head.written_at <= now + TOLERANCE_MILLIS && now < head.expires_at;
        if !is_current || head.name_in(&beginning) != name.as_bytes() {
            return Ok(true);
        }
        Ok(may_replace(&beginning[head.value_offset()..], new))
    }
}

/// Returns the start of the fetch of a value, in microseconds since 1970; 0 if it has none.
fn order_micros(value: &[u8]) -> u64 {
    match value.get(10..18).and_then(|micros| micros.first_chunk::<8>()) {
        Some(micros) if value.starts_with(b"TGC") => u64::from_be_bytes(*micros),
        _ => 0,
    }
}
