//! Our own stores keep the contract that `tollgate::testing` publishes; a store that breaks it is found out; and a store
//! that fails in any way takes no request down.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/redis.rs"]
mod redis;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use redis::{RedisCluster, RedisServer, wanted};
use tollgate::cache::{CacheKey, CacheLayer, CacheStore, Levels, Rule, Rules};
use tollgate::identity::KeyHash;
use tollgate::limit::{Check, Decision, Limit, LimitStore, Quota, RateLimitLayer};
use tollgate::store::memory::{MemoryCache, MemoryLimits};
use tollgate::store::redis::{LimitMode, Redis};
use tollgate::store::{RemoteLimits, RemoteStore};
use tollgate::testing::{FakePeer, Faulty, InjectedFault, contract};
use tower::{Layer, ServiceExt, service_fn};

const FAILING: [InjectedFault; 5] = [
    InjectedFault::Err,
    InjectedFault::Hang,
    InjectedFault::WrongAnswer,
    InjectedFault::Panic,
    InjectedFault::PanicOnPoll,
];

#[tokio::test(start_paused = true)]
async fn memory_keeps_it() {
    contract::limits(Arc::new(MemoryLimits::new(1_000))).await;
    let memory = || Arc::new(MemoryCache::new(1 << 20));
    contract::cache(memory()).await;
    contract::cache(Arc::new(Levels::new(memory(), memory()))).await;
}

fn redis_cache(url: &str) -> RemoteStore {
    RemoteStore::redis(Redis::new(url).expect("a URL")).expect("a store")
}

/// The store, once it has joined its fleet.
async fn joined(store: RemoteStore) -> Arc<RemoteStore> {
    let store = Arc::new(store);
    for _ in 0..5_000 {
        if store.stats()[0].up {
            return store;
        }
        let _ = store.get(&CacheKey::from_bytes(b"any", 3), tollgate::Timestamp::ZERO).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("not joined within 10 s: {:?}", store.stats());
}

#[tokio::test]
async fn redis_keeps_it() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    contract::cache(joined(redis_cache(&server.url())).await).await;
    let compressed = Redis::new(&server.url()).expect("a URL").compress_over(0);
    contract::cache(joined(RemoteStore::redis(compressed).expect("a store")).await).await;
    for mode in [LimitMode::Exact, LimitMode::Leased] {
        contract::limits(limits(&server.url(), mode).await).await;
    }
}

/// Limits in Redis, once they answer, with time enough for a busy machine.
async fn limits(url: &str, mode: LimitMode) -> Arc<RemoteLimits> {
    let redis = Redis::new(url).expect("a URL").limit_deadline(Duration::from_secs(5)).limit_mode(mode);
    let limits = Arc::new(RemoteLimits::redis(&redis).expect("limits"));
    for _ in 0..5_000 {
        let check = Check::new(KeyHash::from_bits(1), Quota::per_hour(1)).in_fleet(KeyHash::from_bits(1));
        if limits.peek(&[check], tollgate::Timestamp::ZERO).await.is_ok() {
            return limits;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("no answer within 10 s: {:?}", limits.remote());
}

#[tokio::test]
async fn several_keys_are_one_command() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let store = joined(redis_cache(&server.url())).await;
    let keys: Vec<CacheKey> = (0..100_u32).map(|number| CacheKey::from_bytes(&number.to_be_bytes(), 4)).collect();
    let before = (server.calls("get"), server.calls("mget"));
    let found = store.get_many(&keys, tollgate::Timestamp::ZERO).await.expect("an answer");
    assert_eq!(found.len(), 100);
    assert_eq!((server.calls("get"), server.calls("mget")), (before.0, before.1 + 1));
}

#[tokio::test]
async fn a_near_hit_waits_for_nothing_and_a_far_one_fills_near() {
    let (near, far) = (Arc::new(MemoryCache::new(1 << 20)), Arc::new(Faulty::new(MemoryCache::new(1 << 20))));
    let levels = Arc::new(Levels::new(near.clone(), far.clone()));
    contract::cache(levels.clone()).await;
    far.inject(InjectedFault::Hang);
    let rules = Rules::new().route("/{*rest}", Rule::ttl(Duration::from_secs(60)));
    let layer = CacheLayer::builder().rules(rules).level_2(far.clone()).build().expect("a layer");
    let service = layer.layer(service_fn(hello));
    far.inject(InjectedFault::None);
    drop(service.clone().oneshot(request("/a")).await.expect("no error"));
    far.inject(InjectedFault::Hang);
    // Answered when it is first polled, though the far store will never answer anything again.
    let hit = service.clone().oneshot(request("/a")).now_or_never().expect("at once").expect("no error");
    assert!(hit.headers().contains_key("age"));
}

#[tokio::test]
async fn a_cluster_keeps_it() {
    if !wanted() {
        return;
    }
    let cluster = RedisCluster::start();
    contract::cache(joined(redis_cache(&cluster.url())).await).await;
    contract::limits(limits(&cluster.url(), LimitMode::Exact).await).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_breaks_it_is_found_out() {
    for what in FAILING.into_iter().filter(|what| *what != InjectedFault::Hang) {
        let limits = Arc::new(Faulty::new(MemoryLimits::new(1_000)));
        limits.inject(what);
        assert!(AssertUnwindSafe(contract::limits(limits)).catch_unwind().await.is_err(), "limits, {what:?}");
        let cache = Arc::new(Faulty::new(MemoryCache::new(1 << 20)));
        cache.inject(what);
        assert!(AssertUnwindSafe(contract::cache(cache)).catch_unwind().await.is_err(), "cache, {what:?}");
    }
}

async fn hello(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("hello")))
}

