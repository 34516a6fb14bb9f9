//! What breaks under limits that a fleet shares: requests are admitted or refused, never failed, and never more are
//! admitted than the policy for outages says.
//!
//! Quotas are by the hour, so that a test lies in one window; the bounds are those of `OnOutage`.

#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and guards against hanging")]

#[path = "support/fault_proxy.rs"]
mod fault_proxy;
#[path = "support/gate.rs"]
mod gate;
#[path = "support/redis.rs"]
mod redis;

use std::time::Duration;

use fault_proxy::{Fault, FaultProxy};
use gate::Gate;
use redis::{RedisCluster, RedisSentinel, RedisServer, wanted};
use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Decision, Limit, OnOutage, Quota};
use tollgate::store::redis::Redis;

const LIMIT: u32 = 300;

/// A node of the fleet with this prefix: another prefix is another fleet.
fn node_of(url: &str, fleet: &str, limit: u32, policy: OnOutage) -> Gate {
    node_over(Redis::new(url).expect("a URL").prefix(fleet), limit, policy)
}

/// A node that waits for answers however busy this machine is.
fn patient(url: &str, fleet: &str) -> Gate {
    let redis = Redis::new(url).expect("a URL").prefix(fleet).limit_deadline(Duration::from_secs(5));
    node_over(redis, LIMIT, OnOutage::Deny)
}

fn node_over(redis: Redis, limit: u32, policy: OnOutage) -> Gate {
    let rules = Rules::new()
        .route("/none", Rule::never())
        .route("/{*rest}", Rule::ttl(Duration::from_secs(60)).same_for_everyone());
    let limit = Limit::per_ip(Quota::per_hour(limit));
    let builder = Tollgate::builder()
        .routes(["/none", "/{*rest}"])
        .limit(limit)
        .limits_with(|limits| limits.on_outage(policy))
        .cache(rules);
    Gate::build(builder.cache_with(|cache| cache.memory(64 << 20).max_entry(16 << 20)).redis(redis))
}

fn node(url: &str) -> Gate {
    node_of(url, "fleet", LIMIT, OnOutage::Local)
}

/// Whether the next decision is made by the fleet's store.
async fn is_shared(node: &Gate) -> bool {
    !node.send("/none").await.extensions().get::<Decision>().is_some_and(Decision::degraded)
}

