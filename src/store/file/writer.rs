//! The writer: one thread that writes the tail of a log, seals and syncs segments, and evicts the oldest ones.
//!
//! | when | it |
//! |---|---|
//! | 5 ms after the first record, or at 1 MiB | writes the tail |
//! | once a second | syncs the segments, and updates the checkpoint |
//! | before it begins a segment | deletes the oldest ones until there is room, and appends again what was hit in them, up to a quarter of a segment |

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::disk;
use super::index::{IndexEntry, Position};
use super::segment_log::{MUCH, SegmentLog};
use super::segments::Segment;
use super::tail::Chunk;
use crate::base::clock::{Clock, Timestamp};

/// How long records are gathered before they are written.
const GATHER: Duration = Duration::from_millis(5);
/// Interval of syncing the last segment.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// State of the writer.
pub(super) struct SegmentWriter {
    log: Arc<SegmentLog>,
    /// The segment that is being written.
    current: Option<Arc<Segment>>,
    /// An evicted segment, deleted when what was appended again is on disk, up to this position.
    evicted: Option<(Arc<Segment>, Position)>,
    /// Segments that are not synced, in order.
    unsynced: Vec<Arc<Segment>>,
}

impl SegmentWriter {
    pub(super) const fn new(log: Arc<SegmentLog>) -> Self {
        Self { log, current: None, evicted: None, unsynced: Vec::new() }
    }

    /// Writes until `stop` is set or a write fails; calls `each_second` once a second.
    pub(super) fn run(&mut self, stop: &AtomicBool, mut each_second: impl FnMut()) -> io::Result<()> {
        let _ = self.log.writer.set(thread::current());
        let mut due = now() + SYNC_INTERVAL;
        loop {
            if !stop.load(Ordering::Acquire) {
                let queued = self.log.tail.lock().queued();
                // A put that arrives in between has unparked this thread.
                thread::park_timeout(if queued == 0 { due.since(now()) } else { Duration::ZERO });
            }
            let is_stopping = stop.load(Ordering::Acquire);
            if self.log.failure.is_set() {
                return Ok(());
            }
            if !is_stopping {
                self.gather();
            }
            self.flush()?;
            if is_stopping {
                self.log.tail.lock().seal();
                self.flush()?;
                return self.sync();
            }
            if now() >= due {
                self.sync()?;
                each_second();
                due = now() + SYNC_INTERVAL;
            }
        }
    }

    fn gather(&self) {
        let queued = self.log.tail.lock().queued();
        if queued > 0 && queued < MUCH {
            thread::park_timeout(GATHER);
        }
    }

    /// Writes the tail.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        loop {
            let Some(chunk) = self.log.tail.lock().take() else { return Ok(()) };
            let result = self.write(&chunk);
            self.log.tail.lock().written();
            result?;
        }
    }

    fn write(&mut self, chunk: &Chunk) -> io::Result<()> {
        let segment = match self.current.take().filter(|current| current.id == chunk.segment) {
            Some(segment) => segment,
            None => self.begin(chunk.segment)?,
        };
        segment.write(&chunk.bytes, chunk.start)?;
        if self.unsynced.last().is_none_or(|last| last.id != segment.id) {
            self.unsynced.push(segment.clone());
        }
        let end = Position { segment: chunk.segment, offset: chunk.start + chunk.bytes.len() as u32 };
        self.log.written.store(end.to_bits(), Ordering::Release);
        self.current = Some(segment).filter(|_| !chunk.seals);
        Ok(())
    }

    /// Makes what is written durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let Some(last) = self.unsynced.last() else { return Ok(()) };
        let synced = Position { segment: last.id, offset: u32::try_from(last.bytes()).unwrap_or(u32::MAX) };
        self.unsynced.iter().try_for_each(|segment| segment.sync())?;
        self.unsynced.clear();
        disk::sync_directory(&self.log.directory)?;
        self.log.checkpoint.update(|files| files.segment = synced)?;
        if let Some((evicted, _)) = self.evicted.take_if(|(_, until)| *until < synced) {
            evicted.delete()?;
        }
        Ok(())
    }

    fn begin(&mut self, id: u32) -> io::Result<Arc<Segment>> {
        self.make_room()?;
        let segment = Arc::new(Segment::create(&self.log.directory, id)?);
        self.log.segments.write().insert(id, segment.clone());
        Ok(segment)
    }

    /// Evicts the oldest segments until another one fits.
    fn make_room(&mut self) -> io::Result<()> {
        let size = self.log.size;
        loop {
            let oldest = {
                let segments = self.log.segments.read();
                let bytes: u64 = segments.values().map(|segment| segment.bytes()).sum();
                if bytes + u64::from(size.segment_bytes) + size.journal_bytes <= size.bound {
                    return Ok(());
                }
                segments.first_key_value().map(|(_, segment)| segment.clone())
            };
            let Some(oldest) = oldest else { return Ok(()) };
            if self.evicted.is_some() {
                self.sync()?;
            }
            // What was appended again may still be in the tail; the bound goes first.
            if let Some((evicted, _)) = self.evicted.take() {
                evicted.delete()?;
            }
            self.evict(&oldest)?;
        }
    }

    fn evict(&mut self, segment: &Arc<Segment>) -> io::Result<()> {
        let mut budget = self.log.size.segment_bytes / 4;
        let entries = if segment.is_foreign { None } else { segment.footer()? };
        let mut until = None;
        for (hash, entry) in entries.unwrap_or_default() {
            let Some(current) = self.log.index.get(hash).filter(|current| current.at == entry.at) else { continue };
            let appended =
                if current.is_hit() && current.length <= budget { self.append_again(hash, &current)? } else { None };
            match appended {
                Some(at) => {
                    until = Some(at);
                    budget -= current.length;
                }
                None => self.log.index.remove_at(hash, entry.at),
            }
        }
        self.log.segments.write().remove(&segment.id);
        match until {
            Some(until) => self.evicted = Some((segment.clone(), until)),
            None => segment.delete()?,
        }
        Ok(())
    }

    /// Appends a record to the tail again; returns its new position, `None` if it expired, was replaced or is damaged.
    fn append_again(&self, hash: u64, entry: &IndexEntry) -> io::Result<Option<Position>> {
        let log = &self.log;
        let Some((head, record)) = log.record(hash, entry)?.filter(|(head, _)| log.now() < head.expires_at) else {
            return Ok(None);
        };
        let mut tail = log.tail.lock();
        if log.index.get(hash).is_none_or(|current| current.at != entry.at) {
            return Ok(None);
        }
        let at = tail.append_always(&head, head.name_in(&record), &record[head.value_offset()..]);
        log.index.insert(hash, head.index_entry(at));
        Ok(Some(at))
    }
}

fn now() -> Timestamp {
    Clock::System.now()
}
