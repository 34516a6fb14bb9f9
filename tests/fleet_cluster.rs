//! Limits and the cache over a Redis Cluster, and limits through a failover by Sentinel.

#![expect(clippy::disallowed_methods, reason = "a test guards against hanging")]

#[path = "support/gate.rs"]
mod gate;
#[path = "support/limited.rs"]
mod limited;
#[path = "support/redis.rs"]
mod server;
mod support;

use std::time::Duration;

use gate::Gate;
use limited::{Node, redis};
use server::{RedisCluster, RedisSentinel};
use support::from;
use tollgate::limit::{Limit, Quota};
use tollgate::store::redis::LimitMode;

const IP: &str = "192.0.2.1";

#[tokio::test]
async fn limits_of_one_request_may_live_on_several_nodes() {
    if !server::wanted() {
        return;
    }
    let cluster = RedisCluster::start();
    for mode in [LimitMode::Exact, LimitMode::Leased] {
        let redis = redis(&cluster.url()).limit_mode(mode).prefix(format!("{mode:?}"));
        let redis = redis.limit_deadline(Duration::from_secs(2));
        let node = || {
            Node::with(&redis, |limits| {
                limits.limit(Limit::per_ip(Quota::per_hour(10))).limit(Limit::global(Quota::per_hour(100)))
            })
        };
        let (a, b) = (node(), node());
        a.up().await;
        b.up().await;
        let mut sum = 0;
        for i in 0..30 {
            let ip = format!("192.0.2.{i}");
            let admitted = a.admitted(8, &ip).await + b.admitted(8, &ip).await;
            assert!(admitted <= 10, "{mode:?} {ip}: {admitted}");
            sum += admitted;
        }
        assert!(sum <= 100, "{mode:?}: {sum}");
        // Fifteen addresses' refusals of their own have cost the common limit nothing but for a moment.
        assert!(sum >= 95, "{mode:?}: {sum}");
        assert_eq!((a.stats().degraded, b.stats().degraded), (0, 0), "{mode:?}");
    }
    let keys: u64 = cluster.nodes.iter().map(|node| node.keys().len() as u64).sum();
    let spread = cluster.nodes.iter().filter(|node| !node.keys().is_empty()).count();
    assert!(keys > 20 && spread == 3, "{keys} keys on {spread} nodes");
}

#[tokio::test]
async fn an_administrator_sweeps_every_node_by_pattern() {
    if !server::wanted() {
        return;
    }
    let cluster = RedisCluster::start();
    let (a, b) = (Gate::at(&cluster.url()).joined().await, Gate::at(&cluster.url()).joined().await);
    for number in 0..300 {
        a.get(&format!("/prices/{number}")).await;
    }
    a.get("/kept").await;
    a.quiet().await;
    let entries = |node: &server::RedisServer| node.keys().iter().filter(|name| name.contains(":entry:")).count();
    server::wait_until("all are in Redis", || cluster.nodes.iter().map(entries).sum::<usize>() == 301);
    assert!(cluster.nodes.iter().all(|node| entries(node) > 30), "on every node");
    assert!(b.get("/prices/7").await && b.get("/kept").await, "both nodes have them");
    assert_eq!(a.gate.invalidate().matching("*/prices/*").await.expect("asked"), 300);
    assert_eq!(cluster.nodes.iter().map(entries).sum::<usize>(), 1);
    let since = std::time::Instant::now();
    while b.get("/prices/7").await {
        assert!(since.elapsed() < gate::BACK, "still served by the other node");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(b.get("/kept").await, "not meant");
    assert!(cluster.nodes.iter().all(|node| node.calls("keys") == 0 && node.calls("scan") > 0));
}

#[tokio::test]
async fn a_slot_that_moves_is_followed() {
    if !server::wanted() {
        return;
    }
    let cluster = RedisCluster::start();
    let node = Node::new(&redis(&cluster.url()), Quota::per_hour(1_000));
    node.up().await;
    assert_eq!(node.admitted(100, IP).await, 100);
    let key = cluster.nodes.iter().flat_map(server::RedisServer::keys).find(|key| key.contains(":l:")).expect("a key");
    let mut sum = 100;
    for _ in 0..3 {
        cluster.move_slot(&key);
        sum += node.admitted(200, IP).await;
    }
    sum += node.admitted(1_000, IP).await;
    assert_eq!(sum, 1_000, "neither forgiven nor lost");
}

#[tokio::test]
async fn a_node_that_is_lost_takes_only_its_own_keys_along() {
    if !server::wanted() {
        return;
    }
    let cluster = RedisCluster::start();
    let node = Node::new(&redis(&cluster.url()), Quota::per_hour(50));
    node.up().await;
    let mut before = Vec::new();
    for i in 0..40 {
        before.push(node.admitted(30, &format!("192.0.2.{i}")).await);
    }
    assert!(before.iter().all(|admitted| *admitted == 30));
    cluster.nodes[1].kill();
    for i in 0..40 {
        let after = node.admitted(40, &format!("192.0.2.{i}")).await;
        assert_eq!(after, 20, "what was admitted still counts, wherever it was counted");
    }
    let fresh = node.send(from("198.51.100.1", "/")).await;
    assert_eq!(fresh.status(), 200);
}

#[tokio::test]
async fn a_failover_forgives_at_most_what_was_lost_with_the_primary() {
    if !server::wanted() {
        return;
    }
    let sentinel = RedisSentinel::start();
    let node = Node::new(&redis(&sentinel.url()), Quota::per_hour(1_000));
    let other = Node::new(&redis(&sentinel.url()), Quota::per_hour(1_000));
    node.up().await;
    other.up().await;
    let mut sum = node.admitted(300, IP).await + other.admitted(300, IP).await;
    assert_eq!(sum, 600);
    sentinel.fail_over();
    sum += node.admitted(300, IP).await + other.admitted(300, IP).await;
    node.up().await;
    other.up().await;
    sum += node.admitted(2_000, IP).await + other.admitted(2_000, IP).await;
    assert!(sum <= 2_000, "at most twice the limit: {sum}");
    assert_eq!(node.admitted(10, "192.0.2.2").await, 10);
    let remote = node.stats().remote.expect("remote");
    assert!(remote.up && remote.connections >= 2, "{remote:?}");
}
