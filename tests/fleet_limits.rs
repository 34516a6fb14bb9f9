//! Limits that a fleet shares over Redis.

#[path = "support/limited.rs"]
mod limited;
#[path = "support/redis.rs"]
mod server;
mod support;

use std::sync::Arc;
use std::time::Duration;

use limited::{Node, eight_processes, redis, role};
use server::RedisServer;
use support::{field, from};
use tollgate::identity::KeyHash;
use tollgate::limit::{Check, Decision, Limit, LimitStore, Quota, Reservation, Settlement};
use tollgate::store::RemoteLimits;
use tollgate::store::redis::{LimitMode, Redis};
use tollgate::{Clock, ManualClock, Tollgate};

const IP: &str = "192.0.2.1";

#[tokio::test]
async fn nodes_share_one_limit_and_agree_on_a_secret_by_themselves() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let shared = Redis::new(&server.url()).expect("a URL").limit_deadline(Duration::from_secs(1));
    for quota in [Quota::per_hour(20), Quota::per_hour(20).bucket(20)] {
        let shared = shared.clone().prefix(format!("t{}", quota.capacity() + u32::from(quota.to_string().len() > 10)));
        let (a, b) = (Node::new(&shared, quota), Node::new(&shared, quota));
        a.up().await;
        b.up().await;
        let mut left = Vec::new();
        for node in [&a, &b, &a, &b] {
            let response = node.send(from(IP, "/")).await;
            left.push(field(&response, "x-ratelimit-remaining").to_owned());
            assert!(response.extensions().get::<Decision>().is_none(), "not degraded");
        }
        assert_eq!(left, ["19", "18", "17", "16"], "{quota}");
        assert_eq!(a.admitted(10, IP).await + b.admitted(10, IP).await, 16, "{quota}");
        assert_eq!(a.admitted(3, "192.0.2.2").await, 3, "others are counted apart");
        assert_eq!((a.stats().degraded, b.stats().degraded), (0, 0));
    }
}

#[tokio::test]
async fn what_lies_in_redis_says_nothing_and_ends() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let shared = Redis::new(&server.url()).expect("a URL").prefix("shop");
    let node = Node::with(&shared, |limits| {
        limits.limit(Limit::per_ip(Quota::per_minute(20))).limit(Limit::global(Quota::per_second(1_000).bucket(10)))
    });
    node.up().await;
    node.admitted(5, "203.0.113.77").await;
    let keys = server.keys();
    assert!(keys.len() >= 2, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("shop:") && !key.contains("203.0.113"), "{key}");
        let ttl: i64 = server.cli(&["PTTL", &key]).trim().parse().expect("a number");
        assert!(ttl > 0 || ttl == -2, "{key} stays for ever");
    }
}

#[tokio::test]
async fn several_limits_are_taken_all_or_none() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let node = Node::with(&redis(&server.url()), |limits| {
        limits.limit(Limit::per_ip(Quota::per_hour(5))).limit(Limit::global(Quota::per_hour(8)))
    });
    node.up().await;
    assert_eq!(node.admitted(20, IP).await, 5);
    // Fifteen refusals have cost the common limit nothing: three are left of eight.
    assert_eq!(node.admitted(20, "192.0.2.2").await, 3);
    assert_eq!(node.stats().degraded, 0);
}

#[tokio::test]
async fn refusals_are_remembered_and_cost_no_round_trip() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let node = Node::new(&redis(&server.url()), Quota::per_hour(5));
    node.up().await;
    assert_eq!(node.admitted(6, IP).await, 5);
    let before = node.commands().1;
    assert_eq!(node.admitted(1_000, IP).await, 0);
    assert_eq!(node.commands().1, before, "a client that hammers is answered here");
    assert_eq!(node.stats().remote.expect("remote").remembered, 1_000);
}

#[tokio::test]
async fn decisions_that_wait_together_leave_together() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let node = Node::new(&redis(&server.url()).limit_deadline(Duration::from_secs(5)), Quota::per_hour(1_000));
    node.up().await;
    let asked: Vec<_> = (0..2_000)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { node.admitted(1, IP).await })
        })
        .collect();
    let mut admitted = 0;
    for one in asked {
        admitted += one.await.expect("no panic");
    }
    let (decisions, commands) = node.commands();
    assert_eq!(admitted, 1_000, "however they are batched");
    assert!(decisions == 2_000 && commands < 200, "{commands} commands for {decisions} decisions");
}

#[tokio::test]
async fn a_client_that_leaves_takes_nobody_along() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let node = Node::new(&redis(&server.url()).limit_deadline(Duration::from_secs(5)), Quota::per_hour(100_000));
    node.up().await;
    let all: Vec<_> = (0..500)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { node.admitted(1, IP).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let (leaving, staying): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
    leaving.iter().for_each(|(_, task)| task.abort());
    for (_, task) in staying {
        assert_eq!(task.await.expect("no panic"), 1);
    }
    assert_eq!(node.stats().degraded, 0);
}