/// Waits until decisions are the fleet's again.
async fn shared(node: &Gate) {
    let since = std::time::Instant::now();
    while !is_shared(node).await {
        assert!(since.elapsed() < gate::BACK, "decisions are still made alone");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the fleet's store answers this node. What it admitted alone may still bind, so somebody else asks.
async fn reached(node: &Gate) {
    let since = std::time::Instant::now();
    while node.gate.stats().remote.is_some_and(|remote| !remote.up) {
        assert!(since.elapsed() < gate::BACK, "not back: {:?}", node.gate.stats().remote);
        node.send_from("198.51.100.1", "/none").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How many all nodes together admit of so many requests at each.
async fn admitted(nodes: &[Gate], requests: usize) -> usize {
    let loads: Vec<_> = nodes
        .iter()
        .map(|node| {
            let node = node.clone();
            tokio::spawn(async move { node.admitted(requests).await.0 })
        })
        .collect();
    let mut all = 0;
    for load in loads {
        all += load.await.expect("no request failed");
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nothing_fails_the_fleet_admits_the_limit_exactly() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let nodes = ["fleet"; 3].map(|fleet| patient(&server.url(), fleet));
    for node in &nodes {
        node.back().await;
    }
    assert_eq!(admitted(&nodes, 1_000).await, LIMIT as usize);
    // Scripts that are thrown away are loaded again, within the same decision.
    let nodes = ["flushed"; 2].map(|fleet| patient(&server.url(), fleet));
    for node in &nodes {
        node.back().await;
        shared(node).await;
    }
    let flushed = tokio::spawn({
        let nodes = nodes.clone();
        async move { admitted(&nodes, 2_000).await }
    });
    while !flushed.is_finished() {
        server.cli(&["SCRIPT", "FLUSH"]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all = flushed.await.expect("no request failed");
    assert!(nodes.iter().all(|node| node.events().iter().all(|event| !event.contains("StoreDown"))));
    assert_eq!(all + 2, LIMIT as usize, "and two that were asked before");
}

/// Nodes that start together: the first requests come before the first connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_requests_of_a_fleet_are_counted_together() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    for round in 0..5 {
        let redis = || {
            let redis = Redis::new(&server.url()).expect("a URL").prefix(format!("first{round}"));
            redis.limit_deadline(Duration::from_secs(5))
        };
        let nodes: Vec<Gate> = (0..3).map(|_| node_over(redis(), LIMIT, OnOutage::Local)).collect();
        assert_eq!(admitted(&nodes, 1_000).await, LIMIT as usize, "nobody has waited for a connection before");
    }
}

/// What was admitted before the first connection counts for the fleet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nodes_admitted_before_the_first_connection_is_charged_to_the_store() {
    if !wanted() {
        return;
    }
    let server = RedisServer::absent();
    // Decisions wait for their answers however busy this machine is, and at first for the connection.
    let redis = || Redis::new(&server.url()).expect("a URL").prefix("late").limit_deadline(Duration::from_millis(200));
    let nodes: Vec<Gate> = (0..3).map(|_| node_over(redis(), LIMIT, OnOutage::Local)).collect();
    let before = admitted(&nodes, 50).await;
    assert_eq!(before, 150, "each decides alone");
    server.restart();
    for node in &nodes {
        reached(node).await;
    }
    let mut after = 0;
    for _ in 0..3 {
        for node in &nodes {
            after += usize::from(node.send("/none").await.status() == 200);
        }
    }
    after += admitted(&nodes, 1_000).await;
    assert_eq!(before + after, LIMIT as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_at_the_start() {
    if !wanted() {
        return;
    }
    for (policy, most) in [(OnOutage::Local, 3 * LIMIT), (OnOutage::Share(3), LIMIT), (OnOutage::Deny, 0)] {
        let server = RedisServer::absent();
        let nodes: Vec<Gate> = (0..3).map(|_| node_of(&server.url(), "fleet", LIMIT, policy)).collect();
        assert_eq!(admitted(&nodes, 1_500).await, most as usize, "{policy:?}");
        assert!(!is_shared(&nodes[0]).await, "and says that it decided alone");
        server.restart();
        // What was admitted alone still counts: it binds for a period.
        let late = admitted(&nodes, 500).await;
        assert!(policy == OnOutage::Deny || late == 0, "{policy:?}: {late} more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_and_comes_back_empty() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let nodes = [node(&server.url()), node(&server.url()), node(&server.url())];
    for node in &nodes {
        node.back().await;
    }
    let load = tokio::spawn({
        let nodes = nodes.clone();
        async move { admitted(&nodes, 2_000).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.kill();
    let mut all = load.await.expect("no request failed");
    for _ in 0..3 {
        server.restart();
        for node in &nodes {
            node.back().await;
        }
        all += admitted(&nodes, 500).await;
        server.kill();
        all += admitted(&nodes, 500).await;
    }
    assert!((LIMIT as usize..=3 * LIMIT as usize).contains(&all), "{all}: a crash forgives nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_slow_or_out_of_reach() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::before(server.port());
    for (round, fault) in
        [Fault::Slow { one_in: 1, by: Duration::from_secs(2) }, Fault::Partition, Fault::Reset].into_iter().enumerate()
    {
        let fleet = format!("fleet{round}");
        let nodes = [&proxy.url(), &server.url()].map(|url| node_of(url, &fleet, LIMIT, OnOutage::Local));
        for node in &nodes {
            node.back().await;
            shared(node).await;
        }
        proxy.set(fault);
        let all = admitted(&nodes, 2_000).await + 2;
        assert!(all <= 2 * LIMIT as usize, "{fault:?}: {all}");
        proxy.heal();
        reached(&nodes[0]).await;
    }
    let hung = node_of(&server.url(), "hung", 7 * LIMIT, OnOutage::Local);
    hung.back().await;
    shared(&hung).await;
    server.stop();
    let (alone, _) = hung.admitted(3_000).await;
    assert!(alone < 7 * LIMIT as usize, "{alone}");
    server.cont();
    reached(&hung).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_or_garbles() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::before(server.port());
    let faults = [
        Fault::Answer("-READONLY You can't write against a read only replica."),
        Fault::Answer("-OOM command not allowed when used memory > 'maxmemory'."),
        Fault::Answer("-LOADING Redis is loading the dataset in memory"),
        Fault::Answer("-MISCONF Errors writing to the AOF file"),
        Fault::Answer("-NOAUTH Authentication required."),
        Fault::Cut,
        Fault::Half,
        Fault::Flip,
        Fault::Swap,
    ];
    for (round, fault) in faults.into_iter().enumerate() {
        let fleet = format!("fleet{round}");
        let nodes = [&proxy.url(), &server.url()].map(|url| node_of(url, &fleet, LIMIT, OnOutage::Local));
        for node in &nodes {
            node.back().await;
            shared(node).await;
        }
        proxy.set(fault);
        let all = admitted(&nodes, 1_500).await + 2;
        assert!(all <= 2 * LIMIT as usize, "{fault:?}: {all}");
        proxy.heal();
        reached(&nodes[0]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_names_another_primary() {
    if !wanted() {
        return;
    }
    let sentinel = RedisSentinel::start();
    let nodes = [node(&sentinel.url()), node(&sentinel.url())];
    for node in &nodes {
        node.back().await;
        shared(node).await;
    }
    let load = tokio::spawn({
        let nodes = nodes.clone();
        async move {
            let mut all = 0;
            for _ in 0..20 {
                all += admitted(&nodes, 100).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            all
        }
    });
    let sentinel = tokio::task::spawn_blocking(move || {
        sentinel.fail_over();
        sentinel
    });
    let sentinel = sentinel.await.expect("failed over");
    let all = load.await.expect("no request failed") + admitted(&nodes, 500).await + 2;
    assert!(all <= 2 * LIMIT as usize, "{all}");
    drop(sentinel);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_slots_move() {
    if !wanted() {
        return;
    }
    let cluster = RedisCluster::start();
    let nodes = [node(&cluster.url()), node(&cluster.url())];
    for node in &nodes {
        node.back().await;
        shared(node).await;
    }
    let load = tokio::spawn({
        let nodes = nodes.clone();
        async move { admitted(&nodes, 2_000).await }
    });
    let keys: Vec<String> = cluster.nodes.iter().flat_map(RedisServer::keys).collect();
    for key in keys.iter().take(6) {
        cluster.move_slot(key);
    }
    let all = load.await.expect("no request failed") + 2;
    assert!(all <= 2 * LIMIT as usize, "{all}");
    cluster.nodes[0].kill();
    assert!(all + admitted(&nodes, 1_000).await <= 2 * LIMIT as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_value_on_a_narrow_link_delays_no_decision() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::before(server.port());
    // Far longer than this machine needs, far shorter than the large values take.
    let redis = |url: &str| Redis::new(url).expect("a URL").limit_deadline(Duration::from_millis(500));
    let nodes = [server.url(), proxy.url()].map(|url| node_over(redis(&url), 1_000_000, OnOutage::Deny));
    for node in &nodes {
        node.back().await;
        shared(node).await;
    }
    // Long paths make long bodies: seven megabytes in six values.
    let path = format!("/{}", "a".repeat(60_000));
    for number in 0..6 {
        nodes[0].get(&format!("{path}{number}")).await;
    }
    nodes[0].quiet().await;
    proxy.set(Fault::Narrow { bytes_per_ms: 1_000 });
    let large = tokio::spawn({
        let (node, path) = (nodes[1].clone(), path.clone());
        async move {
            for number in 0..6 {
                node.get(&format!("{path}{number}")).await;
            }
        }
    });
    let (count, _) = nodes[1].admitted(2_000).await;
    large.await.expect("no request failed");
    assert_eq!(count, 2_000, "with `Deny`, one decision without the store would have been a refusal");
}
