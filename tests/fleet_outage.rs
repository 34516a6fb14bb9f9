//! Limits while the Redis that a fleet shares is down, hung, slow, refusing or garbled: requests go on, nothing is
//! forgiven, and things are back to normal by themselves.
#![expect(clippy::disallowed_methods, reason = "guards against hanging")]

#[path = "support/limited.rs"]
mod limited;
#[path = "support/fault_proxy.rs"]
mod proxy;
#[path = "support/redis.rs"]
mod server;
mod support;

use std::time::{Duration, Instant};

use limited::{Node, redis};
use proxy::{Fault, FaultProxy};
use server::RedisServer;
use support::from;
use tollgate::ManualClock;
use tollgate::limit::{Decision, Limit, OnOutage, Quota};
use tollgate::store::redis::{LimitMode, Redis};

const IP: &str = "192.0.2.1";
/// Ten times the longest a decision may take.
const HANG: Duration = Duration::from_millis(2_500);

/// Requests that must not fail, nor take long.
async fn admitted(node: &Node, n: usize, ip: &str) -> usize {
    let mut admitted = 0;
    for _ in 0..n {
        let since = Instant::now();
        admitted += node.admitted(1, ip).await;
        assert!(since.elapsed() < HANG, "a request took {:?}", since.elapsed());
    }
    admitted
}

fn quota() -> Quota {
    Quota::per_hour(1_000)
}

#[tokio::test]
async fn a_server_that_is_down_at_start_is_missed_and_then_found() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::absent();
    let node = Node::new(&redis(&server.url()), quota());
    let response = node.send(from(IP, "/")).await;
    assert!(response.extensions().get::<Decision>().is_some_and(Decision::degraded), "it says so");
    assert_eq!(admitted(&node, 999, IP).await, 999);
    assert_eq!(admitted(&node, 1_000, IP).await, 0, "the limit holds in this process");
    assert!(node.stats().degraded >= 1_000);
    let page = node.layer.prometheus();
    openmetrics_parser::prometheus::parse_prometheus(&page).expect("a page");
    assert!(
        page.contains("tollgate_limit_store_up{store=\"redis limits\"} 0")
            && !page.contains("tollgate_limit_degraded_total 0"),
        "{page}"
    );
    node.until("it was said", |node| node.heard("StoreDown") > 0).await;
    admitted(&node, 1_000, IP).await;
    assert_eq!(node.heard("StoreDown"), 1, "once, not for each request");
    server.restart();
    node.up().await;
    assert_eq!(node.heard("StoreUp"), 1);
    let response = node.send(from("192.0.2.2", "/")).await;
    assert!(response.extensions().get::<Decision>().is_none());
    assert_eq!(admitted(&node, 100, IP).await, 0, "what was admitted without it still counts");
}

/// Kills and restarts the server (which forgets everything) while requests go on; how many were admitted.
async fn killed_under_load(nodes: &[Node], server: &RedisServer, n: usize) -> usize {
    for node in nodes {
        node.up().await;
    }
    let mut sum = 0;
    for node in nodes {
        sum += admitted(node, n / 4, IP).await;
    }
    server.kill();
    for node in nodes {
        sum += admitted(node, n / 4, IP).await;
    }
    server.restart();
    for node in nodes {
        node.up().await;
        sum += admitted(node, n / 2, IP).await;
    }
    // A node that was refused before remembers it, and needs nobody to ask.
    assert!(nodes.iter().any(|node| node.stats().degraded > 0));
    sum
}

#[tokio::test]
async fn a_server_that_is_killed_and_restarted_forgives_nothing() {
    if !server::wanted() {
        return;
    }
    for (policy, count, bound) in [
        (OnOutage::Local, 1, 1_000),
        (OnOutage::Local, 3, 3_000),
        (OnOutage::Share(2), 2, 1_000),
        (OnOutage::Deny, 2, 2_000),
    ] {
        let server = RedisServer::start();
        let node =
            |_| Node::with(&redis(&server.url()), |limits| limits.limit(Limit::per_ip(quota())).on_outage(policy));
        let nodes: Vec<Node> = (0..count).map(node).collect();
        let sum = killed_under_load(&nodes, &server, 2_000).await;
        assert!(sum <= bound, "{policy:?} on {count}: {sum}");
        assert!(sum >= 500, "{policy:?} on {count}: {sum}");
    }
}

