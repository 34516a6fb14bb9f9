//! Recovery: reads the segments of a directory when it is opened.
//!
//! | finding | consequence |
//! |---|---|
//! | a segment with a valid footer | its entries are used |
//! | the last segment, without a footer | is cut at the first invalid record, and gets a footer |
//! | a segment that is shorter than the checkpoint says, or that lacks its predecessor | was damaged: it may have lost removals, so it is discarded with all earlier ones |
//! | a segment of another version | is skipped and counted; earlier ones are discarded, since it may remove from them |

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::SyncedFiles;
use super::index::{FileIndex, Position};
use super::record::SegmentHeader;
use super::segments::{Contents, Entries, Segment};

/// The segments of a directory, and the index over them.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) segments: BTreeMap<u32, Arc<Segment>>,
    pub(super) index: FileIndex,
    /// ID of the next segment.
    pub(super) next: u32,
    /// Number of segments of another version.
    pub(super) skipped: u64,
    /// Number of segments that were discarded because of damage.
    pub(super) damaged: u64,
    entries: BTreeMap<u32, Entries>,
}

/// Reads the segments of a directory; `removed` are the removals in its journal.
pub(super) fn recover(
    directory: &Path,
    synced: &SyncedFiles,
    removed: &HashMap<u64, Position>,
) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut last = synced.segment.segment;
    for (id, path) in Segment::list(directory)? {
        last = last.max(id);
        recovered.segment(path, id, synced.segment)?;
    }
    last = removed.values().fold(last, |last, before| last.max(before.segment));
    recovered.next = last + 1;
    recovered.index(removed);
    Ok(recovered)
}

/// Deletes all segments of a directory.
pub(super) fn discard(directory: &Path) -> io::Result<()> {
    Segment::list(directory)?.into_iter().try_for_each(|(_, path)| super::disk::delete(&path))
}

impl Recovered {
    /// An empty directory.
    pub(super) fn empty() -> Self {
        Self { next: 1, ..Self::default() }
    }

    fn segment(&mut self, path: PathBuf, id: u32, synced: Position) -> io::Result<()> {
        let (segment, header) = Segment::open(path, id)?;
        let previous = match header {
            SegmentHeader::Current { previous } => previous,
            SegmentHeader::OtherVersion => {
                self.skipped += 1;
                self.discard_earlier()?;
                self.segments.insert(id, Arc::new(segment));
                return Ok(());
            }
            SegmentHeader::Damaged => return self.damaged(&segment, id <= synced.segment),
        };
        if previous != 0 && !self.segments.contains_key(&previous) && !self.segments.is_empty() {
            self.damaged += 1;
            self.discard_earlier()?;
        }
        let entries = match segment.contents()? {
            Contents::Sealed(entries) => entries,
            Contents::Open(entries, end) => {
                if id < synced.segment || id == synced.segment && end < synced.offset {
                    return self.damaged(&segment, true);
                }
                if entries.is_empty() {
                    return segment.delete();
                }
                segment.seal(&entries, end)?;
                entries
            }
        };
        self.entries.insert(id, entries);
        self.segments.insert(id, Arc::new(segment));
        Ok(())
    }

    /// Discards a segment, and all earlier ones if it had been synced.
    fn damaged(&mut self, segment: &Segment, was_synced: bool) -> io::Result<()> {
        self.damaged += 1;
        segment.delete()?;
        if was_synced { self.discard_earlier() } else { Ok(()) }
    }

    fn discard_earlier(&mut self) -> io::Result<()> {
        self.entries.clear();
        let earlier = std::mem::take(&mut self.segments);
        for (id, segment) in earlier {
            // Those of another version are kept for it.
            if segment.is_foreign {
                self.segments.insert(id, segment);
            } else {
                segment.delete()?;
            }
        }
        Ok(())
    }

    fn index(&mut self, removed: &HashMap<u64, Position>) {
        self.index.reserve(self.entries.values().map(Vec::len).sum());
        for entries in std::mem::take(&mut self.entries).into_values() {
            if removed.is_empty() {
                self.index.apply(&entries);
                continue;
            }
            for (hash, entry) in entries {
                if entry.length == 0 || removed.get(&hash).is_some_and(|before| entry.at < *before) {
                    self.index.remove(hash);
                } else {
                    self.index.insert(hash, entry);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::file::disk;
    use crate::store::file::record::{RecordHead, hash};
    use crate::store::file::tail::Tail;

    /// A directory with a value in its first segment, which is removed in the second.
    struct TwoSegments(PathBuf);

    impl TwoSegments {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tollgate-recovery-{name}-{}", std::process::id()));
            disk::create_directory(&path).expect("created");
            let mut tail = Tail::new(1, 0, 1 << 20);
            let head = RecordHead::value("removed", b"value", 1, u64::MAX).expect("short");
            tail.append(&head, b"removed", b"value").expect("room");
            tail.seal();
            tail.append_always(&RecordHead::removal(hash("removed"), 2), &[], &[]);
            let head = RecordHead::value("kept", b"value", 3, u64::MAX).expect("short");
            tail.append(&head, b"kept", b"value").expect("room");
            tail.seal();
            while let Some(chunk) = tail.take() {
                let segment = Segment::create(&path, chunk.segment).expect("created");
                segment.write(&chunk.bytes, chunk.start).expect("written");
                tail.written();
            }
            Self(path)
        }

        fn second(&self) -> PathBuf {
            self.0.join("segment-00000002")
        }

        /// Recovers with this much of the second segment synced; returns which of the values are there.
        fn recover(&self, synced: u32) -> (bool, bool, u64) {
            let segment = Position { segment: 2, offset: synced };
            let synced = SyncedFiles { segment, ..SyncedFiles::default() };
            let recovered = recover(&self.0, &synced, &HashMap::new()).expect("recovered");
            let contains = |name| recovered.index.get(hash(name)).is_some();
            (contains("removed"), contains("kept"), recovered.damaged)
        }
    }

    impl Drop for TwoSegments {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("deleted");
        }
    }

    #[test]
    fn a_removal_applies_to_earlier_segments() {
        assert_eq!(TwoSegments::new("whole").recover(100), (false, true, 0));
    }

    #[test]
    fn a_segment_that_lost_what_was_synced_is_discarded_with_earlier_ones() {
        let directory = TwoSegments::new("cut");
        let contents = std::fs::read(directory.second()).expect("a segment");
        std::fs::write(directory.second(), &contents[..30]).expect("cut in its first record");
        assert_eq!(directory.recover(100), (false, false, 1));
        // What was not synced is in the journal, if it removes anything.
        let directory = TwoSegments::new("torn");
        std::fs::write(directory.second(), &contents[..30]).expect("cut in its first record");
        assert_eq!(directory.recover(20), (true, false, 0));
    }

    #[test]
    fn a_segment_without_its_predecessor_discards_earlier_ones() {
        let directory = TwoSegments::new("missing");
        let mut tail = Tail::new(3, 2, 1 << 20);
        let head = RecordHead::value("last", b"value", 3, u64::MAX).expect("short");
        tail.append(&head, b"last", b"value").expect("room");
        tail.seal();
        let chunk = tail.take().expect("a chunk");
        Segment::create(&directory.0, 3).expect("created").write(&chunk.bytes, 0).expect("written");
        assert_eq!(directory.recover(100), (false, true, 0));
        std::fs::remove_file(directory.second()).expect("deleted");
        assert_eq!(directory.recover(100), (false, false, 1));
    }
}
