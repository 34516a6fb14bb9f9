//! Typed values of a fleet: read once for each process, loaded once for all, taken back everywhere.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/fault_proxy.rs"]
mod fault_proxy;
#[path = "support/redis.rs"]
mod redis;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fault_proxy::{Fault, FaultProxy};
use redis::{RedisServer, wanted};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tollgate::cache::{Cached, CachedBuilder, DataCache};
use tollgate::store::RemoteStore;
use tollgate::store::redis::Redis;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Price {
    symbol: String,
    cents: Option<u64>,
}

fn price(n: u64) -> Price {
    Price { symbol: format!("S{n}"), cents: Some(n) }
}

/// A node: its own memory, its own connections.
async fn node(
    server: &RedisServer,
    set: impl FnOnce(CachedBuilder<Price>) -> CachedBuilder<Price>,
) -> (DataCache, Cached<Price>) {
    node_at(&server.url(), set).await
}

async fn node_at(
    url: &str,
    set: impl FnOnce(CachedBuilder<Price>) -> CachedBuilder<Price>,
) -> (DataCache, Cached<Price>) {
    let redis = RemoteStore::redis(Redis::new(url).expect("a URL")).expect("settings");
    let data = DataCache::builder().memory(8 << 20).level_2(Arc::new(redis)).build();
    let prices = set(data.cached("prices").ttl(Duration::from_secs(60))).build().expect("a namespace");
    // The first look-up connects.
    until("the node has joined", async || {
        prices.get("nothing").await;
        data.levels().iter().any(|level| level.name == "redis" && level.up)
    })
    .await;
    (data, prices)
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if done().await {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: not within 10 s");
}

#[tokio::test]
async fn what_one_node_loaded_all_read_and_another_version_does_not() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let (_one, a) = node(&server, |space| space).await;
    let (two, b) = node(&server, |space| space).await;
    let (_three, newer) = node(&server, |space| space.version(1)).await;
    a.put_many((0..50).map(|n| (n, price(n)))).await.expect("kept");
    let found = b.get_many(0..50).await;
    assert!(found.iter().zip(0..).all(|(found, n)| found.as_deref() == Some(&price(n))));
    let again = b.get_many(0..50).await;
    assert!(found.iter().flatten().zip(again.iter().flatten()).all(|(a, b)| Arc::ptr_eq(a, b)), "read once");
    let memory = &two.levels()[0];
    let weight = 50 * size_of::<Price>() as u64;
    assert!(memory.entries == 50 && memory.bytes > weight, "what was read counts: {memory:?}");
    assert_eq!((newer.get(1).await, newer.stats().decode_errors), (None, 1));
}

#[tokio::test]
async fn a_fleet_loads_once_and_a_failure_lets_the_next_one_try_at_once() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(node(&server, |space| space.lease_ttl(Duration::from_secs(20))).await);
    }
    let loads = Arc::new(AtomicU64::new(0));
    let ask = |cached: &Cached<Price>, key: u64, fails: u64| {
        let (cached, loads) = (cached.clone(), loads.clone());
        tokio::spawn(async move {
            let load = move || async move {
                let nth = loads.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(100)).await;
                if nth < fails { Err("down") } else { Ok(price(key)) }
            };
            cached.get_or_load(key, load).await.map(|price| (*price).clone()).ok()
        })
    };
    let tasks: Vec<_> = nodes.iter().flat_map(|(_, cached)| [ask(cached, 1, 0), ask(cached, 1, 0)]).collect();
    for task in tasks {
        assert_eq!(task.await.expect("no panic"), Some(price(1)));
    }
    assert_eq!(loads.swap(0, Ordering::SeqCst), 1, "eight callers on four nodes");
    // The first load fails: its lease of 20 s keeps nobody waiting.
    let tasks: Vec<_> = nodes.iter().map(|(_, cached)| ask(cached, 2, 1)).collect();
    let answers = tokio::time::timeout(Duration::from_secs(10), futures_util::future::join_all(tasks)).await;
    let answers = answers.expect("nobody waits for the lease").into_iter().map(|answer| answer.expect("no panic"));
    assert_eq!(answers.filter(Option::is_none).count(), 1);
    assert_eq!(loads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_one_node_takes_back_no_node_serves_and_no_slow_load_brings_back() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let (_one, a) = node(&server, |space| space.tag("prices")).await;
    let (_two, b) = node(&server, |space| space.tag("prices")).await;
    let fill = async || {
        a.put(1, price(1)).await.expect("kept");
        until("the other node has it", async || b.get(1).await.is_some()).await;
    };
    for way in 0..4 {
        fill().await;
        match way {
            0 => a.invalidate().tag("prices").await,
            1 => a.invalidate().prefix(1).await,
            2 => a.invalidate().all().await,
            _ => a.remove(1).await,
        }
        .expect("told");
        until("the other node has heard", async || b.get(1).await.is_none()).await;
    }
    // A load that began on one node before another took its key back.
    let slow = {
        let b = b.clone();
        tokio::spawn(async move {
            let load = || async {
                sleep(Duration::from_millis(300)).await;
                Ok::<_, Infallible>(price(7))
            };
            b.get_or_load(7, load).await.map(|price| (*price).clone())
        })
    };
    sleep(Duration::from_millis(100)).await;
    a.remove(7).await.expect("told");
    assert_eq!(slow.await.expect("no panic").ok(), Some(price(7)), "its own caller gets it");
    assert_eq!((a.get(7).await, b.get(7).await), (None, None));
}

