//! Any server that keeps bytes as a cache level: shared, validated, ordered, and never in the way.
#![expect(clippy::panic, clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and measures")]

#[path = "support/cache_world.rs"]
mod world;

#[path = "../examples/http_kv/client.rs"]
mod http_kv;
#[path = "../examples/http_kv/service.rs"]
mod http_kv_service;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tollgate::cache::{ByteStore, CacheStore};
use tollgate::store::{RemoteSettings, RemoteStore};
use tollgate::testing::{MemoryBytes, contract};
use tollgate::{Clock, Error, ManualClock};
use world::{World, data, fed, reply};

const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("cache-tag", "prices")];

fn store(bytes: impl ByteStore) -> RemoteStore {
    let settings = RemoteSettings::new("shared").secret("the same on every node");
    RemoteStore::new(bytes, settings).expect("settings")
}

/// A node whose cache has these bytes behind its memory; answers are numbered over all nodes of a test.
fn node(bytes: impl ByteStore, clock: &ManualClock) -> World {
    static NODES: AtomicUsize = AtomicUsize::new(0);
    let (store, clock, node) = (Arc::new(store(bytes)), clock.clone(), NODES.fetch_add(1, Ordering::SeqCst));
    World::with(
        |builder| builder.clock(Clock::Manual(clock)).level_2(store),
        move |asked| async move { Ok(reply(MINUTE, format!("answer {} of node {node}", asked.call))) },
    )
}

/// Waits, in real time, until something that a task does has happened.
async fn becomes(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if happened().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 5 s: {what}");
}

async fn ready(world: &World) {
    becomes("the level is up", async || world.stats().levels[1].up).await;
}

#[tokio::test]
async fn the_contract_is_kept_with_and_without_a_log_and_over_http() {
    contract::bytes(Arc::new(MemoryBytes::new())).await;
    contract::bytes(Arc::new(MemoryBytes::with_log())).await;
    let address = http_kv_service::serve().await.expect("a service");
    contract::bytes(Arc::new(http_kv::HttpKv::new(format!("http://{address}")))).await;
    let plain = Arc::new(store(MemoryBytes::new()));
    becomes("it is connected", async || plain.stats()[0].up).await;
    contract::cache(plain).await;
}

#[tokio::test]
async fn nodes_share_entries_and_invalidations_over_a_log() {
    let (server, clock) = (MemoryBytes::with_log(), ManualClock::new());
    let (one, two) = (node(server.clone(), &clock), node(server.clone(), &clock));
    ready(&one).await;
    ready(&two).await;
    let first = one.get("/a").await.body;
    becomes("it is in the server", async || !server.names().is_empty()).await;
    let shared = two.get("/a").await;
    assert!(shared.is_hit() && shared.body == first);
    assert!(server.names().iter().all(|name| !name.contains("/a")), "names are hashes: {:?}", server.names());
    one.layer.invalidate().tag("prices").await.expect("logged");
    becomes("the other node has it", async || !two.get("/a").await.is_hit()).await;
    // A new node reads the log first: what was invalidated stays so.
    let three = node(server, &clock);
    ready(&three).await;
    assert_ne!(three.get("/a").await.body, first);
}

#[tokio::test]
async fn without_a_log_removals_reach_other_nodes_in_five_seconds_and_tags_stay_at_home() {
    let (server, clock) = (MemoryBytes::new(), ManualClock::new());
    let (one, two) = (node(server.clone(), &clock), node(server.clone(), &clock));
    ready(&one).await;
    ready(&two).await;
    one.get("/a").await;
    becomes("it is in the server", async || !server.names().is_empty()).await;
    assert!(two.get("/a").await.is_hit());
    one.layer.invalidate().key("http://example.com/a").await.expect("removed");
    assert!(server.names().is_empty());
    assert!(two.get("/a").await.is_hit(), "a copy in memory");
    clock.advance(Duration::from_secs(5));
    assert!(!two.get("/a").await.is_hit(), "asked again, and gone");
    let error = one.layer.invalidate().tag("prices").await.expect_err("nobody else is told");
    assert!(error.to_string().contains("no log"), "{error}");
    assert!(!one.get("/a").await.is_hit(), "invalidated here, in the server's copy too");
    // A restarted process finds what the others stored.
    let restarted = node(server, &clock);
    ready(&restarted).await;
    assert!(restarted.get("/a").await.is_hit());
}

