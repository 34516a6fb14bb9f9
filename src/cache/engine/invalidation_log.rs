//! The fleet's invalidations, as far as this process has heard.
//!
//! Every invalidation of the fleet has a number; a shared store keeps the latest of them as a log. An entry carries the
//! number that was known where and when its fetch **began**. It may be used where every invalidation since is known
//! here,
//! and none of them concerns it:
//!
//! | the entry's number | it is |
//! |---|---|
//! | before the first invalidation that is known here | void: nobody knows what happened since |
//! | before an invalidation that concerns it | void, or stale where that was soft |
//! | anything else | valid |
//!
//! A process that has heard too little stamps its entries too low, so they are void too early, never too late; a slow
//! fetch cannot bring old data back on any node.
//!
//! Each record has an identity beside its number. What follows the last record known here must begin with that very
//! record; otherwise the log was trimmed further than this process has heard, or a server came back without all of it,
//! and history begins anew: all entries from before are void.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};

use super::barrier::{Barriers, InvalidationScope, Validity};
use super::invalidation::Invalidation;
use crate::base::codec::{Reader, Writer};
use crate::base::lock::Mutex;
use crate::cache::http::key::CacheKey;
use crate::cache::http::stored_head::StoredHead;

/// Invalidations kept until the store can be told; more become one on everything.
const MOST_PENDING: usize = 1024;

/// Who made a record, and the how-manieth of theirs it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogRecordId {
    pub(crate) node: u64,
    pub(crate) count: u64,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRecord {
    pub(crate) number: u64,
    pub(crate) id: LogRecordId,
    /// What was invalidated; none for the record that begins a history.
    pub(crate) what: Option<Invalidation>,
}

impl LogRecord {
    /// A record without its number, which the store puts before it. With a checksum: one that changed on its way would
    /// take back something else.
    pub(crate) fn encode(id: LogRecordId, what: Option<&Invalidation>) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        out.u64(id.node);
        out.u64(id.count);
        out.maybe(what.map(Invalidation::to_bytes).as_deref());
        let checksum = crc32fast::hash(&out.0);
        out.u32(checksum);
        out.0
    }

    /// Reads `number:record`.
    pub(crate) fn decode(line: &[u8]) -> Option<Self> {
        let colon = line.iter().position(|b| *b == b':')?;
        let number = std::str::from_utf8(&line[..colon]).ok()?.parse().ok()?;
        let (record, checksum) = line[colon + 1..].split_last_chunk::<4>()?;
        if *checksum != crc32fast::hash(record).to_be_bytes() {
            return None;
        }
        let mut reader = Reader(record);
        let id = LogRecordId { node: reader.u64()?, count: reader.u64()? };
        let what = match reader.maybe()? {
            None => None,
            Some(what) => Some(Invalidation::from_bytes(what)?),
        };
        reader.end()?;
        Some(Self { number, id, what })
    }
}

/// Update from a message or a page of the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogUpdate {
    /// These invalidations of other processes are new.
    News(Vec<Invalidation>),
    /// Something before it is missing: read the log.
    Behind,
    /// The log does not go on where this process left it: read all of it.
    Broken,
}

/// The fleet's invalidations.
#[derive(Debug)]
pub(crate) struct InvalidationLog {
    node: u64,
    /// By number.
    barriers: Barriers,
    /// The number of the latest record known; 0 while none is.
    number: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: Option<(u64, LogRecordId)>,
    /// Ours, not yet seen in the log.
    pending: Vec<(LogRecordId, Invalidation)>,
    count: u64,
}

impl InvalidationLog {
    /// A history nothing is known of; `node` is this process's number among all.
    pub(crate) fn new(node: u64) -> Self {
        Self { node, barriers: Barriers::default(), number: AtomicU64::new(0), inner: Mutex::default() }
    }

    /// The number of the latest record known; 0 while none is.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// An identity for a record of ours.
    pub(crate) fn identity(&self) -> LogRecordId {
        let mut inner = self.inner();
        inner.count += 1;
        LogRecordId { node: self.node, count: inner.count }
    }

