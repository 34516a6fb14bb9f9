//! Counted outcomes and the actions of operators, in a fleet over one Redis.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/limited.rs"]
mod limited;
#[path = "support/redis.rs"]
mod server;
mod support;

use std::time::Duration;

use futures_util::future::join_all;
use limited::{Node, redis};
use server::RedisServer;
use support::from;
use tollgate::identity::Key;
use tollgate::limit::{Count, Limit, LimitSubject, Quota};
use tollgate::store::redis::{LimitMode, Redis};
use tollgate::{Clock, ManualClock};

const IP: &str = "192.0.2.1";

/// Statuses of `n` requests, sent to these nodes at the same time.
async fn at_once(nodes: &[&Node], n: usize) -> Vec<u16> {
    join_all((0..n).map(|i| nodes[i % nodes.len()].send(from(IP, "/"))))
        .await
        .iter()
        .map(|r| r.status().as_u16())
        .collect()
}

#[tokio::test]
async fn outcomes_that_do_not_count_are_refunded_in_the_fleet_and_those_that_do_are_exact() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    for mode in [LimitMode::Exact, LimitMode::Leased] {
        let shared = redis(&server.url()).prefix(format!("{mode:?}")).limit_mode(mode);
        let node = |count: Count| Node::with(&shared, |l| l.limit(Limit::per_ip("3/h").count(count).named("logins")));
        // The inner service answers 200: a good login.
        let (a, b) = (node(Count::failures()), node(Count::failures()));
        a.up().await;
        b.up().await;
        for _ in 0..10 {
            assert_eq!(at_once(&[&a, &b], 12).await, [200; 12], "good logins behind one address");
        }
        // And now it is a bad one.
        let (a, b) = (node(Count::successes()), node(Count::successes()));
        a.up().await;
        b.up().await;
        let admitted = at_once(&[&a, &b], 40).await.into_iter().filter(|status| *status == 200).count();
        assert_eq!(admitted, 3, "{mode:?}");
        assert_eq!(at_once(&[&a, &b], 4).await, [429; 4]);
    }
}

fn subject(node: &Node) -> LimitSubject {
    node.layer.subject(Key::ip(IP.parse().expect("an address")))
}

/// Nodes of one fleet whose clock the test turns.
async fn two_nodes(shared: &Redis, hand: &ManualClock, limit: Limit) -> (Node, Node) {
    let shared = shared.clone().clock(Clock::Manual(hand.clone()));
    let node = || Node::with(&shared, |limits| limits.limit(limit.clone()).clock(Clock::Manual(hand.clone())));
    let (a, b) = (node(), node());
    a.up().await;
    b.up().await;
    (a, b)
}

#[tokio::test]
async fn a_subject_is_looked_at_charged_and_reset_fleet_wide() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    for quota in [Quota::per_hour(10), Quota::per_hour(10).bucket(10)] {
        let shared = redis(&server.url()).prefix(format!("q{}", quota.to_string().len()));
        let hand = ManualClock::new();
        let (a, b) = two_nodes(&shared, &hand, Limit::per_ip(quota)).await;
        assert_eq!(a.admitted(4, IP).await, 4);
        assert_eq!(subject(&b).peek().await.limits()[0].verdict().remaining(), 6);
        assert!(subject(&b).check(6).await.admits());
        assert_eq!(a.admitted(3, IP).await + b.admitted(3, IP).await, 0);
        subject(&a).reset().await.expect("Redis is there");
        hand.advance(Duration::from_secs(1));
        assert_eq!(b.admitted(6, IP).await + a.admitted(9, IP).await, 10, "{quota}");
    }
}

#[tokio::test]
async fn a_grant_holds_fleet_wide_until_its_end_and_for_nodes_that_start_later() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let (shared, hand) = (redis(&server.url()), ManualClock::new());
    let limit = || Limit::per_ip("2/min").named("ip");
    let (a, b) = two_nodes(&shared, &hand, limit()).await;
    let until = Clock::Manual(hand.clone()).wall() + Duration::from_secs(600);
    subject(&a).grant("ip", "10/min", until).await.expect("Redis is there");
    let (c, _) = two_nodes(&shared, &hand, limit()).await;
    for node in [&a, &b, &c] {
        hand.advance(Duration::from_secs(61));
        // A node reads what is published when it is next asked.
        assert_eq!(subject(node).peek().await.limits()[0].quota(), Quota::per_minute(10));
        assert_eq!(node.admitted(7, IP).await + a.admitted(7, IP).await, 10);
    }
    hand.advance(Duration::from_secs(600));
    assert_eq!(a.admitted(4, IP).await + b.admitted(4, IP).await + c.admitted(4, IP).await, 2, "it has ended");
}

#[tokio::test]
async fn a_ban_holds_fleet_wide_until_its_end_or_a_reset() {
    if !server::wanted() {
        return;
    }
    let server = RedisServer::start();
    let (shared, hand) = (redis(&server.url()), ManualClock::new());
    let limit = Limit::per_ip("1/min").named("ip").ban_after(2, Duration::from_secs(600));
    let (a, b) = two_nodes(&shared, &hand, limit).await;
    assert_eq!(a.admitted(3, IP).await, 1);
    // The ban is published in the background.
    while !subject(&b).peek().await.denied() {}
    hand.advance(Duration::from_secs(2));
    let status = async |node: &Node| node.send(from(IP, "/")).await.status().as_u16();
    assert_eq!(status(&a).await, 403);
    assert_eq!(status(&b).await, 403);
    hand.advance(Duration::from_secs(598));
    subject(&b).peek().await;
    assert_eq!((status(&b).await, status(&a).await), (200, 429), "it has ended");
    let until = Clock::Manual(hand.clone()).wall() + Duration::from_secs(600);
    subject(&b).ban(until).await.expect("Redis is there");
    subject(&a).peek().await;
    assert_eq!((status(&a).await, status(&b).await), (403, 403));
    subject(&a).reset().await.expect("Redis is there");
    subject(&b).peek().await;
    assert_eq!(status(&b).await, 200, "reset by another node");
}