#[tokio::test]
async fn of_two_fetches_the_one_that_began_later_stays_in_every_level() {
    for with_server in [false, true] {
        let (server, clock) = (MemoryBytes::new(), ManualClock::new());
        let slow = Arc::new(tokio::sync::Notify::new());
        let released = slow.clone();
        let level_2 = server.clone();
        let world = World::with(
            |builder| {
                let builder = builder.clock(Clock::Manual(clock.clone())).wait(Duration::from_millis(20));
                if with_server { builder.level_2(Arc::new(store(level_2))) } else { builder }
            },
            move |asked| {
                let released = released.clone();
                async move {
                    if asked.call == 0 {
                        released.notified().await;
                    }
                    Ok(reply(MINUTE, format!("answer {}", asked.call)))
                }
            },
        );
        let first = world.clone();
        let first = tokio::spawn(async move { first.get("/a").await.body });
        becomes("the slow fetch has begun", async || world.calls() == 1).await;
        clock.advance(Duration::from_secs(1));
        assert_eq!(world.get("/a").await.body, "answer 1", "its wait is over");
        becomes("it is stored", async || world.get("/a").await.is_hit()).await;
        slow.notify_one();
        assert_eq!(first.await.expect("no panic"), "answer 0", "its own client gets it");
        assert!(world.is_quiet().await);
        assert_eq!(world.get("/a").await.body, "answer 1", "with a server: {with_server}");
        if with_server {
            let other = node(server, &clock);
            ready(&other).await;
            assert_eq!(other.get("/a").await.body, "answer 1");
        }
    }
}

#[tokio::test]
async fn a_fetch_that_began_later_replaces_one_whose_head_came_later() {
    let (slow, (feed, body)) = (Arc::new(tokio::sync::Notify::new()), fed());
    let (released, body) = (slow.clone(), std::sync::Mutex::new(Some(body)));
    let clock = ManualClock::new();
    let world = World::with(
        |builder| builder.clock(Clock::Manual(clock.clone())).wait(Duration::from_millis(20)),
        move |asked| {
            let released = released.clone();
            let body = if asked.call == 1 { body.lock().expect("no panic").take() } else { None };
            async move {
                if asked.call == 0 {
                    released.notified().await;
                }
                let mut response = reply(MINUTE, "first");
                if let Some(body) = body {
                    *response.body_mut() = body;
                }
                Ok(response)
            }
        },
    );
    let ask = |world: &World| {
        let world = world.clone();
        tokio::spawn(async move { world.get("/a").await.body })
    };
    let first = ask(&world);
    becomes("the first fetch has begun", async || world.calls() == 1).await;
    clock.advance(Duration::from_secs(1));
    let second = ask(&world);
    becomes("the second has begun", async || world.calls() == 2).await;
    clock.advance(Duration::from_secs(1));
    slow.notify_one();
    assert_eq!(first.await.expect("no panic"), "first");
    becomes("the first is stored", async || world.get("/a").await.is_hit()).await;
    feed.send(data("second")).expect("it is read");
    drop(feed);
    assert_eq!(second.await.expect("no panic"), "second");
    assert!(world.is_quiet().await);
    assert_eq!(world.get("/a").await.body, "second");
}

type Failure = fn() -> BoxFuture<'static, Result<Bytes, Error>>;

#[tokio::test]
async fn a_typed_value_that_is_invalidated_by_key_is_gone_from_a_server_without_a_log() {
    let server = MemoryBytes::new();
    let node = || tollgate::cache::DataCache::builder().level_2(Arc::new(store(server.clone()))).build();
    let (one, two) = (node(), node());
    becomes("both are connected", async || one.levels()[1].up && two.levels()[1].up).await;
    let users = |data: &tollgate::cache::DataCache| data.cached::<u64>("users").build().expect("a namespace");
    let (here, there) = (users(&one), users(&two));
    here.put(7, 42_u64).await.expect("stored");
    assert_eq!(there.get(7).await.as_deref(), Some(&42));
    here.invalidate().key(7).await.expect("removed");
    assert!(server.names().is_empty(), "the value is gone");
    assert!(users(&node()).get(7).await.is_none());
}

/// A server that fails in a way of its own.
struct Broken(Failure, Arc<AtomicUsize>);

impl Broken {
    fn call<T: Send + 'static>(&self) -> BoxFuture<'static, Result<T, Error>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let broken = self.0();
        Box::pin(async move { broken.await.map(|_| unreachable!("it fails")) })
    }
}

impl ByteStore for Broken {
    fn get_many(&self, _: Vec<String>) -> BoxFuture<'static, Result<Vec<Option<Bytes>>, Error>> {
        self.call()
    }

    fn put(&self, _: String, _: Bytes, _: Duration) -> BoxFuture<'static, Result<bool, Error>> {
        self.call()
    }

    fn remove(&self, _: Vec<String>) -> BoxFuture<'static, Result<u64, Error>> {
        self.call()
    }
}

