//! memcached as a cache level: real servers, one of two killed, hung or full, and calls that are given up.
#![cfg(feature = "memcached")]
#![expect(clippy::panic, clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and measures")]

#[path = "support/memcached.rs"]
mod memcached;
#[path = "support/cache_world.rs"]
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use memcached::{Memcached as Server, wanted};
use tollgate::cache::{CacheStore, Cached, DataCache};
use tollgate::store::RemoteStore;
use tollgate::store::memcached::{Memcached, MemcachedBytes};
use tollgate::testing::contract;
use world::{World, reply};

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn store(servers: &[&Server]) -> RemoteStore {
    let addresses = servers.iter().map(|server| server.address());
    RemoteStore::memcached(Memcached::new(addresses).secret("the same on every node")).expect("settings")
}

/// A node whose cache has these servers behind its memory; it answers the number of the call.
fn node(servers: &[&Server], name: &'static str) -> World {
    let store = Arc::new(store(servers));
    World::with(
        |builder| builder.clock(tollgate::Clock::System).level_2(store),
        move |asked| async move {
            Ok(reply(&[("cache-control", "max-age=60"), ("cache-tag", "t")], format!("{name} {}", asked.call)))
        },
    )
}

async fn becomes(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if happened().await {
            return;
        }
        tokio::time::sleep(millis(5)).await;
    }
    panic!("not within 5 s: {what}");
}

async fn ready(world: &World) {
    becomes("the level is up", async || world.stats().levels[1].up).await;
}

#[tokio::test]
async fn the_contract_of_stores_is_kept() {
    if !wanted() {
        return;
    }
    let (one, two) = (Server::start(), Server::start());
    let servers = MemcachedBytes::open(&[one.address().into(), two.address().into()]).await.expect("connected");
    contract::bytes(Arc::new(servers)).await;
    let store = Arc::new(store(&[&one, &two]));
    becomes("it is connected", async || store.stats()[0].up).await;
    contract::cache(store).await;
}

#[tokio::test]
async fn nodes_share_entries_and_removals_by_key() {
    if !wanted() {
        return;
    }
    let (a, b) = (Server::start(), Server::start());
    let (one, two) = (node(&[&a, &b], "one"), node(&[&a, &b], "two"));
    ready(&one).await;
    ready(&two).await;
    for path in ["/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8"] {
        let body = one.get(path).await.body;
        becomes("it is stored", async || one.is_quiet().await).await;
        assert_eq!(two.get(path).await.body, body, "the other node has it");
    }
    one.layer.invalidate().key("http://example.com/1").await.expect("the value itself is removed");
    let three = node(&[&a, &b], "three");
    ready(&three).await;
    assert!(!three.get("/1").await.is_hit() && three.get("/2").await.is_hit(), "the value itself is removed");
    assert!(one.layer.invalidate().tag("t").await.is_err(), "tags stay in their process");
    assert!(!one.get("/2").await.is_hit());
}

#[tokio::test]
async fn a_removal_by_key_succeeds_only_where_other_processes_lose_the_value() {
    if !wanted() {
        return;
    }
    let mut server = Server::start();
    let url = "http://example.com/1";
    let (one, divided) = (node(&[&server], "one"), node(&[&server], "divided"));
    ready(&one).await;
    ready(&divided).await;
    one.get("/1").await;
    let data = DataCache::builder().memory(1_024).level_2(Arc::new(store(&[&server]))).build();
    let values: Cached<String> = data.cached("values").ttl(Duration::from_secs(60)).build().expect("a namespace");
    becomes("the level is up", async || data.levels()[1].up).await;
    values.put(7, "seven".to_owned()).await.expect("stored");
    values.remove(7).await.expect("the value itself is removed");
    assert!(values.get(7).await.is_none());

    let path = one.layer.invalidate().key("/1").await.expect_err("a path names no key");
    let soft = one.layer.invalidate().soft().key(url).await.expect_err("nothing is removed");
    assert!(path.to_string().contains("full URL") && soft.to_string().contains("no log"), "{path}; {soft}");

    // Behind a proxy a URL has a key for each scheme that the proxy names.
    divided.get_with("/1", &[("x-forwarded-proto", "https")]).await;
    becomes("it is stored", async || divided.is_quiet().await).await;
    assert!(divided.layer.invalidate().key(url).await.is_err(), "one of several keys");

    server.kill();
    let away = one.layer.invalidate().key(url).await.expect_err("it was not removed");
    assert!(away.to_string().contains("repeat it"), "{away}");
    assert!(values.remove(7).await.is_err(), "it was not removed");
}

