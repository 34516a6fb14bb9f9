//! [`RecordFile`]: records in one file, for the processes of one machine. Each change replaces the file as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::port::{FleetRecord, FleetRecords, MAX_RECORD_BYTES, MAX_RECORDS, refused};
use crate::base::clock::{Clock, unix_millis};
use crate::base::codec::{Reader, Writer};
use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;

/// First byte of the file.
const VERSION: u8 = 1;

/// Records in a directory.
#[derive(Clone, Debug)]
pub(crate) struct RecordFile {
    directory: Arc<Path>,
    clock: Clock,
}

/// Record as it is written.
#[derive(Clone, Debug)]
struct KeptRecord {
    kind: String,
    name: String,
    contents: Vec<u8>,
    /// Milliseconds since 1970.
    expires_at: u64,
}

impl RecordFile {
    pub(crate) fn new(directory: PathBuf, clock: Clock) -> Self {
        Self { directory: directory.into(), clock }
    }

    /// Reads, changes and replaces the file, under a lock that processes share.
    fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Vec<KeptRecord>, u64) -> Option<T> + Send + 'static,
    ) -> BoxFuture<Result<Option<T>, Error>> {
        let (directory, now) = (self.directory.clone(), unix_millis(self.clock.wall()));
        blocking(move || -> io::Result<Option<T>> {
            fs::create_dir_all(&directory)?;
            let lock = File::create(directory.join("records.lock"))?;
            lock.lock()?;
            let path = directory.join("records");
            let mut records = read(&path)?;
            let before = records.len();
            records.retain(|record| record.expires_at > now);
            let result = change(&mut records, now);
            if result.is_some() || before != records.len() {
                write(&directory, &path, &records)?;
            }
            Ok(result)
        })
    }
}

impl FleetRecords for RecordFile {
    fn put(&self, kind: &'static str, record: FleetRecord) -> BoxFuture<Result<(), Error>> {
        if record.contents.len() > MAX_RECORD_BYTES {
            return Box::pin(std::future::ready(Err(refused(kind))));
        }
        let put = self.change(move |records, now| {
            records.retain(|known| known.kind != kind || known.name != record.name);
            let has_room = records.iter().filter(|known| known.kind == kind).count() < MAX_RECORDS;
            let left = u64::try_from(record.left.as_millis()).unwrap_or(u64::MAX);
            let expires_at = now.saturating_add(left);
            let FleetRecord { name, contents, .. } = record;
            has_room.then(|| records.push(KeptRecord { kind: kind.to_owned(), name, contents, expires_at }))
        });
        Box::pin(async move { put.await?.ok_or_else(|| refused(kind)) })
    }

    #[cfg(feature = "jobs")]
    fn replace(
        &self,
        kind: &'static str,
        record: FleetRecord,
        expected: Option<Vec<u8>>,
    ) -> BoxFuture<Result<bool, Error>> {
        let replaced = self.change(move |records, now| {
            let at = records.iter().position(|known| known.kind == kind && known.name == record.name);
            if at.map(|at| &records[at].contents) != expected.as_ref() {
                return None;
            }
            let left = u64::try_from(record.left.as_millis()).unwrap_or(u64::MAX);
            let FleetRecord { name, contents, .. } = record;
            let kept = KeptRecord { kind: kind.to_owned(), name, contents, expires_at: now.saturating_add(left) };
            match at {
                Some(at) => records[at] = kept,
                None => records.push(kept),
            }
            Some(())
        });
        Box::pin(async move { Ok(replaced.await?.is_some()) })
    }

    fn remove(&self, kind: &'static str, name: &str) -> BoxFuture<Result<(), Error>> {
        let name = name.to_owned();
        let removed = self.change(move |records, _| {
            let before = records.len();
            records.retain(|known| known.kind != kind || known.name != name);
            (before != records.len()).then_some(())
        });
        Box::pin(async move { removed.await.map(drop) })
    }

    fn list(&self, kind: &'static str) -> BoxFuture<Result<Vec<FleetRecord>, Error>> {
        let (path, now) = (self.directory.join("records"), unix_millis(self.clock.wall()));
        let records = blocking(move || read(&path));
        Box::pin(async move {
            let of_kind = records.await?.into_iter().filter(|record| record.kind == kind && record.expires_at > now);
            let record = |kept: KeptRecord| FleetRecord {
                name: kept.name,
                contents: kept.contents,
                left: Duration::from_millis(kept.expires_at - now),
            };
            Ok(of_kind.map(record).collect())
        })
    }
}

