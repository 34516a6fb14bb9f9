//! Credits that a fleet books in Redis: a restart, a second node and a Redis that goes away forget none.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/redis.rs"]
mod server;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use server::RedisServer;
use tollgate::store::RemoteCredits;
use tollgate::store::redis::Redis;
use tollgate::upstream::{Credits, Priority, UpstreamLayer};
use tollgate::{Tollgate, upstream};
use tower::{Layer, ServiceExt, service_fn};

struct Node(UpstreamLayer);

impl Node {
    fn new(server: &RedisServer, limit: u64) -> Self {
        let redis = Redis::new(&server.url()).expect("a URL").cache_deadline(Duration::from_secs(1));
        let layer = UpstreamLayer::builder("api")
            .quota(Credits::per_month(limit))
            .share(Priority::Normal, 1.0)
            .store(Arc::new(RemoteCredits::redis(&redis).expect("a store")))
            .build();
        Self(layer.expect("a layer"))
    }

    /// How many of `n` calls are made.
    async fn made(&self, n: usize) -> usize {
        let mut made = 0;
        for _ in 0..n {
            let client = service_fn(|_: Request<Full<Bytes>>| async {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            });
            made += usize::from(self.0.layer(client).oneshot(Request::new(Full::default())).await.is_ok());
        }
        made
    }

    fn spent(&self) -> u64 {
        self.0.stats().windows[0].spent
    }
}

#[tokio::test]
async fn a_restart_and_a_second_node_forget_nothing() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let first = Node::new(&server, 500);
    assert_eq!(first.made(100).await, 100);
    drop(first);
    let (second, third) = (Node::new(&server, 500), Node::new(&server, 500));
    let mut made = 100;
    for _ in 0..250 {
        made += second.made(1).await + third.made(1).await;
    }
    assert!((400..=500).contains(&made), "never more than 500, and no more lost than blocks: {made}");
    assert!(second.spent() >= 100 && third.spent() >= 100);
    second.0.shutdown().await;
    assert!(third.made(1).await <= 1 && third.0.stats().unbooked == 0, "what was given back is not taken for lost");
    third.0.shutdown().await;
    let last = Node::new(&server, 500);
    made += last.made(500).await;
    assert!((450..=500).contains(&made), "what was given back may be spent, and no more: {made}");
    // What is there is a number under a hash, and goes.
    let names = server.cli(&["KEYS", "tollgate:credits:*"]);
    let name = names.trim();
    assert!(name.len() == "tollgate:credits:".len() + 16, "{names}");
    assert!(server.cli(&["TTL", name]).trim().parse::<i64>().expect("seconds") > 0);
}

#[tokio::test]
async fn what_is_spent_while_redis_is_away_is_booked_when_it_is_back() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let node = Node::new(&server, 100_000);
    assert_eq!(node.made(50).await, 50);
    server.kill();
    assert_eq!(node.made(2_000).await, 2_000, "no call fails for the store's sake");
    let stats = node.0.stats();
    assert!(stats.unbooked > 1_000 && stats.store_up == Some(false), "{stats:?}");
    server.restart();
    // The breaker, the connection and the account each try again within a second or so, whether or not calls follow.
    for _ in 0..100 {
        if node.0.stats().unbooked == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stats = node.0.stats();
    assert!(stats.unbooked == 0 && stats.windows[0].spent >= 2_050, "{stats:?}");
    let other = Node::new(&server, 100_000);
    other.made(1).await;
    assert!(other.spent() >= 2_050, "another node knows: {}", other.spent());
}

#[tokio::test]
async fn a_correction_by_hand_reaches_the_other_nodes() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let (a, b) = (Node::new(&server, 1_000), Node::new(&server, 1_000));
    assert_eq!(a.made(10).await + b.made(10).await, 20);
    a.0.set_spent("month", 900).await.expect("corrected");
    assert_eq!(a.spent(), 900);
    b.made(100).await;
    b.0.shutdown().await;
    assert!((990..=1_000).contains(&b.spent()), "b learns it with its next booking: {}", b.spent());
    a.0.add_credits("month", 300).await.expect("bought");
    let c = Node::new(&server, 1_000);
    let made = c.made(400).await;
    assert!((290..=310).contains(&made), "300 more, for any node: {made}");
}

#[tokio::test]
async fn a_gate_books_in_the_redis_it_is_given() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let gate = Tollgate::upstream("api").quota(Credits::per_day(100)).redis(server.url()).build().expect("a gate");
    let client = gate.layer().layer(service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let request = Request::get("http://api.example.com/").body(Full::default()).expect("a request");
    let answer: Result<_, upstream::Error<Infallible>> = client.oneshot(request).await;
    assert!(answer.is_ok());
    gate.shutdown().await;
    let name = server.cli(&["KEYS", "tollgate:credits:*"]);
    assert_eq!(server.cli(&["HGET", name.trim(), "booked"]).trim().trim_matches('"'), "1", "{name}");
}
