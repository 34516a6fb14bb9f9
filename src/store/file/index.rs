//! [`FileIndex`]: where the record of each name is, in memory.
//!
//! An entry takes 24 bytes and a byte of the hash table, whose capacity is a power of two: 28 to 57 bytes each, 38 on
//! average. Sixty-four shards grow one at a time, each under a lock of its own.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::MutexGuard;

use crate::base::lock::Mutex;

/// Number of shards.
const SHARDS: usize = 64;
/// Seconds between 1970 and 2020, from which index entries count.
const EPOCH_SECONDS: u64 = 1_577_836_800;
/// Bit of [`IndexEntry::written`]: read since it was last written.
const HIT: u32 = 1 << 31;

/// Position of a record. Later records have greater positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

impl Position {
    pub(super) const fn to_bits(self) -> u64 {
        (self.segment as u64) << 32 | self.offset as u64
    }
}

/// Position, length and age of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) at: Position,
    /// Length of the record; 0 for a removal, which is only in footers.
    pub(super) length: u32,
    /// Seconds since 2020, and whether it was hit.
    pub(super) written: u32,
}

impl IndexEntry {
    pub(super) fn new(at: Position, length: u32, written_at: u64) -> Self {
        let seconds = (written_at / 1_000).saturating_sub(EPOCH_SECONDS);
        Self { at, length, written: u32::try_from(seconds).unwrap_or(u32::MAX) & !HIT }
    }

    pub(super) const fn is_hit(&self) -> bool {
        self.written & HIT != 0
    }

    /// Time of the put, in seconds since 1970, rounded down.
    pub(super) const fn written_seconds(&self) -> u64 {
        (self.written & !HIT) as u64 + EPOCH_SECONDS
    }
}

/// Names are hashed already.
#[derive(Clone, Debug, Default)]
pub(super) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

type Shard = HashMap<u64, IndexEntry, BuildHasherDefault<IdentityHasher>>;

/// Index of the records by the hash of their names. Two names with one hash exclude each other.
#[derive(Debug)]
pub(super) struct FileIndex {
    shards: [Mutex<Shard>; SHARDS],
}

impl Default for FileIndex {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl FileIndex {
    /// Returns the entry, and marks it as hit.
    pub(super) fn hit(&self, hash: u64) -> Option<IndexEntry> {
        let mut shard = self.shard(hash);
        let entry = shard.get_mut(&hash)?;
        entry.written |= HIT;
        Some(*entry)
    }

    pub(super) fn get(&self, hash: u64) -> Option<IndexEntry> {
        self.shard(hash).get(&hash).copied()
    }

    pub(super) fn insert(&self, hash: u64, entry: IndexEntry) {
        self.shard(hash).insert(hash, entry);
    }

    /// Removes an entry; returns whether there was one.
    pub(super) fn remove(&self, hash: u64) -> bool {
        self.shard(hash).remove(&hash).is_some()
    }

    /// Removes an entry if it is still at this position.
    pub(super) fn remove_at(&self, hash: u64, at: Position) {
        let mut shard = self.shard(hash);
        if shard.get(&hash).is_some_and(|entry| entry.at == at) {
            shard.remove(&hash);
        }
    }

    /// Applies the entries of a segment, in the order of their positions.
    pub(super) fn apply(&self, entries: &[(u64, IndexEntry)]) {
        for (hash, entry) in entries {
            if entry.length == 0 {
                self.remove(*hash);
            } else {
                self.insert(*hash, *entry);
            }
        }
    }

    /// Makes room for this many entries.
    pub(super) fn reserve(&self, entries: usize) {
        self.shards.iter().for_each(|shard| shard.lock().reserve(entries / SHARDS));
    }

    /// Returns the number of entries, and the bytes of the index in memory.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(entries, memory), shard| {
            let shard = shard.lock();
            let buckets = (shard.capacity() * 8 / 7).next_power_of_two() as u64;
            let taken = if shard.capacity() == 0 { 0 } else { buckets * (size_of::<(u64, IndexEntry)>() as u64 + 1) };
            (entries + shard.len() as u64, memory + taken)
        })
    }

    /// Returns the hashes of one shard, for scans; `None` beyond the last.
    pub(super) fn shard_hashes(&self, number: usize) -> Option<Vec<u64>> {
        self.shards.get(number).map(|shard| shard.lock().keys().copied().collect())
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The table uses the lowest and the highest bits.
        self.shards[(hash >> 32) as usize % SHARDS].lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { segment: 1, offset: 20 };

    #[test]
    fn an_entry_takes_about_32_bytes() {
        assert_eq!(size_of::<(u64, IndexEntry)>(), 24);
        let index = FileIndex::default();
        for hash in 0..100_000_u64 {
            index.insert(hash.wrapping_mul(0x9E37_79B9_7F4A_7C15), IndexEntry::new(AT, 100, 0));
        }
        let (entries, memory) = index.totals();
        assert_eq!(entries, 100_000);
        assert!((24..=60).contains(&(memory / entries)), "{} bytes an entry", memory / entries);
    }

    #[test]
    fn entries_are_removed_only_where_they_are() {
        let (index, later) = (FileIndex::default(), Position { offset: 90, ..AT });
        index.insert(7, IndexEntry::new(AT, 100, 1_600_000_000_999));
        assert_eq!(index.hit(7).map(|entry| entry.written_seconds()), Some(1_600_000_000));
        assert!(index.get(7).is_some_and(|entry| entry.is_hit()));
        index.insert(7, IndexEntry::new(later, 100, 0));
        index.remove_at(7, AT);
        assert!(index.get(7).is_some_and(|entry| !entry.is_hit()));
        index.remove_at(7, later);
        assert!(index.get(7).is_none() && !index.remove(7));
        index.apply(&[
            (1, IndexEntry::new(AT, 9, 0)),
            (2, IndexEntry::new(AT, 9, 0)),
            (1, IndexEntry::new(later, 0, 0)),
        ]);
        assert!(index.get(1).is_none() && index.get(2).is_some());
    }
}
