//! Invalidation log: this process's copy of the shared, numbered log of invalidations.
//!
//! Every invalidation of the fleet has a number; a shared store holds the latest as a log. An entry carries the number
//! that its process knew when its fetch **began**. It is valid if every invalidation since is known in this process and
//! none applies to it:
//!
//! | the entry's number | it is |
//! |---|---|
//! | before the first invalidation known here | void: later invalidations may be missing |
//! | before an invalidation that applies to it | void, or stale if that was soft |
//! | anything else | valid |
//!
//! A process that lags behind stamps its entries with too low a number, so they become void too early, never too late;
//! a slow fetch cannot bring old data back on any node.
//!
//! Each record has an ID beside its number. A page of the log must begin with the last record known here; otherwise the
//! log was trimmed beyond it, or a server returned without all of it, and the log is reset: all entries from before are
//! void.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};

use super::barrier::{Barriers, InvalidationEffect, Validity};
use super::invalidation::Invalidation;
use crate::base::codec::{Reader, Writer};
use crate::base::lock::Mutex;
use crate::cache::http::key::CacheKey;
use crate::cache::http::record_meta::RecordMeta;

/// Maximum number of pending invalidations; beyond it they are replaced by one on everything.
const MAX_PENDING: usize = 1024;

/// Log record ID: the node and its sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogRecordId {
    pub(super) node: u64,
    pub(super) count: u64,
}

#[cfg(feature = "postgres")]
impl LogRecordId {
    /// Returns the ID of an invalidation that no node issued, which its position tells apart.
    pub(crate) const fn of_outbox(position: u64) -> Self {
        Self { node: 0, count: position }
    }
}

/// Record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRecord {
    pub(super) number: u64,
    pub(super) id: LogRecordId,
    /// The invalidation; `None` for the record that starts a log.
    pub(super) invalidation: Option<Invalidation>,
}

impl LogRecord {
    /// Encodes a record without its number, which the store prepends. A checksum detects corruption, which would
    /// invalidate something else.
    pub(crate) fn encode(id: LogRecordId, invalidation: Option<&Invalidation>) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        out.u64(id.node);
        out.u64(id.count);
        out.maybe(invalidation.map(Invalidation::to_bytes).as_deref());
        let checksum = crc32fast::hash(&out.0);
        out.u32(checksum);
        out.0
    }

    /// Decodes the record with this number.
    pub(crate) fn decode(number: u64, record: &[u8]) -> Option<Self> {
        let (record, checksum) = record.split_last_chunk::<4>()?;
        if *checksum != crc32fast::hash(record).to_be_bytes() {
            return None;
        }
        let mut reader = Reader(record);
        let id = LogRecordId { node: reader.u64()?, count: reader.u64()? };
        let invalidation = match reader.maybe()? {
            None => None,
            Some(invalidation) => Some(Invalidation::from_bytes(invalidation)?),
        };
        reader.end()?;
        Some(Self { number, id, invalidation })
    }
}

impl LogRecord {
    /// Stands for a record that this version cannot read: it invalidates everything, rather than too little.
    pub(crate) fn unreadable(number: u64, record: &[u8]) -> Self {
        let id = LogRecordId { node: u64::from(crc32fast::hash(record)), count: record.len() as u64 };
        Self { number, id, invalidation: Some(Invalidation::all()) }
    }
}

/// Result of applying a message or a page of the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogUpdate {
    /// New invalidations of other processes.
    Applied(Vec<Invalidation>),
    /// A record before it is missing: read the log from the last known record.
    Gap,
    /// The log does not continue from the last known record: read all of it.
    Diverged,
}

/// Copy of the shared invalidation log.
#[derive(Debug)]
pub(crate) struct InvalidationLog {
    node: u64,
    /// Barriers by log number.
    barriers: Barriers,
    /// Number of the latest known record; 0 while none is known.
    number: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: Option<(u64, LogRecordId)>,
    /// Invalidations of this process not yet seen in the log.
    pending: Vec<(LogRecordId, Invalidation)>,
    count: u64,
}

impl InvalidationLog {
    /// Creates an empty log; `node` is the ID of this process.
    pub(crate) fn new(node: u64) -> Self {
        Self { node, barriers: Barriers::default(), number: AtomicU64::new(0), inner: Mutex::default() }
    }

    /// Returns the number of the latest known record; 0 while none is known.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Returns the ID of the next record of this process.
    pub(crate) fn next_id(&self) -> LogRecordId {
        let mut inner = self.inner();
        inner.count += 1;
        LogRecordId { node: self.node, count: inner.count }
    }

