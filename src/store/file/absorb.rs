//! Applies the journals of processes without the lock: their removals, and their invalidations.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::disk;
use super::journal::{Journal, OTHER_JOURNAL};
use super::journal_record::{JOURNAL_HEADER, JournalRecord, decode_header, decode_records};
use super::segment_log::SegmentLog;

/// Applies what other journals contain beyond what was applied before. Deletes those whose process has ended.
#[derive(Debug, Default)]
pub(super) struct Absorber {
    /// Length of each journal that was applied, to read only those that have grown.
    lengths: HashMap<PathBuf, u64>,
}

impl Absorber {
    pub(super) fn run(&mut self, log: &SegmentLog, journal: &Journal) -> io::Result<()> {
        let mut ids = HashSet::new();
        for file in fs::read_dir(&log.directory)? {
            let file = file?;
            let name = file.file_name();
            let is_other = name.to_str().is_some_and(|name| name.starts_with(OTHER_JOURNAL) && !name.ends_with(".new"));
            if !is_other {
                continue;
            }
            let path = file.path();
            match self.file(&path, log, journal)? {
                Some(id) => drop(ids.insert(id)),
                None => drop(self.lengths.remove(&path)),
            }
        }
        journal.state().forget_absorbed(|id| ids.contains(&id));
        Ok(())
    }

    /// Applies one journal; returns its ID unless it was deleted.
    fn file(&mut self, path: &Path, log: &SegmentLog, journal: &Journal) -> io::Result<Option<u64>> {
        let Ok(file) = disk::open(path) else { return Ok(None) };
        let length = file.metadata()?.len();
        // First whether its process has ended, then what it wrote.
        let has_ended = file.try_lock().is_ok();
        if self.lengths.get(path) == Some(&length) && !has_ended {
            return Ok(header(&file));
        }
        let mut bytes = vec![0; length as usize];
        disk::read_exact_at(&file, &mut bytes, 0)?;
        let Some((id, synced)) = decode_header(&bytes) else {
            return match has_ended {
                true => Err(unreadable(path)),
                // Of another version, perhaps.
                false => Ok(Some(0)),
            };
        };
        let applied = journal.state().absorbed(id).map_or(JOURNAL_HEADER, |offset| offset as usize);
        let (records, end) = decode_records(&bytes, applied);
        if has_ended && (end as u64) < synced {
            return Err(unreadable(path));
        }
        self.lengths.insert(path.to_owned(), length);
        if records.is_empty() {
            // What was applied before is on disk if nothing waits.
            if has_ended && journal.is_idle() {
                disk::delete(path)?;
                return Ok(None);
            }
            return Ok(Some(id));
        }
        apply(records, id, end as u64, log, journal);
        Ok(Some(id))
    }
}

fn apply(records: Vec<JournalRecord>, id: u64, end: u64, log: &SegmentLog, journal: &Journal) {
    for record in records {
        match record {
            JournalRecord::Removal { hash, .. } => {
                let (_, removals) = log.remove(&[hash]);
                let removals = removals.into_iter().map(|(hash, before)| JournalRecord::Removal { hash, before });
                drop(journal.commit(removals));
            }
            // Without a log there is nothing yet that could be invalidated.
            JournalRecord::Log { record, .. } => journal.append_existing(record),
            JournalRecord::Restart { .. } | JournalRecord::Absorbed { .. } => {}
        }
    }
    drop(journal.commit([JournalRecord::Absorbed { journal: id, offset: end }]));
}

/// A journal that cannot be read may have removed anything: the directory is discarded.
fn unreadable(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged or of another version", path.display()))
}

fn header(file: &File) -> Option<u64> {
    let mut header = [0; JOURNAL_HEADER];
    disk::read_exact_at(file, &mut header, 0).ok()?;
    decode_header(&header).map(|(id, _)| id)
}

/// Deletes the journals of processes that have ended.
pub(super) fn discard(directory: &Path) -> io::Result<()> {
    for file in fs::read_dir(directory)? {
        let file = file?;
        if file.file_name().to_str().is_some_and(|name| name.starts_with(OTHER_JOURNAL)) {
            let path = file.path();
            let has_ended = disk::open(&path).is_ok_and(|file| file.try_lock().is_ok());
            if has_ended {
                disk::delete(&path)?;
            }
        }
    }
    Ok(())
}