#[tokio::test]
async fn of_two_servers_one_may_die() {
    if !wanted() {
        return;
    }
    let (a, mut b) = (Server::start(), Server::start());
    let paths: Vec<String> = (0..40).map(|n| format!("/{n}")).collect();
    let writer = node(&[&a, &b], "writer");
    ready(&writer).await;
    for path in &paths {
        writer.get(path).await;
    }
    tokio::time::sleep(millis(50)).await;
    let hits = async |b: &Server, name| {
        let reader = node(&[&a, b], name);
        ready(&reader).await;
        let (mut hits, began) = (0, Instant::now());
        for path in &paths {
            hits += usize::from(reader.get(path).await.is_hit());
        }
        (hits, began.elapsed())
    };
    assert_eq!(hits(&b, "before").await.0, paths.len());
    b.kill();
    let (left, took) = hits(&b, "after").await;
    assert!(left > 5 && left < 35, "those of the other server: {left}");
    assert!(took < Duration::from_secs(1), "nothing waits for the dead one: {took:?}");
    b.restart();
    becomes("new values reach it", async || {
        for path in &paths {
            writer.layer.invalidate().key(&format!("http://example.com{path}")).await.ok();
            writer.get(path).await;
        }
        hits(&b, "again").await.0 == paths.len()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_delays_a_call_by_its_deadline_and_comes_back() {
    if !wanted() {
        return;
    }
    let server = Server::start();
    let world = node(&[&server], "node");
    ready(&world).await;
    world.get("/warm").await;
    server.signal("-STOP");
    let mut longest = Duration::ZERO;
    for n in 0..50 {
        let began = Instant::now();
        assert_eq!(world.get(&format!("/{n}")).await.status, 200);
        longest = longest.max(began.elapsed());
    }
    assert!(longest < millis(500), "ten times the deadline: {longest:?}");
    let began = Instant::now();
    world.get("/at-once").await;
    assert!(began.elapsed() < millis(20), "the level is off: {:?}", began.elapsed());
    server.signal("-CONT");
    let resumed = Instant::now();
    let mut asked = 0;
    becomes("it is used again", async || {
        asked += 1;
        world.get(&format!("/again/{asked}")).await;
        world.stats().levels[1].up
    })
    .await;
    assert!(resumed.elapsed() < Duration::from_secs(2), "{:?}", resumed.elapsed());
}

#[tokio::test]
async fn a_level_without_servers_is_off_until_one_appears() {
    if !wanted() {
        return;
    }
    let mut server = Server::start();
    server.kill();
    let world = node(&[&server], "node");
    assert_eq!(world.get("/a").await.status, 200);
    assert!(!world.stats().levels[1].up);
    server.restart();
    ready(&world).await;
}

#[tokio::test]
async fn calls_that_are_given_up_leave_their_replies_to_no_one_else() {
    if !wanted() {
        return;
    }
    let server = Server::start();
    let data = DataCache::builder().memory(1_024).level_2(Arc::new(store(&[&server]))).build();
    let values: Cached<String> = data.cached("values").ttl(Duration::from_secs(60)).build().expect("a namespace");
    becomes("the level is up", async || data.levels()[1].up).await;
    for n in 0..200_u32 {
        values.put(n, format!("value {n}")).await.expect("stored");
    }
    let mut tasks = Vec::new();
    for n in 0..2_000_u32 {
        let values = values.clone();
        let task = tokio::spawn(async move {
            let found = values.get(n % 200).await;
            assert!(found.is_none_or(|found| *found == format!("value {}", n % 200)), "another's value");
        });
        if n % 3 == 0 {
            tokio::task::yield_now().await;
            task.abort();
        } else {
            tasks.push(task);
        }
    }
    for task in tasks {
        task.await.expect("its own value");
    }
    assert!(data.levels()[1].hits > 500, "{:?}", data.levels());
}

#[tokio::test]
async fn a_full_server_evicts_and_nothing_fails() {
    if !wanted() {
        return;
    }
    let server = Server::with_memory(2);
    let data = DataCache::builder().memory(1_024).level_2(Arc::new(store(&[&server]))).build();
    let values: Cached<String> = data.cached("values").ttl(Duration::from_secs(60)).build().expect("a namespace");
    becomes("the level is up", async || data.levels()[1].up).await;
    let value = |n: u32| char::from(b' ' + n as u8 % 90).to_string().repeat(100_000);
    let mut stored = 0;
    for n in 0..100_u32 {
        stored += u32::from(values.put(n, value(n)).await.is_ok());
    }
    assert!(stored > 90, "{stored}");
    let mut found = 0;
    for n in 0..100_u32 {
        if let Some(kept) = values.get(n).await {
            assert!(*kept == value(n));
            found += 1;
        }
    }
    assert!(found > 0 && found < 100, "{found}");
    assert!(values.put(1, "x".repeat(2 << 20)).await.is_err(), "larger than the server takes");
}

#[tokio::test]
async fn a_url_is_the_server_that_its_address_is() {
    if !wanted() {
        return;
    }
    let server = Server::start();
    let open = |address: String| {
        let store = RemoteStore::memcached(Memcached::new([address]).secret("the same on every node"));
        let data = DataCache::builder().memory(1_024).level_2(Arc::new(store.expect("settings"))).build();
        let values: Cached<String> = data.cached("values").ttl(Duration::from_secs(60)).build().expect("a namespace");
        (data, values)
    };
    let (one, two) = (open(server.address()), open(format!("memcached://{}", server.address())));
    becomes("both are up", async || one.0.levels()[1].up && two.0.levels()[1].up).await;
    one.1.put(1, "one".to_owned()).await.expect("stored");
    assert_eq!(two.1.get(1).await.as_deref().map(String::as_str), Some("one"));
    assert!(MemcachedBytes::open(&[]).await.is_err(), "no server");
}

#[test]
fn mistakes_are_errors_when_the_store_is_built() {
    let build = |servers: &[&'static str]| {
        RemoteStore::memcached(Memcached::new(servers.iter().copied()).secret("long enough")).map(drop)
    };
    for (servers, expected) in [
        (&[][..], "no server"),
        (&["localhost"], "host:port"),
        (&["localhost:0"], "host:port"),
        (&["http://localhost:11211"], "host:port"),
        (&["memcached://localhost"], "host:port"),
        (&["memcached://user:secret@localhost:11211"], "host:port"),
        (&["localhost:11211/db"], "host:port"),
        (&[":11211"], "host:port"),
        (&["::1:11211"], "host:port"),
        (&["a:1", "b:1", "a:1"], "twice"),
        (&["a:1", "memcached://a:1/"], "twice"),
    ] {
        let error = build(servers).expect_err("a mistake").to_string();
        assert!(error.contains(expected), "{servers:?}: {error}");
    }
    assert!(RemoteStore::memcached(Memcached::new(["a:1"])).is_err(), "no secret");
    assert!(build(&["memcached://localhost:11211", "[::1]:11211", "a-b.c_d:1"]).is_ok());
}