#[tokio::test]
async fn while_redis_is_away_each_node_loads_for_itself() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let (_one, a) = node(&server, |space| space).await;
    a.put(1, price(1)).await.expect("kept");
    server.kill();
    assert_eq!(a.get(1).await.as_deref(), Some(&price(1)), "from its own memory");
    let load = || async { Ok::<_, Infallible>(price(2)) };
    let found = tokio::time::timeout(Duration::from_secs(5), a.get_or_load(2, load)).await.expect("in time");
    assert_eq!(*found.expect("infallible"), price(2));
    assert!(a.invalidate().all().await.is_err(), "the others could not be told");
    assert_eq!(a.get(1).await, None, "and it binds here");
}

#[tokio::test]
async fn what_was_damaged_on_its_way_is_loaded_anew_and_never_a_wrong_value() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let (_one, a) = node(&server, |space| space).await;
    a.put_many((0..200).map(|n| (n, price(n)))).await.expect("kept");
    let proxy = FaultProxy::before(server.port());
    let (_two, b) = node_at(&proxy.url(), |space| space.lease_ttl(Duration::ZERO)).await;
    let mut n = 0;
    for fault in [Fault::Flip, Fault::Swap, Fault::Half, Fault::Cut, Fault::Answer("-LOADING it is loading")] {
        proxy.set(fault);
        for _ in 0..20 {
            n += 1;
            let load = move || async move { Ok::<_, Infallible>(price(n)) };
            assert_eq!(*b.get_or_load(n, load).await.expect("infallible"), price(n), "{fault:?}");
        }
        let some: Vec<u64> = (100..200).collect();
        for (n, found) in some.iter().zip(b.get_many(&some).await) {
            assert!(found.is_none_or(|found| *found == price(*n)), "{fault:?}");
        }
        proxy.heal();
    }
}

#[tokio::test]
async fn a_redis_that_hangs_keeps_no_hit_waiting_and_a_miss_for_a_few_deadlines() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::before(server.port());
    let (_one, a) = node_at(&proxy.url(), |space| space.lease_ttl(Duration::from_secs(60))).await;
    a.put(1, price(1)).await.expect("kept");
    proxy.set(Fault::Partition);
    let hit = a.get_or_load(1, || async { Err::<Price, _>("not asked") });
    assert!(tokio::time::timeout(Duration::from_millis(50), hit).await.expect("at once").is_ok());
    let miss = a.get_or_load(2, || async { Ok::<_, Infallible>(price(2)) });
    // Six commands of 50 ms at most; ten times that guards against a hang, not against a busy machine.
    let found = tokio::time::timeout(Duration::from_secs(3), miss).await.expect("in time");
    assert_eq!(*found.expect("infallible"), price(2));
    assert!(a.get(2).await.is_some(), "it is kept in memory");
}
