//! Two processes with one directory: the second runs without the level, takes it over, and loses no removal.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/directory.rs"]
mod directory;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use directory::{TestDirectory, get, put, remove};
use futures_util::StreamExt;
use tollgate::Event;
use tollgate::cache::{ByteLog, DataCache, LogMessage};
use tollgate::store::RemoteStore;
use tollgate::store::file::{FileBytes, FileLevel};

const DIRECTORY: &str = "TOLLGATE_TEST_DIRECTORY";

/// Waits, in real time, until something that a thread does has happened.
async fn becomes(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if happened().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 15 s: {what}");
}

#[tokio::test]
async fn a_process_without_the_lock_stores_nothing_and_its_removals_reach_the_other() {
    let directory = TestDirectory::new();
    let (first, second) = (directory.open(), directory.open());
    assert!(first.has_lock() && !second.has_lock());
    put(&first, "kept", "value").await;
    put(&first, "removed", "value").await;
    let position = first.append("first".into(), "of the first".into()).await.expect("appended");
    assert_eq!(get(&second, "kept").await, None);
    put(&second, "dropped", "value").await;
    assert_eq!(get(&first, "dropped").await, None);
    assert_eq!(get(&second, "dropped").await, None);
    let secret = first.agree("drawn by the first".to_owned()).await.expect("agreed");
    assert_eq!(second.agree("drawn by the second".to_owned()).await.expect("agreed"), secret);

    let mut messages = first.subscribe().await.expect("subscribed");
    remove(&second, "removed").await;
    second.append("another first".into(), "of the second".into()).await.expect("appended");
    becomes("the removal is applied", async || get(&first, "removed").await.is_none()).await;
    assert!(get(&first, "kept").await.is_some());
    let message = tokio::time::timeout(Duration::from_secs(5), messages.next()).await.expect("in time");
    assert_eq!(message, Some(LogMessage::Record(position + 1, "of the second".into())));
    let log = first.read(Some(position)).await.expect("read");
    assert_eq!(log, [(position, "of the first".into()), (position + 1, "of the second".into())]);
    drop(second);
    becomes("its journal is deleted", async || directory.files("journal-").is_empty()).await;
    put(&first, "removed", "again").await;
    drop(first);
    let bytes = directory.open();
    assert_eq!(get(&bytes, "removed").await.as_deref(), Some(&b"again"[..]), "applied once");
    assert_eq!(bytes.read(None).await.expect("read").len(), 3);
}

#[tokio::test]
async fn removals_that_the_holder_of_the_lock_has_not_seen_survive() {
    let directory = TestDirectory::new();
    let first = directory.open();
    put(&first, "kept", "value").await;
    put(&first, "removed", "value").await;
    first.append("first".into(), "of the first".into()).await.expect("appended");
    // The first process is gone without having looked at the journal of the second.
    drop(first);
    let first = directory.open();
    let second = directory.open();
    let copy = {
        remove(&second, "removed").await;
        second.append("another first".into(), "of the second".into()).await.expect("appended");
        directory.copy()
    };
    drop((first, second));
    let bytes = copy.open();
    assert_eq!(get(&bytes, "removed").await, None);
    assert!(get(&bytes, "kept").await.is_some());
    let log = bytes.read(None).await.expect("read");
    assert_eq!(log.last().map(|(_, record)| &record[..]), Some(&b"of the second"[..]));
}

/// Cuts the last record of another process's journal: what it removed is unknown.
#[tokio::test]
async fn a_damaged_journal_of_another_process_discards_the_directory() {
    let directory = TestDirectory::new();
    let (first, second) = (directory.open(), directory.open());
    put(&first, "name", "value").await;
    remove(&second, "another").await;
    remove(&second, "name").await;
    let copy = directory.copy();
    drop((first, second));
    let journal = copy.files("journal-").remove(0);
    let contents = std::fs::read(&journal).expect("a journal");
    std::fs::write(&journal, &contents[..contents.len() - 25]).expect("cut");
    assert!(FileBytes::open(copy.level()).is_err(), "it may have removed anything");
}

/// Holds the lock until it is killed. Run by the test below.
#[tokio::test]
#[ignore = "the process that is killed"]
async fn holds_the_lock_until_it_is_killed() {
    let level = FileLevel::new(std::env::var(DIRECTORY).expect("a directory"), directory::BOUND);
    let data = DataCache::builder().level_2(Arc::new(RemoteStore::file(level).expect("settings"))).build();
    becomes("the level is up", async || data.levels()[1].up).await;
    let values = data.cached::<u64>("values").ttl(Duration::from_secs(3_600)).build().expect("a namespace");
    values.put(1, 11_u64).await.expect("stored");
    values.put(2, 22_u64).await.expect("stored");
    becomes("they are written", async || data.levels()[1].bytes > 200).await;
    println!("@ready");
    std::future::pending().await
}

#[tokio::test]
async fn a_process_takes_the_directory_over_when_the_other_is_killed() {
    let directory = TestDirectory::new();
    let mut other = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "holds_the_lock_until_it_is_killed", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(other.stdout.take().expect("piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line == "@ready")), "the other process is ready");

    let warnings = Arc::new(Mutex::new(Vec::new()));
    let noted = warnings.clone();
    let hook = move |event: &Event<'_>| {
        if let Event::Warning { code, .. } = event {
            noted.lock().expect("not poisoned").push((*code).to_owned());
        }
    };
    let store = Arc::new(RemoteStore::file(directory.level()).expect("settings"));
    let data = DataCache::builder().level_2(store).hook(hook).build();
    let values = data.cached::<u64>("values").ttl(Duration::from_secs(3_600)).build().expect("a namespace");
    // Without the level, but with a log of its own.
    becomes("it can invalidate", async || values.invalidate().key(2).await.is_ok()).await;
    assert!(!data.levels()[1].up);
    assert_eq!(values.get(1).await, None);
    other.kill().expect("killed");
    other.wait().expect("ended");
    becomes("it takes over", async || data.levels()[1].up).await;
    assert_eq!(values.get(1).await.as_deref(), Some(&11), "what the other stored");
    assert_eq!(values.get(2).await, None, "what was invalidated without the lock");
    assert_eq!(*warnings.lock().expect("not poisoned"), ["locked-directory"]);
}