#[tokio::test]
async fn policies_say_what_becomes_of_requests() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::absent();
    for (policy, passes) in
        [(OnOutage::Local, 1_000), (OnOutage::Share(4), 250), (OnOutage::Allow, 1_500), (OnOutage::Deny, 0)]
    {
        let node = Node::with(&redis(&server.url()), |limits| limits.limit(Limit::per_ip(quota())).on_outage(policy));
        assert_eq!(admitted(&node, 1_500, IP).await, passes, "{policy:?}");
        assert_eq!(node.stats().degraded, 1_500);
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_left_and_found_again_on_a_fresh_connection() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let node = Node::new(&Redis::new(&server.url()).expect("a URL"), quota());
    node.up().await;
    assert_eq!(admitted(&node, 100, IP).await, 100);
    server.stop();
    assert_eq!(admitted(&node, 900, IP).await, 900);
    assert_eq!(admitted(&node, 500, IP).await, 0);
    let failures = node.stats().remote.expect("remote").failures;
    assert!(failures <= 10, "a handful of calls find out: {failures}");
    server.cont();
    node.up().await;
    assert_eq!(admitted(&node, 100, IP).await, 0, "the limit has been used up without it");
    assert_eq!(admitted(&node, 100, "192.0.2.2").await, 100);
}

#[tokio::test]
async fn slow_cut_and_garbled_answers_are_no_answers() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    for mode in [LimitMode::Exact, LimitMode::Leased] {
        for fault in [
            Fault::Slow { one_in: 1, by: Duration::from_secs(2) },
            Fault::Cut,
            Fault::Half,
            Fault::Flip,
            Fault::Swap,
            Fault::Drip { pause: Duration::from_millis(20) },
            Fault::Reset,
            Fault::Partition,
        ] {
            let proxy = FaultProxy::before(server.port());
            let redis = Redis::new(&proxy.url())
                .expect("a URL")
                .limit_mode(mode)
                .prefix(format!("{mode:?}{fault:?}").replace(|c: char| !c.is_ascii_alphanumeric(), ""));
            let node = Node::new(&redis, quota());
            node.up().await;
            let mut sum = admitted(&node, 200, IP).await;
            proxy.set(fault);
            sum += admitted(&node, 400, IP).await;
            proxy.heal();
            node.up().await;
            sum += admitted(&node, 1_500, IP).await;
            assert!(sum <= 1_000, "{mode:?} {fault:?}: {sum}");
            assert!(sum >= 500, "{mode:?} {fault:?}: {sum}");
            // Others, who were not limited, find everything as it was.
            let before = node.stats().degraded;
            assert_eq!(admitted(&node, 50, "192.0.2.2").await, 50, "{mode:?} {fault:?}");
            assert_eq!(node.stats().degraded, before, "{mode:?} {fault:?}: back to normal");
        }
    }
}

#[tokio::test]
async fn a_slow_answer_in_twenty_opens_no_breaker() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::before(server.port());
    let node = Node::new(&Redis::new(&proxy.url()).expect("a URL"), quota());
    node.up().await;
    admitted(&node, 1, IP).await;
    proxy.set(Fault::Slow { one_in: 20, by: Duration::from_millis(100) });
    for _ in 0..60 {
        admitted(&node, 1, IP).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let remote = node.stats().remote.expect("remote");
    assert!(remote.up && remote.connections == 1, "{remote:?}");
    assert!((1..=8).contains(&node.stats().degraded), "only the slow ones: {}", node.stats().degraded);
}