    /// Whether an entry under this key may be used.
    pub(crate) fn check(&self, key: &CacheKey, meta: &StoredHead) -> Validity {
        if self.number() == 0 {
            return Validity::Void;
        }
        let validity = self.barriers.compare(key, &meta.tags, meta.began.fleet);
        let inner = self.inner();
        let concerned = inner.pending.iter().filter(|(_, what)| what.about.concerns(key, &meta.tags));
        concerned.fold(validity, |found, (_, what)| match (found, what.soft) {
            (Validity::Void, _) | (_, false) => Validity::Void,
            (_, true) => Validity::Stale,
        })
    }

    /// An invalidation of this process's own: it binds here at once. Returns its record, to be put into the log.
    pub(crate) fn begin(&self, what: &Invalidation) -> (LogRecordId, Vec<u8>) {
        let id = self.identity();
        let mut inner = self.inner();
        let mut what = what.clone();
        if inner.pending.len() >= MOST_PENDING {
            // Too much rather than too little.
            inner.pending.clear();
            what = Invalidation::all();
        }
        let record = LogRecord::encode(id, Some(&what));
        inner.pending.push((id, what));
        (id, record)
    }

    /// What is not in the log yet, as far as is known.
    pub(crate) fn pending(&self) -> Vec<Vec<u8>> {
        let inner = self.inner();
        inner.pending.iter().map(|(id, what)| LogRecord::encode(*id, Some(what))).collect()
    }

    /// How many are not in the log yet.
    pub(crate) fn waiting(&self) -> u64 {
        self.inner().pending.len() as u64
    }

    /// Where to go on reading the log: at the last record known.
    pub(crate) fn bookmark(&self) -> Option<u64> {
        self.inner().last.map(|(number, _)| number)
    }

    /// A message.
    pub(crate) fn hear(&self, record: &LogRecord) -> LogUpdate {
        let mut inner = self.inner();
        match inner.last {
            Some((last, _)) if record.number == last + 1 => {
                LogUpdate::News(self.learn(&mut inner, record).into_iter().collect())
            }
            // Read in the log already.
            Some((last, _)) if record.number <= last => LogUpdate::News(Vec::new()),
            _ => LogUpdate::Behind,
        }
    }

    /// The log from the [`bookmark`](Self::bookmark) on.
    pub(crate) fn read_on(&self, records: &[LogRecord]) -> LogUpdate {
        let mut inner = self.inner();
        let Some((number, id)) = inner.last else { return LogUpdate::Broken };
        // A message may have arrived while the page was on its way.
        let mut rest = records.iter().skip_while(|record| record.number < number);
        if rest.next().is_none_or(|first| (first.number, first.id) != (number, id)) {
            return LogUpdate::Broken;
        }
        LogUpdate::News(rest.filter_map(|record| self.learn(&mut inner, record)).collect())
    }

    /// The whole log: history as it is known from now on. Whatever was held before is to be dropped by the caller.
    pub(crate) fn start_over(&self, records: &[LogRecord]) {
        let mut inner = self.inner();
        let Some(first) = records.first() else { return };
        // All invalidations from the first record on are known; a record that begins a history follows none.
        let floor = if first.what.is_some() { first.number - 1 } else { first.number };
        self.barriers.start_at(floor);
        self.number.store(first.number, Ordering::Release);
        for record in records {
            drop(self.learn(&mut inner, record));
        }
    }

    /// Takes the next record in; returns what it invalidates, where another process did.
    fn learn(&self, inner: &mut Inner, record: &LogRecord) -> Option<Invalidation> {
        if let Some(what) = &record.what {
            self.barriers.raise_at(what.about.clone(), what.soft, record.number);
        }
        inner.last = Some((record.number, record.id));
        self.number.store(record.number, Ordering::Release);
        let ours = record.id.node == self.node;
        if ours {
            inner.pending.retain(|(id, _)| *id != record.id);
        }
        record.what.clone().filter(|_| !ours)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl InvalidationScope {
    /// Whether an entry under this key, with these tags, is meant.
    pub(crate) fn concerns(&self, key: &CacheKey, tags: &[Box<str>]) -> bool {
        let alone = Barriers::default();
        alone.raise(self.clone(), false);
        alone.compare(key, tags, 0) == Validity::Void
    }
}

#[cfg(test)]
mod tests;