/// Does this on a thread where it may wait for the disk.
fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> BoxFuture<Result<T, Error>> {
    Box::pin(async move {
        let done = match Handle::try_current() {
            Ok(runtime) => runtime.spawn_blocking(work).await.map_err(io::Error::other).and_then(|done| done),
            Err(_) => work(),
        };
        done.map_err(|error| Error::store(format!("file: records: {error}"), error))
    })
}

/// Reads the file. One that is missing or cannot be read as records has none.
fn read(path: &Path) -> io::Result<Vec<KeptRecord>> {
    match fs::read(path) {
        Ok(contents) => Ok(decode(&contents).unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn write(directory: &Path, path: &Path, records: &[KeptRecord]) -> io::Result<()> {
    let next = directory.join("records.next");
    let mut file = File::create(&next)?;
    file.write_all(&encode(records))?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    File::open(directory)?.sync_all()
}

fn encode(records: &[KeptRecord]) -> Vec<u8> {
    let mut out: Writer = Writer::default();
    out.u8(VERSION);
    out.count(records.len());
    for record in records {
        out.bytes(record.kind.as_bytes());
        out.bytes(record.name.as_bytes());
        out.bytes(&record.contents);
        out.u64(record.expires_at);
    }
    let checksum = crc32fast::hash(&out.0);
    out.u32(checksum);
    out.0
}

/// Returns `None` if the file is damaged or of another version.
fn decode(contents: &[u8]) -> Option<Vec<KeptRecord>> {
    let (contents, checksum) = contents.split_last_chunk::<4>()?;
    (crc32fast::hash(contents) == u32::from_be_bytes(*checksum)).then_some(())?;
    let mut reader = Reader(contents);
    (reader.u8()? == VERSION).then_some(())?;
    let count = reader.count()?;
    let mut record = || {
        let (kind, name) = (reader.text()?.to_owned(), reader.text()?.to_owned());
        Some(KeptRecord { kind, name, contents: reader.bytes()?.to_vec(), expires_at: reader.u64()? })
    };
    (0..count).map(|_| record()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::ManualClock;

    fn record(name: &str, seconds: u64) -> FleetRecord {
        FleetRecord { name: name.to_owned(), contents: b"contents".to_vec(), left: Duration::from_secs(seconds) }
    }

    #[tokio::test]
    async fn records_are_kept_by_kind_until_they_expire_and_a_damaged_file_has_none() {
        let directory = std::env::temp_dir().join(format!("tollgate-records-{}", std::process::id()));
        drop(fs::remove_dir_all(&directory));
        let hand = ManualClock::new();
        let file = RecordFile::new(directory.clone(), Clock::Manual(hand.clone()));
        assert_eq!(file.list("a").await.expect("no file is no error"), []);
        file.put("a", record("x", 60)).await.expect("written");
        file.put("a", record("y", 90)).await.expect("written");
        file.put("b", record("x", 90)).await.expect("written");
        file.put("a", record("x", 30)).await.expect("replaced");
        assert_eq!(file.list("a").await.expect("read"), [record("y", 90), record("x", 30)]);
        hand.advance(Duration::from_secs(30));
        assert_eq!(file.list("a").await.expect("read"), [record("y", 60)]);
        file.remove("a", "y").await.expect("removed");
        assert_eq!((file.list("a").await.expect("read").len(), file.list("b").await.expect("read").len()), (0, 1));
        let large = FleetRecord { contents: vec![0; MAX_RECORD_BYTES + 1], ..record("x", 9) };
        assert!(file.put("a", large).await.is_err());
        let mut damaged = fs::read(directory.join("records")).expect("a file");
        damaged[7] ^= 1;
        fs::write(directory.join("records"), damaged).expect("written");
        assert_eq!(file.list("b").await.expect("readable"), []);
        file.put("b", record("x", 9)).await.expect("it starts anew");
        assert_eq!(file.list("b").await.expect("read").len(), 1);
        drop(fs::remove_dir_all(&directory));
    }

    #[tokio::test]
    async fn there_are_at_most_so_many_of_a_kind() {
        let records = (0..MAX_RECORDS).map(|n| KeptRecord {
            kind: "a".into(),
            name: n.to_string(),
            contents: Vec::new(),
            expires_at: u64::MAX,
        });
        let directory = std::env::temp_dir().join(format!("tollgate-many-records-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        write(&directory, &directory.join("records"), &records.collect::<Vec<_>>()).expect("written");
        let file = RecordFile::new(directory.clone(), Clock::System);
        assert!(file.put("a", record("new", 9)).await.is_err());
        assert!(file.put("a", record("7", 9)).await.is_ok() && file.put("b", record("new", 9)).await.is_ok());
        drop(fs::remove_dir_all(&directory));
    }
}
