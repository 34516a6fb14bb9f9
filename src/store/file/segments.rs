//! [`Segment`]: one file of the log. Reads footers, or scans the records where there is none.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk;
use super::index::{IndexEntry, Position};
use super::record::{
    FOOTER_END, RECORD_HEADER, RecordHead, SEGMENT_HEADER, SegmentHeader, decode_footer, decode_footer_end,
    encode_footer, footer_length,
};

const PREFIX: &str = "segment-";

/// Entries of a segment, in the order of its records.
pub(super) type Entries = Vec<(u64, IndexEntry)>;

/// File with a part of the records.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: u32,
    path: PathBuf,
    file: File,
    bytes: AtomicU64,
    /// Whether another version wrote it: it takes room, and is not read.
    pub(super) is_foreign: bool,
}

/// Result of reading a segment when a directory is opened.
#[derive(Debug)]
pub(super) enum Contents {
    /// It has a valid footer.
    Sealed(Entries),
    /// It has no valid footer; its records are valid up to this offset.
    Open(Entries, u32),
}

impl Segment {
    pub(super) fn create(directory: &Path, id: u32) -> io::Result<Self> {
        let path = directory.join(format!("{PREFIX}{id:08x}"));
        let file = disk::create(&path)?;
        Ok(Self { id, path, file, bytes: AtomicU64::new(0), is_foreign: false })
    }

    /// Opens a segment; returns its header as well.
    pub(super) fn open(path: PathBuf, id: u32) -> io::Result<(Self, SegmentHeader)> {
        let file = disk::open(&path)?;
        let length = file.metadata()?.len();
        let mut header = vec![0; SEGMENT_HEADER.min(length as usize)];
        disk::read_exact_at(&file, &mut header, 0)?;
        let header = SegmentHeader::decode(&header, id);
        let is_foreign = header == SegmentHeader::OtherVersion;
        Ok((Self { id, path, file, bytes: AtomicU64::new(length), is_foreign }, header))
    }

    /// Returns the IDs and paths of all segments in a directory, in order.
    pub(super) fn list(directory: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
        let mut found = Vec::new();
        for file in fs::read_dir(directory)? {
            let file = file?;
            let name = file.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if let Some(id) = id.and_then(|id| u32::from_str_radix(id, 16).ok()) {
                found.push((id, file.path()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Returns its size on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn write(&self, bytes: &[u8], offset: u32) -> io::Result<()> {
        disk::write_all_at(&self.file, bytes, u64::from(offset))?;
        self.bytes.fetch_max(u64::from(offset) + bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn delete(&self) -> io::Result<()> {
        disk::delete(&self.path)
    }

    /// Reads bytes; `None` if the file is shorter.
    pub(super) fn read(&self, offset: u32, length: u32) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; length as usize];
        match disk::read_exact_at(&self.file, &mut bytes, u64::from(offset)) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the footer, or else the records.
    pub(super) fn contents(&self) -> io::Result<Contents> {
        if let Some(entries) = self.footer()? {
            return Ok(Contents::Sealed(entries));
        }
        self.scan()
    }

    /// Reads the footer; `None` if there is no valid one.
    pub(super) fn footer(&self) -> io::Result<Option<Entries>> {
        let bytes = self.bytes();
        let Some(last) = bytes.checked_sub(FOOTER_END as u64) else { return Ok(None) };
        let mut end = [0; FOOTER_END];
        disk::read_exact_at(&self.file, &mut end, last)?;
        let Some((count, end)) = decode_footer_end(&end) else { return Ok(None) };
        let length = footer_length(count) as u64;
        if u64::from(end) + length != bytes {
            return Ok(None);
        }
        let footer = self.read(end, length as u32)?;
        Ok(footer.and_then(|footer| decode_footer(self.id, &footer)))
    }

    fn scan(&self) -> io::Result<Contents> {
        let mut entries = Vec::new();
        let mut at = Position { segment: self.id, offset: SEGMENT_HEADER as u32 };
        // Records are at least as long as their head: the file is read in steps, each longer than any record's head.
        let size = u32::try_from(self.bytes()).unwrap_or(u32::MAX);
        while size - at.offset.min(size) >= RECORD_HEADER as u32 {
            let Some(head) = self.read(at.offset, RECORD_HEADER as u32)? else { break };
            let Some(head) = RecordHead::decode(&head, at).filter(|head| head.length <= size - at.offset) else {
                break;
            };
            let Some(record) = self.read(at.offset, head.length)? else { break };
            if RecordHead::verify(&record, at).is_none() {
                break;
            }
            entries.push((head.hash, head.index_entry(at)));
            at.offset += head.length;
        }
        Ok(Contents::Open(entries, at.offset))
    }

    /// Cuts everything behind `end`, and writes the footer.
    pub(super) fn seal(&self, entries: &Entries, end: u32) -> io::Result<()> {
        self.file.set_len(u64::from(end))?;
        let footer = encode_footer(self.id, entries, end);
        disk::write_all_at(&self.file, &footer, u64::from(end))?;
        self.bytes.store(u64::from(end) + footer.len() as u64, Ordering::Relaxed);
        self.file.sync_all()
    }
}