fn request(path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).header("host", "h").body(Full::default()).expect("a request");
    FakePeer::at("192.0.2.1").mark(request)
}

#[tokio::test(start_paused = true)]
async fn limits_go_on_whatever_their_store_does() {
    for what in FAILING {
        let store = Arc::new(Faulty::new(MemoryLimits::new(100)));
        let limit = Limit::per_ip(Quota::per_minute(3)).reserve();
        let layer = RateLimitLayer::builder().limit(limit).store(store.clone()).build().expect("a layer");
        let service = layer.layer(service_fn(hello));
        store.inject(what);
        let mut statuses = Vec::new();
        for _ in 0..5 {
            let response = service.clone().oneshot(request("/")).await.expect("no error");
            assert!(response.extensions().get::<Decision>().is_some_and(Decision::degraded), "{what:?}");
            statuses.push(response.status().as_u16());
        }
        assert_eq!(statuses, [200, 200, 200, 429, 429], "{what:?}: this process decides");
    }
}

#[tokio::test(start_paused = true)]
async fn the_cache_goes_on_whatever_its_store_does() {
    for (what, far) in FAILING.into_iter().flat_map(|what| [(what, false), (what, true)]) {
        let store = Arc::new(Faulty::new(MemoryCache::new(1 << 20)));
        let rules = Rules::new().route("/{*rest}", Rule::ttl(Duration::from_secs(60)));
        let builder = CacheLayer::builder().rules(rules);
        let builder = if far { builder.level_2(store.clone()) } else { builder.store(store.clone()) };
        let layer = builder.build().expect("a layer");
        let service = layer.layer(service_fn(hello));
        let ask = async |path: &str| {
            let response = service.clone().oneshot(request(path)).await.expect("no error");
            assert_eq!(response.status(), 200, "{what:?}");
            response.into_body().collect().await.expect("a body").to_bytes()
        };
        // Something that can be lied with.
        ask("/first").await;
        store.inject(what);
        for path in ["/a", "/a", "/b"] {
            assert_eq!(ask(path).await, "hello", "{what:?}");
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let stats = layer.stats();
        assert_eq!((stats.fetches_in_flight, stats.in_flight_bytes), (0, 0), "{what:?}: nothing is left behind");
        // With a memory in front, a copy serves whatever the far store does. While one hangs, so does a fetch that is
        // being stored, and who comes meanwhile reads along; and a lie may be true.
        let calls = if far || matches!(what, InjectedFault::Hang | InjectedFault::WrongAnswer) { 3 } else { 4 };
        assert_eq!(stats.inner_calls, calls, "{what:?}");
        store.inject(InjectedFault::None);
        ask("/c").await;
        ask("/c").await;
        assert_eq!(layer.stats().inner_calls, stats.inner_calls + 1, "{what:?}: back to normal");
    }
}