#[tokio::test]
async fn a_server_that_refuses_writes_is_tried_once_a_second() {
    if !server::wanted() {
        return;
    }
    let primary = RedisServer::start();
    let server = RedisServer::start();
    let full = ["CONFIG", "SET", "maxmemory", "1"];
    let roomy = ["CONFIG", "SET", "maxmemory", "0"];
    let port = primary.port().to_string();
    let (demote, promote) = (["REPLICAOF", "127.0.0.1", &port], ["REPLICAOF", "NO", "ONE"]);
    for (spoil, mend) in [(&full[..], &roomy[..]), (&demote[..], &promote[..])] {
        let node = Node::new(&redis(&server.url()).prefix(spoil[0].to_lowercase()), quota());
        node.up().await;
        assert_eq!(admitted(&node, 100, IP).await, 100);
        server.cli(spoil);
        let since = Instant::now();
        let failures = |node: &Node| node.stats().remote.expect("remote").failures;
        let before = failures(&node);
        let mut sum = 0;
        while since.elapsed() < Duration::from_millis(2_500) {
            sum += admitted(&node, 20, IP).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(sum <= 900, "{spoil:?}: {sum}");
        let tried = failures(&node) - before;
        assert!((5..=9).contains(&tried), "{spoil:?}: five, then one a second: {tried}");
        server.cli(mend);
        let since = Instant::now();
        while node.stats().remote.is_some_and(|remote| !remote.up) {
            assert!(since.elapsed() < Duration::from_secs(10), "{mend:?}: not within 10 s");
            admitted(&node, 1, "192.0.2.9").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(admitted(&node, 2_000, IP).await + sum + 100, 1_000, "{spoil:?}: neither forgiven nor lost");
    }
}

#[tokio::test]
async fn a_wrong_password_is_an_outage_until_it_is_right() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::with_password("right");
    let url = server.url().replace("right", "wrong");
    let node = Node::new(&redis(&url), quota());
    let before = server.info("total_connections_received");
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(2) {
        admitted(&node, 10, IP).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let per_second = (server.info("total_connections_received") - before) as f64 / since.elapsed().as_secs_f64();
    assert!(per_second <= 10.0, "{per_second} connections a second");
    assert_eq!(node.heard("StoreDown"), 1);
    server.cli(&["CONFIG", "SET", "requirepass", "wrong"]);
    node.up().await;
    assert_eq!(admitted(&node, 10, "192.0.2.2").await, 10);
}

#[tokio::test]
async fn a_server_that_forgets_its_scripts_is_told_again() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let node = Node::new(&redis(&server.url()), quota());
    node.up().await;
    for i in 0..20 {
        server.cli(&["SCRIPT", "FLUSH"]);
        assert_eq!(admitted(&node, 20, IP).await, 20, "{i}");
    }
    assert_eq!((node.stats().degraded, node.heard("StoreFailed")), (0, 0));
}

#[tokio::test]
async fn the_local_word_binds_until_its_period_has_passed() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let hand = ManualClock::new();
    let clock = tollgate::Clock::Manual(hand.clone());
    let node = Node::with(&redis(&server.url()).clock(clock.clone()), |limits| {
        limits.limit(Limit::per_ip(Quota::per_minute(100))).clock(clock)
    });
    node.up().await;
    server.kill();
    assert_eq!(admitted(&node, 200, IP).await, 100);
    server.restart();
    node.up().await;
    hand.advance(Duration::from_secs(30));
    assert_eq!(admitted(&node, 200, IP).await, 0);
    hand.advance(Duration::from_secs(31));
    assert_eq!(admitted(&node, 200, IP).await, 100);
    let before = node.stats().degraded;
    hand.advance(Duration::from_secs(61));
    assert_eq!(admitted(&node, 50, IP).await, 50);
    assert_eq!(node.stats().degraded, before, "Redis alone decides again");
}

#[tokio::test]
async fn nothing_is_left_behind() {
    if !server::wanted() {
        return;
    }
    let (up, down) = (RedisServer::start(), RedisServer::absent());
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for round in 0..100 {
        let server = if round % 2 == 0 { &up } else { &down };
        let node = Node::new(&redis(&server.url()).limit_mode(LimitMode::Leased), quota());
        if round % 4 == 0 {
            node.up().await;
        }
        assert_eq!(admitted(&node, 5, &format!("192.0.2.{round}")).await, 5, "{round}");
    }
    let since = Instant::now();
    while tasks() > 0 {
        assert!(since.elapsed() < Duration::from_secs(10), "{} tasks stay", tasks());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(up.info("connected_clients") <= 2, "{} connections stay", up.info("connected_clients"));
}

#[tokio::test]
async fn a_hundred_thousand_keys_neither_hang_nor_grow() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    for mode in [LimitMode::Exact, LimitMode::Leased] {
        let redis = redis(&server.url()).limit_mode(mode).limit_deadline(Duration::from_secs(5));
        let node = Node::with(&redis, |limits| limits.limit(Limit::per_ip(Quota::per_second(2))).capacity(1_000));
        node.up().await;
        let since = Instant::now();
        let flood = (0..50_u32).map(|part| {
            let node = node.clone();
            tokio::spawn(async move {
                for i in 0..2_000 {
                    let key = part * 2_000 + i;
                    let ip = format!("10.{}.{}.{}", key >> 16, key >> 8 & 255, key & 255);
                    assert_eq!(node.admitted(1, &ip).await, 1);
                }
            })
        });
        for part in flood.collect::<Vec<_>>() {
            part.await.expect("no panic");
        }
        assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
        assert_eq!(node.stats().degraded, 0);
        assert!(node.stats().remote.expect("remote").decisions >= 100_000);
    }
    // Two-second limits leave nothing behind.
    let since = Instant::now();
    while server.cli(&["DBSIZE"]).trim().parse::<u64>().expect("a number") > 1 {
        assert!(since.elapsed() < Duration::from_secs(30), "keys stay: {}", server.cli(&["DBSIZE"]));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
