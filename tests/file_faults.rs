//! A file level whose disk is full or read-only, or whose directory holds what it does not know: the level is off, nothing
//! else is, and it comes back by itself.
#![expect(clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test may fail, and measures")]

#[path = "support/directory.rs"]
mod directory;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use directory::{BOUND, HOUR, TestDirectory, get, put};
use tollgate::Event;
use tollgate::cache::{ByteStore, Cached, DataCache};
use tollgate::store::RemoteStore;
use tollgate::store::file::{FileBytes, FileLevel};

const INSIDE: &str = "TOLLGATE_TEST_MOUNTS";

/// Runs a test again where it may mount file systems. Returns whether this process is the one that may.
fn may_mount(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let probe = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).status();
    if !probe.is_ok_and(|probe| probe.success()) {
        eprintln!("not tested: this system has no user namespaces");
        return false;
    }
    let this = std::env::current_exe().expect("this test's own program");
    let mut ran = Command::new("unshare");
    ran.args(["--map-root-user", "--mount"]).arg(this).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let ran = ran.output().expect("unshare is installed");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && out.contains("1 passed"), "where it may mount:\n{out}\n{err}");
    false
}

fn mount(options: &str, path: &Path) {
    std::fs::create_dir_all(path).expect("created");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).status();
    assert!(mounted.expect("mount is installed").success(), "{options}");
}

/// A cache of values over a directory, and its events.
struct World {
    data: DataCache,
    values: Cached<String>,
    downs: Arc<AtomicUsize>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new(path: PathBuf) -> Self {
        let level = FileLevel::new(path, BOUND).deadline(Duration::from_secs(2));
        let store = Arc::new(RemoteStore::file(level).expect("settings"));
        let (downs, errors) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (counted, noted) = (downs.clone(), errors.clone());
        let hook = move |event: &Event<'_>| {
            if let Event::StoreDown { error, .. } = event {
                counted.fetch_add(1, Ordering::SeqCst);
                noted.lock().expect("not poisoned").push(error.to_string());
            }
        };
        let data = DataCache::builder().level_2(store).hook(hook).build();
        let values = data.cached("values").ttl(HOUR).build().expect("a namespace");
        Self { data, values, downs, errors }
    }

    fn is_up(&self) -> bool {
        self.data.levels()[1].up
    }

    /// Waits until the level is up or not; returns how long that took.
    async fn becomes_up(&self, up: bool) -> Duration {
        let begun = Instant::now();
        while self.is_up() != up {
            assert!(begun.elapsed() < Duration::from_secs(20), "not within 20 s: up {up}; {:?}", self.errors);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        begun.elapsed()
    }
}

