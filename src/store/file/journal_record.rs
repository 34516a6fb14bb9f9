//! Format of a journal: removals and invalidations. Pure functions over bytes.
//!
//! ```text
//! header   "TGFJ" │ version │ ID │ CRC-32 │ synced length │ CRC-32
//! record   CRC-32 │ length │ kind │ contents
//! ```
//!
//! The synced length is written after each sync; a journal that is shorter was damaged.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::index::Position;
use super::record::VERSION;
use crate::base::codec::{Reader, Writer};

const MAGIC: [u8; 4] = *b"TGFJ";
/// Length of a journal's header.
pub(super) const JOURNAL_HEADER: usize = SYNCED_OFFSET + SYNCED_LENGTH;
/// Offset of the synced length.
pub(super) const SYNCED_OFFSET: usize = 20;
const SYNCED_LENGTH: usize = 12;
/// Length of a record without its contents.
const HEAD: usize = 9;
const REMOVAL: u8 = 0;
const LOG: u8 = 1;
const RESTART: u8 = 2;
const ABSORBED: u8 = 3;
/// Maximum number of invalidations that are kept.
const MAX_RECORDS: usize = 16_384;

/// Record of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JournalRecord {
    /// The records under this hash before this position are removed.
    Removal { hash: u64, before: Position },
    /// Record of the invalidation log.
    Log { position: u64, record: Bytes },
    /// First record of a new invalidation log, which replaces an earlier one.
    Restart { position: u64, record: Bytes },
    /// Another process's journal was applied up to this offset.
    Absorbed { journal: u64, offset: u64 },
}

impl JournalRecord {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let mut body = Writer(std::mem::take(out));
        body.u64(0);
        match self {
            Self::Removal { hash, before } => {
                body.u8(REMOVAL);
                body.u64(*hash);
                body.u64(before.to_bits());
            }
            Self::Log { position, record } | Self::Restart { position, record } => {
                body.u8(if matches!(self, Self::Log { .. }) { LOG } else { RESTART });
                body.u64(*position);
                body.raw(record);
            }
            Self::Absorbed { journal, offset } => {
                body.u8(ABSORBED);
                body.u64(*journal);
                body.u64(*offset);
            }
        }
        *out = body.0;
        let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
        out[start + 4..start + 8].copy_from_slice(&length.to_be_bytes());
        let checksum = crc32fast::hash(&out[start + 4..]);
        out[start..start + 4].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Decodes the first record; returns it with its length.
    fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut reader = Reader(bytes);
        let (checksum, length) = (reader.u32()?, reader.u32()? as usize);
        let record = bytes.get(..length).filter(|record| record.len() >= HEAD)?;
        if checksum != crc32fast::hash(&record[4..]) {
            return None;
        }
        let mut reader = Reader(&record[HEAD - 1..]);
        let (kind, first) = (reader.u8()?, reader.u64()?);
        let decoded = match kind {
            REMOVAL => Self::Removal { hash: first, before: position(reader.u64()?) },
            LOG => Self::Log { position: first, record: Bytes::copy_from_slice(reader.0) },
            RESTART => Self::Restart { position: first, record: Bytes::copy_from_slice(reader.0) },
            ABSORBED => Self::Absorbed { journal: first, offset: reader.u64()? },
            _ => return None,
        };
        Some((decoded, length))
    }
}

const fn position(bits: u64) -> Position {
    Position { segment: (bits >> 32) as u32, offset: bits as u32 }
}

/// Encodes the header of a journal, of which nothing is synced.
pub(super) fn encode_header(id: u64) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(JOURNAL_HEADER));
    out.raw(&MAGIC);
    out.u32(VERSION);
    out.u64(id);
    let checksum = crc32fast::hash(&out.0);
    out.u32(checksum);
    out.raw(&encode_synced(0));
    out.0
}

/// Encodes the synced length, as it is in the header.
pub(super) fn encode_synced(length: u64) -> [u8; SYNCED_LENGTH] {
    let mut out = [0; SYNCED_LENGTH];
    out[..8].copy_from_slice(&length.to_be_bytes());
    out[8..].copy_from_slice(&crc32fast::hash(&length.to_be_bytes()).to_be_bytes());
    out
}

/// Decodes the header of a journal of this version; returns its ID and the synced length.
pub(super) fn decode_header(bytes: &[u8]) -> Option<(u64, u64)> {
    let (head, synced) = bytes.get(..JOURNAL_HEADER)?.split_at(SYNCED_OFFSET);
    let (checked, checksum) = head.split_last_chunk::<4>()?;
    let mut reader = Reader(checked.strip_prefix(&MAGIC)?);
    if *checksum != crc32fast::hash(checked).to_be_bytes() || reader.u32()? != VERSION {
        return None;
    }
    let length = Reader(synced).u64()?;
    (encode_synced(length) == *synced).then_some((reader.u64()?, length))
}

/// Decodes records up to the first that is incomplete or damaged; returns them with the offset behind them.
pub(super) fn decode_records(bytes: &[u8], start: usize) -> (Vec<JournalRecord>, usize) {
    let (mut records, mut offset) = (Vec::new(), start);
    while let Some((record, length)) = bytes.get(offset..).and_then(JournalRecord::decode) {
        records.push(record);
        offset += length;
    }
    (records, offset)
}

