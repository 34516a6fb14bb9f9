//! A gate over real servers: memory, memcached, Redis and PostgreSQL in one cache, with one log.
#![expect(clippy::panic, clippy::expect_used, reason = "a test may fail")]

#[path = "support/memcached.rs"]
mod memcached;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/redis.rs"]
mod redis;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};
use tollgate::store::memcached::Memcached;
use tollgate::store::postgres::Postgres;
use tollgate::store::redis::Redis;
use tower::{Layer, ServiceExt};

struct Servers {
    memcached: memcached::Memcached,
    redis: redis::RedisServer,
    postgres: postgres::Postgres,
}

/// A process: its gate, and the calls of its service.
struct Node {
    gate: Tollgate,
    calls: Arc<AtomicUsize>,
}

impl Node {
    async fn start(servers: &Servers) -> Self {
        let rules = Rules::new().otherwise(Rule::ttl(Duration::from_secs(600)).tag("prices"));
        let secret = "the same on every node";
        let gate = Tollgate::builder()
            .cache(rules)
            .memory(8 << 20)
            .memcached(Memcached::new([servers.memcached.address()]).secret(secret))
            .redis(Redis::new(&servers.redis.url()).expect("a URL").max_ttl(Duration::from_secs(300)))
            .postgres(Postgres::new(&servers.postgres.url()).expect("a URL").max_ttl(Duration::from_secs(3_600)))
            .build()
            .expect("a gate");
        let node = Self { gate, calls: Arc::default() };
        node.becomes("all levels are up", |node| node.gate.stats().cache.iter().all(|level| level.up)).await;
        node
    }

    async fn get(&self, path: &str) -> String {
        let calls = self.calls.clone();
        let service = self.gate.layer().layer(tower::service_fn(move |_: Request<Full<Bytes>>| {
            let body = format!("answer {}", calls.fetch_add(1, Ordering::SeqCst));
            async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))) }
        }));
        let request = Request::get(format!("http://example.com{path}")).body(Full::default()).expect("a request");
        let answer = service.oneshot(request).await.expect("no request fails");
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        String::from_utf8_lossy(&body).into_owned()
    }

    fn hits(&self) -> Vec<u64> {
        self.gate.stats().cache.iter().map(|level| level.hits).collect()
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn becomes(&self, what: &str, happened: impl Fn(&Self) -> bool) {
        for _ in 0..2_000 {
            if happened(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not within 10 s: {what}: {:?}", self.gate.stats().cache);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_levels_share_one_log_and_each_can_go_away() {
    if !(postgres::wanted() && redis::wanted() && memcached::wanted()) {
        return;
    }
    let mut servers = Servers {
        memcached: memcached::Memcached::start(),
        redis: redis::RedisServer::start(),
        postgres: postgres::Postgres::start(),
    };
    let one = Node::start(&servers).await;
    let names: Vec<_> = one.gate.stats().cache.iter().map(|level| level.name.clone()).collect();
    assert_eq!(names, ["memory", "memcached", "redis", "postgres"]);
    let first = one.get("/a").await;
    stored(&servers, 1).await;

    let level = &one.gate.stats().cache[3];
    assert_eq!(level.capacity_bytes, 4 << 30);
    let page = one.gate.prometheus();
    assert!(page.contains("tollgate_cache_level_misses_total{level=\"postgres\"}"), "{page}");

    // The log is PostgreSQL's: Redis has none, and keeps entries for at most five minutes.
    assert!(servers.redis.keys().iter().all(|key| !key.contains("log")), "{:?}", servers.redis.keys());
    let entry = servers.redis.keys().into_iter().find(|key| key.contains(":entry:")).expect("an entry");
    let left: i64 = servers.redis.cli(&["PTTL", &entry]).trim().parse().expect("milliseconds");
    assert!((1..=300_000).contains(&left), "{left}");

    // Without memcached and Redis, PostgreSQL answers, and fills Redis again.
    servers.memcached.kill();
    servers.redis.cli(&["FLUSHALL"]);
    let two = Node::start_without_memcached(&servers).await;
    assert_eq!(two.get("/a").await, first);
    assert_eq!((two.calls(), two.hits()[3]), (0, 1));
    two.becomes("Redis has it again", |_| servers.redis.keys().iter().any(|key| key.contains(":entry:"))).await;

    // An invalidation through PostgreSQL voids what Redis and memcached hold.
    servers.memcached.restart();
    two.gate.invalidate().tag("prices").await.expect("on disk");
    one.becomes("the other node has it", |node| node.gate.stats().cache[3].invalidations_received > 0).await;
    let three = Node::start(&servers).await;
    assert_ne!((three.get("/a").await, three.calls()), (first, 0));

    // While PostgreSQL is away, the levels before it answer what is valid.
    let second = three.get("/b").await;
    servers.postgres.kill();
    one.becomes("its outage is noticed", |node| !node.gate.stats().cache[3].up).await;
    for n in 0..20 {
        three.get(&format!("/c{n}")).await;
    }
    assert_eq!(three.get("/b").await, second);
    servers.postgres.restart();
    three.becomes("it is back", |node| node.gate.stats().cache[3].up).await;
}

impl Node {
    /// Starts a process while memcached is away.
    async fn start_without_memcached(servers: &Servers) -> Self {
        let rules = Rules::new().otherwise(Rule::ttl(Duration::from_secs(600)).tag("prices"));
        let secret = "the same on every node";
        let gate = Tollgate::builder()
            .cache(rules)
            .memcached(Memcached::new([servers.memcached.address()]).secret(secret))
            .redis(servers.redis.url().as_str())
            .postgres(servers.postgres.url().as_str())
            .build()
            .expect("a gate");
        let node = Self { gate, calls: Arc::default() };
        node.becomes("the others are up", |node| node.gate.stats().cache[2..].iter().all(|level| level.up)).await;
        node
    }
}

/// Waits until PostgreSQL and Redis have so many entries.
async fn stored(servers: &Servers, entries: usize) {
    for _ in 0..1_000 {
        let rows = servers.postgres.sql("SELECT count(*) FROM tollgate_cache");
        let keys = servers.redis.keys().iter().filter(|key| key.contains(":entry:")).count();
        if rows.contains(&entries.to_string()) && keys == entries {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not stored within 10 s");
}