    /// Checks an entry under this key.
    pub(crate) fn check(&self, key: &CacheKey, meta: &RecordMeta) -> Validity {
        // Held throughout: a record leaves the pending ones when its barrier is there, and a reset replaces all barriers.
        let inner = self.inner();
        if self.number() == 0 {
            return Validity::Void;
        }
        let validity = self.barriers.compare(key, &meta.tags, meta.began.fleet);
        let concerned = inner.pending.iter().filter(|(_, invalidation)| invalidation.scope.applies_to(key, &meta.tags));
        concerned.fold(validity, |found, (_, invalidation)| match (found, invalidation.effect) {
            (Validity::Void, _) | (_, InvalidationEffect::Void) => Validity::Void,
            (_, InvalidationEffect::Stale | InvalidationEffect::StaleUntilRevoked) => Validity::Stale,
            (found, InvalidationEffect::Revoked) => found,
        })
    }

    /// Records an invalidation of this process, effective at once. Returns its record, to be appended to the log.
    pub(crate) fn record_local(&self, invalidation: &Invalidation) -> (LogRecordId, Vec<u8>) {
        let id = self.next_id();
        let mut inner = self.inner();
        let mut invalidation = invalidation.clone();
        if inner.pending.len() >= MAX_PENDING {
            // Invalidates more than necessary, to bound memory.
            inner.pending.clear();
            invalidation = Invalidation::all();
        }
        let record = LogRecord::encode(id, Some(&invalidation));
        if invalidation.effect == InvalidationEffect::Revoked {
            self.barriers.revoke(&invalidation.scope);
            // What was to be revoked is not told any more.
            let revocable = Invalidation { effect: InvalidationEffect::StaleUntilRevoked, ..invalidation.clone() };
            inner.pending.retain(|(_, pending)| *pending != revocable);
        }
        inner.pending.push((id, invalidation));
        (id, record)
    }

    /// Returns the records not yet seen in the log.
    pub(crate) fn pending(&self) -> Vec<Vec<u8>> {
        let inner = self.inner();
        inner.pending.iter().map(|(id, invalidation)| LogRecord::encode(*id, Some(invalidation))).collect()
    }

    /// Returns the number of records not yet seen in the log.
    pub(crate) fn pending_count(&self) -> u64 {
        self.inner().pending.len() as u64
    }

    /// Returns the number of the last known record, from which to read on.
    pub(crate) fn last_number(&self) -> Option<u64> {
        self.inner().last.map(|(number, _)| number)
    }

    /// Applies a message.
    pub(crate) fn apply_message(&self, record: &LogRecord) -> LogUpdate {
        let mut inner = self.inner();
        match inner.last {
            Some((last, _)) if record.number == last + 1 => {
                LogUpdate::Applied(self.apply(&mut inner, record).into_iter().collect())
            }
            // Already read in the log.
            Some((last, _)) if record.number <= last => LogUpdate::Applied(Vec::new()),
            _ => LogUpdate::Gap,
        }
    }

    /// Applies a page of the log, from the [last known record](Self::last_number) on.
    pub(crate) fn apply_page(&self, records: &[LogRecord]) -> LogUpdate {
        let mut inner = self.inner();
        let Some((number, id)) = inner.last else { return LogUpdate::Diverged };
        // A message may have arrived while the page was being read.
        let mut rest = records.iter().skip_while(|record| record.number < number);
        if rest.next().is_none_or(|first| (first.number, first.id) != (number, id)) {
            return LogUpdate::Diverged;
        }
        LogUpdate::Applied(rest.filter_map(|record| self.apply(&mut inner, record)).collect())
    }

    /// Resets to the whole log. The caller must drop all entries held before.
    pub(crate) fn reset(&self, records: &[LogRecord]) {
        let mut inner = self.inner();
        let Some(first) = records.first() else { return };
        // All invalidations from the first record on are known; a record that starts a log has no predecessor.
        let floor = if first.invalidation.is_some() { first.number - 1 } else { first.number };
        self.barriers.start_at(floor);
        self.number.store(first.number, Ordering::Release);
        for record in records {
            drop(self.apply(&mut inner, record));
        }
    }

    /// Applies the next record; returns its invalidation if another process issued it.
    fn apply(&self, inner: &mut Inner, record: &LogRecord) -> Option<Invalidation> {
        if let Some(invalidation) = &record.invalidation {
            self.barriers.insert_at(invalidation.scope.clone(), invalidation.effect, record.number);
        }
        inner.last = Some((record.number, record.id));
        self.number.store(record.number, Ordering::Release);
        let own = record.id.node == self.node;
        if own {
            inner.pending.retain(|(id, _)| *id != record.id);
        }
        record.invalidation.clone().filter(|_| !own)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

#[cfg(test)]
mod tests;