impl World {
    async fn is_reported_down(&self) {
        let begun = Instant::now();
        while self.downs.load(Ordering::SeqCst) == 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "nobody was told within 20 s");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Fills a disk to the last byte.
fn fill(path: &Path) -> PathBuf {
    let ballast = path.join("ballast");
    let mut file = std::fs::File::create(&ballast).expect("created");
    while std::io::Write::write_all(&mut file, &[0; 4_096]).is_ok() {}
    ballast
}

#[test]
fn a_full_disk_switches_the_level_off_until_there_is_room() {
    if may_mount("a_full_disk_switches_the_level_off_until_there_is_room") {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(full_disk());
    }
}

async fn full_disk() {
    let directory = TestDirectory::new();
    mount("size=1m", directory.path());
    let world = World::new(directory.path().join("level"));
    world.becomes_up(true).await;
    for number in 0..20 {
        world.values.put(number, "x".repeat(10_000)).await.expect("stored");
    }
    while world.data.levels()[1].bytes < 200_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ballast = fill(directory.path());
    world.values.put(100, "y".repeat(10_000)).await.expect("memory takes it");
    let off_after = world.becomes_up(false).await;
    assert!(off_after < Duration::from_millis(100), "off after {off_after:?}");
    for number in 0..20 {
        let begun = Instant::now();
        assert!(world.values.get(number).await.is_some(), "memory goes on");
        world.values.put(200 + number, "z".repeat(10_000)).await.expect("memory takes it");
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    }
    let error = world.values.invalidate().key(3).await.expect_err("not on disk").to_string();
    assert!(error.contains("pending"), "{error}");
    assert!(world.values.get(3).await.is_none(), "but invalidated here");
    // Over a retry.
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    assert!(!world.is_up());
    assert_eq!(world.downs.load(Ordering::SeqCst), 1, "one warning: {:?}", world.errors);
    std::fs::remove_file(ballast).expect("deleted");
    let back_after = world.becomes_up(true).await;
    assert!(back_after < Duration::from_secs(6), "back after {back_after:?}");
    while world.data.levels()[1].invalidations_pending > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let path = directory.path().join("level");
    drop(world);
    // What was stored before is still there, and what was invalidated meanwhile is not.
    let lock = std::fs::File::open(path.join("lock")).expect("a lock");
    while lock.try_lock().is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(lock);
    let world = World::new(path);
    world.becomes_up(true).await;
    assert_eq!(world.values.get(2).await.map(|value| value.len()), Some(10_000));
    assert_eq!(world.values.get(3).await, None);
}

#[test]
fn a_read_only_directory_is_an_outage_and_no_error() {
    if may_mount("a_read_only_directory_is_an_outage_and_no_error") {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(read_only());
    }
}

async fn read_only() {
    let directory = TestDirectory::new();
    mount("size=4m,ro", directory.path());
    let world = World::new(directory.path().join("level"));
    world.values.put(1, "one".to_owned()).await.expect("memory takes it");
    assert_eq!(world.values.get(1).await.as_deref().map(String::as_str), Some("one"));
    world.is_reported_down().await;
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    assert!(!world.is_up());
    assert_eq!(world.downs.load(Ordering::SeqCst), 1, "one warning: {:?}", world.errors);
    let remounted = Command::new("mount").args(["-o", "remount,rw"]).arg(directory.path()).status();
    assert!(remounted.expect("mount is installed").success());
    let back_after = world.becomes_up(true).await;
    assert!(back_after < Duration::from_secs(6), "back after {back_after:?}");
    world.values.put(2, "two".to_owned()).await.expect("stored");
}

#[tokio::test]
async fn a_path_that_is_no_directory_is_an_outage_and_no_error() {
    let directory = TestDirectory::new();
    std::fs::create_dir_all(directory.path()).expect("created");
    std::fs::write(directory.path().join("level"), "a file").expect("written");
    let world = World::new(directory.path().join("level"));
    world.values.put(1, "one".to_owned()).await.expect("memory takes it");
    world.is_reported_down().await;
    let errors = world.errors.lock().expect("not poisoned").clone();
    assert!(errors[0].contains("level"), "{errors:?}");
    assert!(world.values.get(1).await.is_some() && !world.is_up());
}

/// A directory that is deleted under a running process is created again.
#[tokio::test]
async fn a_deleted_directory_is_an_outage_and_created_again() {
    let directory = TestDirectory::new();
    let world = World::new(directory.path().join("level"));
    world.becomes_up(true).await;
    world.values.put(1, "one".to_owned()).await.expect("stored");
    std::fs::remove_dir_all(directory.path()).expect("deleted");
    world.becomes_up(false).await;
    assert!(world.values.get(1).await.is_some(), "memory goes on");
    world.becomes_up(true).await;
    world.values.put(2, "two".to_owned()).await.expect("stored");
    assert!(directory.path().join("level/journal").exists());
}

#[tokio::test]
async fn a_segment_of_another_version_is_skipped_and_counted() {
    let directory = TestDirectory::new();
    for session in 1..=3 {
        let bytes = directory.open();
        put(&bytes, &format!("of session {session}"), "value").await;
    }
    let segments = directory.files("segment-");
    assert_eq!(segments.len(), 3);
    let mut contents = std::fs::read(&segments[1]).expect("a segment");
    contents[7] += 1;
    std::fs::write(&segments[1], contents).expect("of another version");
    let bytes = directory.open();
    assert!(get(&bytes, "of session 1").await.is_none(), "the other version may have removed it");
    assert!(get(&bytes, "of session 2").await.is_none());
    assert!(get(&bytes, "of session 3").await.is_some());
    assert!(segments[1].exists(), "kept for the other version");
    drop(bytes);
    let store = RemoteStore::file(directory.level()).expect("settings");
    let data = DataCache::builder().level_2(Arc::new(store)).build();
    while !data.levels()[1].up {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(data.levels()[1].decode_errors, 1);
}

#[tokio::test]
async fn a_journal_of_another_version_discards_the_directory() {
    let directory = TestDirectory::new();
    put(&directory.open(), "name", "value").await;
    let journal = directory.path().join("journal");
    let mut contents = std::fs::read(&journal).expect("a journal");
    contents[7] += 1;
    std::fs::write(&journal, contents).expect("of another version");
    let bytes = FileBytes::open(directory.level()).expect("opened");
    assert!(get(&bytes, "name").await.is_none(), "the other version may have removed it");
    bytes.put("name".to_owned(), "another".into(), HOUR).await.expect("put");
    assert!(get(&bytes, "name").await.is_some());
}
