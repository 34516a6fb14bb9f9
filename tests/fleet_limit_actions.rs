//! Counted outcomes and the actions of operators, in a fleet over one Redis.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/limited.rs"]
mod limited;
#[path = "support/redis.rs"]
mod server;
mod support;

use futures_util::future::join_all;
use limited::{Node, redis};
use server::RedisServer;
use support::from;
use tollgate::limit::{Count, Limit};
use tollgate::store::redis::LimitMode;

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