#[tokio::test]
async fn reservations_are_settled_and_released_in_redis() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let redis = redis(&server.url());
    for (actual, left) in [(0, 100), (4, 96), (30, 70)] {
        let redis = redis.clone().prefix(format!("r{actual}"));
        let store = RemoteLimits::redis(&redis).expect("settings");
        let node = Node::with(&redis, |limits| {
            limits.store(Arc::new(store.clone())).limit(Limit::per_ip(Quota::per_hour(100)).cost(10).reserve())
        });
        node.until("connected", |_| store.remote().is_some_and(|remote| remote.up)).await;
        let layer = node.layer.clone();
        let taken = Arc::new(std::sync::Mutex::new(None));
        let keep = taken.clone();
        let inner = support::answering(move |request| {
            *keep.lock().expect("not poisoned") = request.extensions().get::<Reservation>().cloned();
            http::Response::new(http_body_util::Full::from("ok"))
        });
        let service = tower::Layer::layer(&layer, inner);
        let response = tower::ServiceExt::oneshot(service, from(IP, "/")).await.expect("infallible");
        assert_eq!(field(&response, "x-ratelimit-remaining"), "9", "of ten each");
        let reserved = taken.lock().expect("not poisoned").take().expect("a reservation");
        reserved.commit(actual);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let response = node.send(from(IP, "/")).await;
        assert_eq!(field(&response, "x-ratelimit-remaining"), ((left - 10) / 10).to_string(), "{actual}");
    }
}

#[tokio::test]
async fn looking_charges_nothing_and_a_refund_forgets_a_refusal() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let store = RemoteLimits::redis(&redis(&server.url())).expect("settings");
    let key = KeyHash::from_bits(7);
    let check = Check::new(key, Quota::per_hour(2)).in_fleet(key);
    let now = || Clock::System.now();
    while !store.remote().is_some_and(|remote| remote.up) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..3 {
        assert_eq!(store.peek(&[check], now()).await.expect("an answer")[0].remaining(), 2);
    }
    let at = now();
    for admits in [true, true, false, false] {
        assert_eq!(store.decide(&[check], now()).await.expect("an answer")[0].admits(), admits);
    }
    store.settle(&[Settlement::new(check, at, 0)], now()).await.expect("settled");
    assert!(store.decide(&[check], now()).await.expect("an answer")[0].admits());
}

#[tokio::test]
async fn limits_count_by_a_clock_that_is_turned() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let hand = ManualClock::new();
    let clock = Clock::Manual(hand.clone());
    let node = Node::with(&redis(&server.url()).clock(clock.clone()), |limits| {
        limits.limit(Limit::per_ip(Quota::per_minute(20))).clock(clock)
    });
    node.up().await;
    assert_eq!(node.admitted(30, IP).await, 20);
    hand.advance(Duration::from_secs(59));
    assert_eq!(node.admitted(30, IP).await, 0, "the 21st is refused even at second 59");
    hand.advance(Duration::from_secs(2));
    assert_eq!(node.admitted(30, IP).await, 20);
}

#[tokio::test]
async fn a_hot_key_is_leased_and_never_admits_too_much() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let redis = redis(&server.url()).limit_mode(LimitMode::Leased).limit_deadline(Duration::from_secs(5));
    for (prefix, quota) in [("w", Quota::per_hour(5_000)), ("b", Quota::per_hour(60).bucket(5_000))] {
        let redis = redis.clone().prefix(prefix);
        let nodes: Vec<Node> = (0..3).map(|_| Node::new(&redis, quota)).collect();
        for node in &nodes {
            node.up().await;
        }
        let asked = nodes.iter().map(|node| {
            let node = node.clone();
            tokio::spawn(async move { node.admitted(6_000, IP).await })
        });
        let mut admitted = 0;
        for one in asked.collect::<Vec<_>>() {
            admitted += one.await.expect("no panic");
        }
        let leased: u64 = nodes.iter().map(|node| node.stats().remote.expect("remote").leased).sum();
        assert!(admitted <= 5_000, "{quota}: {admitted}");
        assert!(admitted > 3_500 && leased > 2_000, "{quota}: {admitted} admitted, {leased} of them leased");
    }
}

#[tokio::test]
async fn the_gate_takes_a_url_and_fails_only_where_it_is_none() {
    let gate = |url: &str| Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(20))).redis(url).build();
    assert!(gate("redis://127.0.0.1:1").is_ok(), "a server that is down is no mistake");
    let error = gate("http://user:hunter2@127.0.0.1").expect_err("not a Redis").to_string();
    assert!(error.contains("http://127.0.0.1") && !error.contains("hunter2"), "{error}");
    let shown = format!("{:?}", Redis::new("redis://user:hunter2@127.0.0.1").expect("a URL").secret("swordfish"));
    assert!(!shown.contains("hunter2") && !shown.contains("swordfish"), "{shown}");
}

/// Run by itself it does nothing; run by [`eight_processes_share_one_limit`] it is one of the processes.
#[tokio::test]
async fn one_process_of_the_fleet() {
    let Some(role) = role() else { return };
    let (url, mode) = role.split_once(' ').expect("a URL and a mode");
    let mode = if mode == "leased" { LimitMode::Leased } else { LimitMode::Exact };
    let redis = redis(url).limit_mode(mode).prefix(mode_name(mode)).limit_deadline(Duration::from_secs(10));
    let node = Node::new(&redis, Quota::per_hour(2_000));
    node.up().await;
    let admitted = node.admitted(500, IP).await;
    assert_eq!(node.stats().degraded, 0);
    println!("admitted={admitted}");
}

const fn mode_name(mode: LimitMode) -> &'static str {
    match mode {
        LimitMode::Leased => "leased",
        _ => "exact",
    }
}

#[test]
fn eight_processes_share_one_limit() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    for (mode, least) in [("exact", 2_000), ("leased", 1_500)] {
        let admitted = eight_processes(&format!("{} {mode}", server.url()));
        assert!((least..=2_000).contains(&admitted), "{mode}: {admitted}");
    }
}
