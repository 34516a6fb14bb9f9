//! [`Checkpoint`]: a small file that says how much of the other files is known to be on disk.
//!
//! It is written after every `fsync` of a journal or segment. A file that has less than that when it is opened was damaged:
//! what was removed or invalidated may be missing, so what it could concern is discarded.
//!
//! A process that can no longer record removals deletes the checkpoint. Without it the next process discards everything.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use super::disk;
use super::index::Position;
use super::record::VERSION;
use crate::base::codec::{Reader, Writer};
use crate::base::lock::Mutex;

const MAGIC: [u8; 4] = *b"TGFC";
/// Name of the file.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// Length of a journal that is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SyncedJournal {
    pub(super) id: u64,
    pub(super) length: u64,
}

/// Contents of the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SyncedFiles {
    /// The journal, and the one that is about to replace it.
    pub(super) journals: [SyncedJournal; 2],
    /// The last segment that was synced, and its length then. Earlier ones are complete.
    pub(super) segment: Position,
}

impl SyncedFiles {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(64));
        out.raw(&MAGIC);
        out.u32(VERSION);
        for journal in self.journals {
            out.u64(journal.id);
            out.u64(journal.length);
        }
        out.u32(self.segment.segment);
        out.u32(self.segment.offset);
        let checksum = crc32fast::hash(&out.0);
        out.u32(checksum);
        out.0
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (checked, checksum) = bytes.split_last_chunk::<4>()?;
        if *checksum != crc32fast::hash(checked).to_be_bytes() {
            return None;
        }
        let mut reader = Reader(checked.strip_prefix(&MAGIC)?);
        if reader.u32()? != VERSION {
            return None;
        }
        let mut journal = || Some(SyncedJournal { id: reader.u64()?, length: reader.u64()? });
        let journals = [journal()?, journal()?];
        let segment = Position { segment: reader.u32()?, offset: reader.u32()? };
        reader.end()?;
        Some(Self { journals, segment })
    }
}

/// The checkpoint of an open directory.
#[derive(Debug)]
pub(super) struct Checkpoint {
    directory: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    synced: SyncedFiles,
    /// The file; `None` while the directory is not to be trusted by another process.
    file: Option<File>,
}

impl Checkpoint {
    /// Reads the file; `None` if it is missing, damaged, or of another version.
    pub(super) fn load(directory: &std::path::Path) -> Option<SyncedFiles> {
        SyncedFiles::decode(&fs::read(directory.join(CHECKPOINT)).ok()?)
    }

    /// Creates a checkpoint without a file.
    pub(super) fn new(directory: PathBuf, synced: SyncedFiles) -> Self {
        Self { directory, inner: Mutex::new(Inner { synced, file: None }) }
    }

    /// Writes the file from now on.
    pub(super) fn publish(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if inner.file.is_some() {
            return Ok(());
        }
        let temporary = self.directory.join("checkpoint.new");
        let file = disk::create(&temporary)?;
        disk::write_all_at(&file, &inner.synced.encode(), 0)?;
        file.sync_all()?;
        fs::rename(&temporary, self.directory.join(CHECKPOINT))?;
        disk::sync_directory(&self.directory)?;
        inner.file = Some(file);
        Ok(())
    }

    /// Deletes the file: another process discards the directory.
    pub(super) fn revoke(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.file = None;
        disk::delete(&self.directory.join(CHECKPOINT))
    }

    /// Makes the file durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.inner.lock().file.as_ref().map_or(Ok(()), File::sync_data)
    }

    pub(super) fn synced(&self) -> SyncedFiles {
        self.inner.lock().synced
    }

    /// Records what was synced.
    pub(super) fn update(&self, update: impl FnOnce(&mut SyncedFiles)) -> io::Result<()> {
        let mut inner = self.inner.lock();
        update(&mut inner.synced);
        match &inner.file {
            // Not synced: what it says is true at any time from now on, and in one sector.
            Some(file) => disk::write_all_at(file, &inner.synced.encode(), 0),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let journal = SyncedJournal { id: 1, length: 2 };
        let synced =
            SyncedFiles { journals: [journal, SyncedJournal::default()], segment: Position { segment: 3, offset: 4 } };
        let bytes = synced.encode();
        assert_eq!(SyncedFiles::decode(&bytes), Some(synced));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SyncedFiles::decode(&flipped), None, "bit {bit}");
        }
    }
}
