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
use tollgate::cache::{CacheLayer, CacheStore, Levels, Rule, Rules};
use tollgate::limit::{Decision, Limit, Quota, RateLimitLayer};
use tollgate::store::memory::{MemoryCache, MemoryLimits};
use tollgate::store::redis::{Redis, RedisCache};
use tollgate::testing::{FakePeer, Faulty, Misbehaviour, contract};
use tower::{Layer, ServiceExt, service_fn};

const FAILING: [Misbehaviour; 5] =
    [Misbehaviour::Err, Misbehaviour::Hang, Misbehaviour::Lie, Misbehaviour::Panic, Misbehaviour::PanicLater];

#[tokio::test(start_paused = true)]
async fn memory_keeps_it() {
    contract::limits(Arc::new(MemoryLimits::new(1_000))).await;
    let memory = || Arc::new(MemoryCache::new(1 << 20));
    contract::cache(memory()).await;
    contract::cache(Arc::new(Levels::new(memory(), memory()))).await;
}

/// A store in Redis that has joined its fleet.
async fn joined(url: &str) -> Arc<RedisCache> {
    let store = Arc::new(RedisCache::new(Redis::new(url).expect("a URL")).expect("a store"));
    for _ in 0..5_000 {
        if store.stats()[0].up {
            return store;
        }
        let _ = store.get(&tollgate::cache::CacheKey::from_bytes(b"any", 3), tollgate::Timestamp::ZERO).await;
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
    contract::cache(joined(&server.url()).await).await;
    let compressed = RedisCache::new(Redis::new(&server.url()).expect("a URL")).expect("a store").compress_over(0);
    let far: Arc<dyn CacheStore> = Arc::new(compressed);
    contract::cache(Arc::new(Levels::new(Arc::new(MemoryCache::new(1 << 20)), far))).await;
}

#[tokio::test]
async fn a_cluster_keeps_it() {
    if !wanted() {
        return;
    }
    let cluster = RedisCluster::start();
    contract::cache(joined(&cluster.url()).await).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_breaks_it_is_found_out() {
    for what in FAILING.into_iter().filter(|what| *what != Misbehaviour::Hang) {
        let limits = Arc::new(Faulty::new(MemoryLimits::new(1_000)));
        limits.begin(what);
        assert!(AssertUnwindSafe(contract::limits(limits)).catch_unwind().await.is_err(), "limits, {what:?}");
        let cache = Arc::new(Faulty::new(MemoryCache::new(1 << 20)));
        cache.begin(what);
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
        store.begin(what);
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
        let builder = if far { builder.far(store.clone()) } else { builder.store(store.clone()) };
        let layer = builder.build().expect("a layer");
        let service = layer.layer(service_fn(hello));
        let ask = async |path: &str| {
            let response = service.clone().oneshot(request(path)).await.expect("no error");
            assert_eq!(response.status(), 200, "{what:?}");
            response.into_body().collect().await.expect("a body").to_bytes()
        };
        // Something that can be lied with.
        ask("/first").await;
        store.begin(what);
        for path in ["/a", "/a", "/b"] {
            assert_eq!(ask(path).await, "hello", "{what:?}");
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let stats = layer.stats();
        assert_eq!((stats.flights, stats.in_flight_bytes), (0, 0), "{what:?}: nothing is left behind");
        // With a memory in front, a copy serves whatever the far store does. While one hangs, so does a fetch that is
        // being stored, and who comes meanwhile reads along; and a lie may be true.
        let calls = if far || matches!(what, Misbehaviour::Hang | Misbehaviour::Lie) { 3 } else { 4 };
        assert_eq!(stats.inner_calls, calls, "{what:?}");
        store.begin(Misbehaviour::None);
        ask("/c").await;
        ask("/c").await;
        assert_eq!(layer.stats().inner_calls, stats.inner_calls + 1, "{what:?}: back to normal");
    }
}
