//! A directory as a cache level: the contract, what survives a restart, and the bound of the disk.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/directory.rs"]
mod directory;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use directory::{BOUND, HOUR, TestDirectory, get, put, remove};
use futures_util::future::try_join_all;
use tollgate::cache::{ByteLog, ByteStore, CacheKey, CacheStore};
use tollgate::store::RemoteStore;
use tollgate::store::file::{FileBytes, FileLevel};
use tollgate::testing::contract;
use tollgate::{Clock, ManualClock, Timestamp};

/// Waits until the store has read the log.
async fn ready(store: &RemoteStore) {
    for _ in 0..1_000 {
        // A first call starts it.
        store.get(&CacheKey::from_bytes(b"key", 3), Timestamp::ZERO).await.expect("an answer");
        if store.stats()[0].up {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 5 s: the level is up");
}

#[tokio::test]
async fn the_contract_is_kept() {
    let directory = TestDirectory::new();
    contract::bytes(Arc::new(directory.open())).await;
    contract::bytes(Arc::new(directory.open())).await;
    let other = TestDirectory::new();
    let store = Arc::new(RemoteStore::file(other.level()).expect("settings"));
    ready(&store).await;
    contract::cache(store).await;
}

#[tokio::test]
async fn values_removals_and_the_log_survive_a_restart() {
    let directory = TestDirectory::new();
    let bytes = directory.open();
    for n in 0..100 {
        put(&bytes, &format!("name {n}"), format!("value {n}")).await;
    }
    put(&bytes, "name 1", "another value").await;
    remove(&bytes, "name 2").await;
    remove(&bytes, "name 3").await;
    put(&bytes, "name 3", "put again").await;
    let position = bytes.append("first".into(), "an invalidation".into()).await.expect("appended");
    let secret = bytes.agree("a secret".to_owned()).await.expect("agreed");
    drop(bytes);
    for _ in 0..3 {
        let bytes = directory.open();
        assert_eq!(get(&bytes, "name 0").await.as_deref(), Some(&b"value 0"[..]));
        assert_eq!(get(&bytes, "name 1").await.as_deref(), Some(&b"another value"[..]));
        assert_eq!(get(&bytes, "name 2").await, None);
        assert_eq!(get(&bytes, "name 3").await.as_deref(), Some(&b"put again"[..]));
        let log = bytes.read(None).await.expect("read");
        assert_eq!(log, [(position - 1, "first".into()), (position, "an invalidation".into())]);
        assert_eq!(bytes.agree("another".to_owned()).await.expect("agreed"), secret);
    }
    let bytes = directory.open();
    assert_eq!(bytes.append("first".into(), "another".into()).await.expect("appended"), position + 1);
}

#[tokio::test]
async fn the_disk_is_bounded_and_what_is_hit_stays() {
    let directory = TestDirectory::new();
    let bytes = directory.open();
    let value = Bytes::from(vec![7; 10_000]);
    put(&bytes, "hot", value.clone()).await;
    let mut largest = 0;
    for n in 0..6_000 {
        put(&bytes, &format!("name {n}"), value.clone()).await;
        if n % 50 == 0 {
            assert!(get(&bytes, "hot").await.is_some(), "evicted after {n} puts");
            largest = largest.max(directory.bytes());
            // The writer keeps up.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    assert!(largest <= BOUND + BOUND / 32, "{largest} bytes on disk");
    assert!(largest >= BOUND * 3 / 4, "{largest} bytes on disk");
    assert!(get(&bytes, "name 1").await.is_none(), "the oldest are evicted");
    // A put may be dropped while too many wait.
    while get(&bytes, "latest").await.is_none() {
        put(&bytes, "latest", value.clone()).await;
    }
    drop(bytes);
    let bytes = directory.open();
    assert!(get(&bytes, "hot").await == Some(value), "and after a restart");
    assert!(directory.bytes() <= BOUND + BOUND / 32);
}

#[tokio::test]
async fn values_end_with_their_lifetime_and_are_not_from_the_future() {
    let (directory, clock) = (TestDirectory::new(), ManualClock::new());
    let open = || FileBytes::open(directory.level().clock(Clock::Manual(clock.clone()))).expect("opened");
    let wall = Clock::Manual(clock.clone()).wall();
    let bytes = open();
    bytes.put("brief".into(), "value".into(), Duration::from_secs(60)).await.expect("put");
    put(&bytes, "long", "value").await;
    clock.advance(Duration::from_secs(59));
    assert!(get(&bytes, "brief").await.is_some());
    clock.advance(Duration::from_secs(1));
    assert!(get(&bytes, "brief").await.is_none() && get(&bytes, "long").await.is_some());
    drop(bytes);
    // The wall clock was set back during the restart.
    clock.set_wall(wall - HOUR);
    let bytes = open();
    assert!(get(&bytes, "long").await.is_none(), "written in the future");
    put(&bytes, "long", "another").await;
    assert_eq!(get(&bytes, "long").await.as_deref(), Some(&b"another"[..]));
}

#[cfg(unix)]
#[tokio::test]
async fn files_belong_to_their_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TestDirectory::new();
    let bytes = directory.open();
    put(&bytes, "name", "value").await;
    bytes.agree("a secret".to_owned()).await.expect("agreed");
    drop(bytes);
    let mode = |path: &std::path::Path| path.metadata().expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(directory.path()), 0o700);
    let files = directory.files("");
    assert!(files.len() >= 5, "{files:?}");
    files.iter().for_each(|file| assert_eq!(mode(file), 0o600, "{}", file.display()));
}

#[tokio::test]
async fn the_journal_stays_short_and_its_records_share_syncs() {
    let directory = TestDirectory::new();
    let bytes = directory.open();
    put(&bytes, "name", "value").await;
    let length = || directory.path().join("journal").metadata().expect("a journal").len();
    let mut last = 0;
    for batch in 0..15 {
        let record = |n: usize| Bytes::from(format!("{:0150}", batch * 1_000 + n));
        let appended = (0..1_000).map(|n| bytes.append("first".into(), record(n)));
        let positions = try_join_all(appended).await.expect("appended");
        assert!(positions.is_sorted(), "in order");
        last = positions[999];
        try_join_all((0..1_000).map(|n| bytes.remove(vec![format!("removed {batch} {n}")]))).await.expect("removed");
    }
    // Thirty thousand records of 150 and 25 bytes: 2.7 MB.
    assert!(length() < BOUND / 8, "{} bytes", length());
    drop(bytes);
    let bytes = directory.open();
    let log = bytes.read(None).await.expect("read");
    assert_eq!(log.last().map(|(position, _)| *position), Some(last));
    assert!((1_000..15_000).contains(&log.len()), "the latest {}", log.len());
    assert!(get(&bytes, "name").await.is_some());
}

#[test]
fn impossible_settings_are_named() {
    let error = |level: FileLevel| RemoteStore::file(level).expect_err("refused").to_string();
    assert!(error(FileLevel::new("", 1 << 30)).contains("path is empty"));
    assert!(error(FileLevel::new("/tmp/x", 1 << 20)).contains("1048576"));
    assert!(error(FileLevel::new("/tmp/x", 1 << 30).deadline(Duration::ZERO)).contains("deadline of 0"));
}

#[tokio::test]
async fn values_are_scanned_in_steps() {
    let directory = TestDirectory::new();
    let bytes = directory.open();
    for n in 0..1_000 {
        put(&bytes, &format!("a:{n}"), "value").await;
        put(&bytes, &format!("b:{n}"), "value").await;
    }
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = bytes.scan("a:".to_owned(), cursor).await.expect("a page");
        found.extend(page.heads);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 1_000);
    assert!(found.iter().all(|(name, value)| name.starts_with("a:") && value == "value"));
}
