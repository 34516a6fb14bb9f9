//! Caches with a file level, over restarts: responses, typed values, invalidations of every kind.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/directory.rs"]
mod directory;
#[path = "support/cache_world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use directory::{BOUND, TestDirectory};
use tollgate::Tollgate;
use tollgate::cache::{CacheLayer, Cached, DataCache, Rules};
use tollgate::store::RemoteStore;
use tollgate::store::file::FileLevel;
use world::{World, reply};

const HOUR: &[(&str, &str)] =
    &[("cache-control", "max-age=3600, stale-while-revalidate=3600"), ("cache-tag", "prices")];

/// Waits, in real time, until something that a thread does has happened.
async fn becomes(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if happened().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 10 s: {what}");
}

/// A process with a file level, ready to be asked.
async fn started(directory: &TestDirectory) -> World {
    let store = Arc::new(RemoteStore::file(directory.level()).expect("settings"));
    let world = World::with(
        |builder| builder.level_2(store),
        |asked| async move { Ok(reply(HOUR, format!("answer {}", asked.call))) },
    );
    becomes("the level is up", async || world.stats().levels[1].up).await;
    world
}

/// Waits until this many entries are in the level.
async fn stored(world: &World, entries: u64) {
    becomes("it is stored", async || world.stats().levels[1].entries >= entries).await;
}

#[tokio::test]
async fn responses_survive_a_restart_and_invalidations_too() {
    let directory = TestDirectory::new();
    let first = started(&directory).await;
    for path in ["/tagged", "/by-key", "/under/prefix", "/soft", "/kept"] {
        first.get(path).await;
    }
    stored(&first, 5).await;
    drop(first);
    directory.released().await;

    let second = started(&directory).await;
    for path in ["/tagged", "/by-key", "/under/prefix", "/soft", "/kept"] {
        assert!(second.get(path).await.is_hit(), "{path}");
    }
    assert_eq!(second.calls(), 0, "nothing is asked again");
    assert_eq!(second.stats().levels[1].hits, 5);
    second.layer.invalidate().key("http://example.com/by-key").await.expect("on disk");
    second.layer.invalidate().prefix("http://example.com/under/").await.expect("on disk");
    second.layer.invalidate().soft().key("http://example.com/soft").await.expect("on disk");
    drop(second);
    directory.released().await;

    let third = started(&directory).await;
    assert!(third.get("/tagged").await.is_hit() && third.get("/kept").await.is_hit());
    assert!(!third.get("/by-key").await.is_hit() && !third.get("/under/prefix").await.is_hit());
    assert_eq!(third.calls(), 2);
    let stale = third.get("/soft").await;
    assert_eq!(stale.body, "answer 3", "stale, while it is revalidated");
    becomes("it is revalidated", async || third.calls() == 3).await;
    third.layer.invalidate().tag("prices").await.expect("on disk");
    drop(third);
    directory.released().await;

    let fourth = started(&directory).await;
    assert!(!fourth.get("/tagged").await.is_hit() && !fourth.get("/kept").await.is_hit());
    assert_eq!(fourth.stats().levels[1].decode_errors, 0);
}

#[tokio::test]
async fn an_unsafe_request_removes_what_it_names_for_good() {
    let directory = TestDirectory::new();
    let first = started(&directory).await;
    let before = first.get("/a").await.body;
    stored(&first, 1).await;
    first.send(http::Request::post("http://example.com/a").body(Default::default()).expect("a request")).await;
    drop(first);
    directory.released().await;
    let second = started(&directory).await;
    let after = second.get("/a").await;
    assert!(!after.is_hit(), "{before} was invalidated");
}

#[tokio::test]
async fn typed_values_survive_a_restart_and_their_invalidation_too() {
    let directory = TestDirectory::new();
    let open = async || {
        let store = Arc::new(RemoteStore::file(directory.level()).expect("settings"));
        let data = DataCache::builder().level_2(store).build();
        becomes("the level is up", async || data.levels()[1].up).await;
        let users: Cached<String> = data.cached("users").ttl(Duration::from_secs(3_600)).build().expect("a namespace");
        (data, users)
    };
    let (data, users) = open().await;
    users.put(7, "Ada".to_owned()).await.expect("stored");
    users.put(8, "Grace".to_owned()).await.expect("stored");
    drop((data, users));
    directory.released().await;
    let (data, users) = open().await;
    let never = async || -> Result<String, std::io::Error> { panic!("it is in the level") };
    assert_eq!(*users.get_or_load(7, never).await.expect("a value"), "Ada");
    users.invalidate().key(8).await.expect("on disk");
    drop((data, users));
    directory.released().await;
    let (_data, users) = open().await;
    assert_eq!(users.get(7).await.as_deref().map(String::as_str), Some("Ada"));
    assert_eq!(users.get(8).await, None);
}

#[tokio::test]
async fn one_line_gives_every_cache_a_file_level() {
    let directory = TestDirectory::new();
    let path = |name: &str| directory.path().join(name);
    let layer = CacheLayer::builder().file(path("layer"), BOUND).build().expect("built");
    let gate = Tollgate::builder().cache(Rules::new()).file(path("gate"), BOUND).build().expect("built");
    let upstream = Tollgate::upstream("x").cache(Rules::new()).file(path("upstream"), BOUND).build().expect("built");
    let data = DataCache::builder().file(path("data"), BOUND).expect("settings").build();
    for name in ["layer", "gate", "upstream", "data"] {
        becomes(name, async || path(name).join("checkpoint").exists()).await;
    }
    assert_eq!(layer.stats().levels[1].name, "file");
    assert_eq!(gate.stats().cache[1].capacity_bytes, BOUND);
    assert_eq!(data.levels()[1].capacity_bytes, BOUND);
    drop((layer, gate, upstream, data));
}

#[test]
fn impossible_settings_are_named() {
    let error = |error: tollgate::Error| error.to_string();
    let small = CacheLayer::builder().file("/tmp/x", 1).build().expect_err("refused");
    assert!(error(small).contains("too small"));
    let empty = Tollgate::builder().cache(Rules::new()).file("", BOUND).build().expect_err("refused");
    assert!(error(empty).contains("path is empty"));
    let directory = TestDirectory::new();
    let (one, other) = (directory.path().join("one"), directory.path().join("other"));
    let same = directory.path().join("./one/");
    let layer = |paths: [&std::path::Path; 2]| {
        CacheLayer::builder().file(paths[0], BOUND).file(paths[1], BOUND).build().map(drop)
    };
    assert!(error(layer([&one, &same]).expect_err("refused")).contains("named twice"));
    assert!(layer([&one, &other]).is_ok());
    let store = |path: &std::path::Path| Arc::new(RemoteStore::file(FileLevel::new(path, BOUND)).expect("settings"));
    let twice = CacheLayer::builder().level_2(store(&one)).level_2(store(&same)).build().expect_err("refused");
    assert!(error(twice).contains("named twice"));
    let data = DataCache::builder().file(&one, BOUND).expect("settings").file(&one, BOUND).expect_err("refused");
    assert!(error(data).contains("named twice"));
}