/// Contents of a journal that matter.
#[derive(Debug, Default)]
pub(super) struct JournalState {
    /// The invalidation log.
    log: VecDeque<(u64, Bytes)>,
    log_bytes: usize,
    max_log_bytes: usize,
    /// Removals, in the order of their positions.
    removals: VecDeque<(u64, Position)>,
    absorbed: BTreeMap<u64, u64>,
}

impl JournalState {
    /// Creates the state of an empty journal, whose log is trimmed to this many bytes.
    pub(super) fn new(max_log_bytes: usize) -> Self {
        Self { max_log_bytes, ..Self::default() }
    }

    pub(super) fn apply(&mut self, record: &JournalRecord) {
        match record {
            JournalRecord::Removal { hash, before } => self.removals.push_back((*hash, *before)),
            JournalRecord::Absorbed { journal, offset } => drop(self.absorbed.insert(*journal, *offset)),
            JournalRecord::Restart { position, record } => {
                self.log = VecDeque::from([(*position, record.clone())]);
                self.log_bytes = record.len();
            }
            JournalRecord::Log { position, record } => {
                self.log.push_back((*position, record.clone()));
                self.log_bytes += record.len();
                while self.log.len() > MAX_RECORDS || self.log.len() > 1 && self.log_bytes > self.max_log_bytes {
                    self.log_bytes -= self.log.pop_front().map_or(0, |(_, record)| record.len());
                }
            }
        }
    }

    /// Drops the removals before this position, which are in synced segments.
    pub(super) fn forget_removals(&mut self, before: Position) {
        while self.removals.front().is_some_and(|(_, removed)| *removed < before) {
            self.removals.pop_front();
        }
    }

    /// Drops the offsets of journals that were deleted.
    pub(super) fn forget_absorbed(&mut self, exists: impl Fn(u64) -> bool) {
        self.absorbed.retain(|journal, _| exists(*journal));
    }

    pub(super) fn removals(&self) -> impl Iterator<Item = &(u64, Position)> {
        self.removals.iter()
    }

    pub(super) fn absorbed(&self, journal: u64) -> Option<u64> {
        self.absorbed.get(&journal).copied()
    }

    /// Returns the position of the last record of the log; 0 if there is none.
    pub(super) fn last(&self) -> u64 {
        self.log.back().map_or(0, |(position, _)| *position)
    }

    /// Returns the records of the log from this position on.
    pub(super) fn read(&self, from: u64) -> Vec<(u64, Bytes)> {
        let first = self.log.partition_point(|(position, _)| *position < from);
        self.log.range(first..).cloned().collect()
    }

    /// Encodes a journal with this state.
    pub(super) fn encode(&self, id: u64) -> Vec<u8> {
        let mut out = encode_header(id);
        for (hash, before) in &self.removals {
            JournalRecord::Removal { hash: *hash, before: *before }.encode(&mut out);
        }
        for (journal, offset) in &self.absorbed {
            JournalRecord::Absorbed { journal: *journal, offset: *offset }.encode(&mut out);
        }
        for (at, (position, record)) in self.log.iter().enumerate() {
            let (position, record) = (*position, record.clone());
            match at {
                0 => JournalRecord::Restart { position, record }.encode(&mut out),
                _ => JournalRecord::Log { position, record }.encode(&mut out),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<JournalRecord> {
        vec![
            JournalRecord::Removal { hash: 7, before: Position { segment: 1, offset: 20 } },
            JournalRecord::Absorbed { journal: 8, offset: 99 },
            JournalRecord::Restart { position: 1_000, record: Bytes::from_static(b"first") },
            JournalRecord::Log { position: 1_001, record: Bytes::from_static(b"an invalidation") },
        ]
    }

    #[test]
    fn a_journal_is_read_up_to_the_first_damage() {
        let mut state = JournalState::new(1 << 20);
        records().iter().for_each(|record| state.apply(record));
        let journal = state.encode(5);
        assert_eq!(decode_header(&journal), Some((5, 0)));
        assert_eq!(decode_records(&journal, JOURNAL_HEADER), (records(), journal.len()));
        for bit in 0..journal.len() * 8 {
            let mut flipped = journal.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (found, valid) = decode_records(&flipped, JOURNAL_HEADER);
            assert!(decode_header(&flipped).is_none() || valid < journal.len(), "bit {bit}");
            assert!(records().starts_with(&found), "bit {bit}");
        }
        for length in JOURNAL_HEADER..journal.len() {
            assert!(records().starts_with(&decode_records(&journal[..length], JOURNAL_HEADER).0), "cut at {length}");
        }
    }

    #[test]
    fn the_log_is_trimmed_and_removals_in_segments_are_forgotten() {
        let mut state = JournalState::new(100);
        records().iter().for_each(|record| state.apply(record));
        assert_eq!((state.last(), state.read(1_001).len(), state.absorbed(8)), (1_001, 1, Some(99)));
        for position in 1_002..1_100 {
            state.apply(&JournalRecord::Log { position, record: Bytes::from_static(b"ten bytes.") });
        }
        assert_eq!((state.read(0).len(), state.last()), (10, 1_099));
        state.forget_removals(Position { segment: 1, offset: 20 });
        assert_eq!(state.removals().count(), 1);
        state.forget_removals(Position { segment: 1, offset: 21 });
        assert_eq!(state.removals().count(), 0);
        state.forget_absorbed(|_| false);
        assert_eq!(state.absorbed(8), None);
    }
}