#[tokio::test]
async fn a_server_that_fails_hangs_or_panics_is_a_miss_and_soon_left_alone() {
    let failures: [Failure; 4] = [
        || Box::pin(async { Err(Error::store("full", "disk full")) }),
        || Box::pin(async { Err(Error::disconnected("connection reset")) }),
        || Box::pin(std::future::pending()),
        || panic!("a bug of the client"),
    ];
    for (n, failure) in failures.into_iter().enumerate() {
        let calls = Arc::new(AtomicUsize::new(0));
        let world = node(Broken(failure, calls.clone()), &ManualClock::new());
        for path in 0..50 {
            let begun = std::time::Instant::now();
            let got = world.get(&format!("/{path}")).await;
            assert_eq!(got.status, 200, "failure {n}");
            assert!(begun.elapsed() < Duration::from_secs(1), "failure {n}: {:?}", begun.elapsed());
        }
        assert!(world.get("/1").await.is_hit(), "failure {n}: memory goes on");
        if n < 3 {
            assert!(calls.load(Ordering::SeqCst) < 60, "failure {n}: the circuit opens");
        }
    }
}

#[tokio::test]
async fn what_another_version_wrote_is_a_miss_and_counted_and_its_invalidations_count() {
    let (server, clock) = (MemoryBytes::with_log(), ManualClock::new());
    let one = node(server.clone(), &clock);
    ready(&one).await;
    one.get("/a").await;
    becomes("it is in the server", async || !server.names().is_empty()).await;
    let name = server.names().remove(0);
    let mut value = server.value(&name).expect("a value").to_vec();
    assert_eq!(value[..4], *b"TGC\x03");
    value[3] = 1;
    server.put(name.clone(), value.into(), Duration::from_secs(60)).await.expect("kept");
    let two = node(server.clone(), &clock);
    ready(&two).await;
    assert!(!two.get("/a").await.is_hit());
    assert!(two.stats().levels[1].decode_errors >= 1);
    becomes("it is written anew", async || server.value(&name).is_some_and(|value| value[3] == 3)).await;
    // Records of the log have not changed: each version obeys the other's.
    two.layer.invalidate().all().await.expect("logged");
    becomes("the first node has it", async || !one.get("/a").await.is_hit()).await;
}

#[tokio::test]
async fn a_server_that_lost_everything_voids_what_came_before() {
    let (server, clock) = (MemoryBytes::with_log(), ManualClock::new());
    let one = node(server.clone(), &clock);
    ready(&one).await;
    one.get("/a").await;
    server.clear();
    becomes("the new log is known", async || !one.get("/a").await.is_hit()).await;
    becomes("and used", async || one.get("/a").await.is_hit()).await;
}

#[test]
fn impossible_settings_are_named() {
    let named = |settings: RemoteSettings, bytes: MemoryBytes| {
        RemoteStore::new(bytes, settings).expect_err("refused").to_string()
    };
    let (logged, plain) = (MemoryBytes::with_log, MemoryBytes::new);
    assert!(named(RemoteSettings::new("kv"), plain()).contains("needs a secret"));
    assert!(named(RemoteSettings::new("kv").secret("short"), logged()).contains("8 bytes"));
    assert!(named(RemoteSettings::new("kv").deadline(Duration::ZERO), logged()).contains("deadline of 0"));
    assert!(named(RemoteSettings::new("kv").prefix("a b"), logged()).contains("a b"));
    assert!(named(RemoteSettings::new("kv").max_entry(0), logged()).contains("max_entry 0"));
    let shown = format!("{:?}", RemoteSettings::new("kv").secret("swordfish 123"));
    assert!(!shown.contains("swordfish"), "{shown}");
}

#[tokio::test]
async fn entries_are_swept_by_pattern() {
    let (server, clock) = (MemoryBytes::with_log(), ManualClock::new());
    let one = node(server.clone(), &clock);
    ready(&one).await;
    for path in ["/a/1", "/a/2", "/b/1"] {
        one.get(path).await;
    }
    becomes("all are in the server", async || server.names().len() == 3).await;
    assert_eq!(one.layer.invalidate().matching("*/a/*").await.expect("swept"), 2);
    assert_eq!(server.names().len(), 1);
    let plain: Arc<dyn CacheStore> = Arc::new(store(Broken(|| Box::pin(std::future::pending()), Arc::default())));
    assert!(plain.sweep("*").await.is_err(), "this one cannot be scanned");
}
