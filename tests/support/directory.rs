//! A directory of its own for each test, and what a test does with a file level in it.
#![allow(dead_code, reason = "each test uses its part")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tollgate::cache::ByteStore;
use tollgate::store::file::{FileBytes, FileLevel};

/// Smallest bound.
pub(crate) const BOUND: u64 = 16 << 20;
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// Temporary directory, deleted at the end.
pub(crate) struct TestDirectory(PathBuf);

impl TestDirectory {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tollgate-file-{}-{number}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn level(&self) -> FileLevel {
        // A shared machine may take its time to sync; deadlines have tests of their own.
        FileLevel::new(&self.0, BOUND).deadline(Duration::from_secs(30))
    }

    /// Waits until no process holds the lock.
    pub(crate) async fn released(&self) {
        // A process that was killed early has created none.
        let Ok(lock) = std::fs::File::open(self.0.join("lock")) else { return };
        for _ in 0..2_000 {
            if lock.try_lock().is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not within 10 s: the lock is free");
    }

    pub(crate) fn open(&self) -> FileBytes {
        FileBytes::open(self.level()).expect("opened")
    }

    /// The files with this prefix, in order.
    pub(crate) fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.0).expect("a directory").map(|file| file.expect("a file").path());
        let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        let mut files: Vec<PathBuf> = files.filter(named).collect();
        files.sort();
        files
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files("").iter().map(|path| path.metadata().map_or(0, |file| file.len())).sum()
    }

    /// A copy of all files, as after a crash.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new();
        std::fs::create_dir_all(copy.path()).expect("created");
        for file in self.files("") {
            // It may be deleted meanwhile.
            drop(std::fs::copy(&file, copy.path().join(file.file_name().expect("a name"))));
        }
        copy
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

pub(crate) async fn put(bytes: &FileBytes, name: &str, value: impl Into<Bytes>) {
    assert!(bytes.put(name.to_owned(), value.into(), HOUR).await.expect("put"));
}

pub(crate) async fn get(bytes: &FileBytes, name: &str) -> Option<Bytes> {
    bytes.get_many(vec![name.to_owned()]).await.expect("get").remove(0)
}

pub(crate) async fn remove(bytes: &FileBytes, name: &str) {
    bytes.remove(vec![name.to_owned()]).await.expect("removed");
}
