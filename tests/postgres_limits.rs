//! Limits shared through a real PostgreSQL: one limit for all nodes, contention, outages, credits.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/limited.rs"]
mod limited;
#[path = "support/pgbouncer.rs"]
mod pgbouncer;
#[path = "support/postgres.rs"]
mod postgres;
mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use limited::{Node, SECRET, eight_processes, role};
use postgres::{Postgres, wanted};
use support::from;
use tollgate::cache::{Rule, Rules};
use tollgate::identity::Key;
use tollgate::limit::{Limit, LimitSubject, Quota};
use tollgate::store::postgres::Postgres as Settings;
use tollgate::store::{RemoteCredits, RemoteLimits};
use tollgate::testing::contract;
use tollgate::upstream::{Credits, Priority, UpstreamLayer};
use tollgate::{Clock, ManualClock, Tollgate};
use tower::{Layer, ServiceExt, service_fn};

const IP: &str = "192.0.2.1";

/// Time enough for a busy machine.
fn settings(url: &str) -> Settings {
    Settings::new(url).expect("a URL").secret(SECRET).deadline(Duration::from_secs(10))
}

fn node(settings: &Settings, quota: Quota) -> Node {
    Node::over(RemoteLimits::postgres(settings).expect("settings"), |limits| limits.limit(Limit::per_ip(quota)))
}

#[tokio::test]
async fn it_keeps_the_contract() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let node = node(&settings(&server.url()), Quota::per_hour(1));
    node.up().await;
    contract::limits(Arc::new(node.store.clone())).await;
}

#[tokio::test]
async fn nodes_share_one_limit_and_agree_on_a_secret_by_themselves() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let settings = Settings::new(&server.url()).expect("a URL").deadline(Duration::from_secs(10));
    let (one, other) = (node(&settings, Quota::per_hour(20)), node(&settings, Quota::per_hour(20)));
    one.up().await;
    other.up().await;
    assert_eq!(one.admitted(15, IP).await + other.admitted(15, IP).await, 20);
    assert_eq!(server.sql("SELECT count(*) FROM tollgate_settings WHERE name = 'secret'"), "1");
    let texts = server.sql("SELECT encode(state, 'escape') FROM tollgate_limits");
    assert!(!texts.contains(IP), "no address in clear text: {texts}");
}

#[tokio::test]
async fn limits_count_by_a_clock_that_is_turned() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let hand = ManualClock::new();
    let clock = Clock::Manual(hand.clone());
    let store = RemoteLimits::postgres(&settings(&server.url()).clock(clock.clone())).expect("settings");
    let node = Node::over(store, |limits| limits.limit(Limit::per_ip(Quota::per_minute(20))).clock(clock));
    node.up().await;
    assert_eq!(node.admitted(30, IP).await, 20);
    hand.advance(Duration::from_secs(59));
    assert_eq!(node.admitted(30, IP).await, 0);
    // A lease counts from its end, at most a fiftieth of the period later.
    hand.advance(Duration::from_secs(3));
    assert_eq!(node.admitted(30, IP).await, 20);
}

#[tokio::test]
async fn a_hot_key_is_leased_and_never_admits_too_much() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    for (schema, quota) in [("w", Quota::per_hour(3_000)), ("b", Quota::per_hour(60).bucket(3_000))] {
        let settings = settings(&server.url()).schema(schema);
        let nodes: Vec<Node> = (0..3).map(|_| node(&settings, quota)).collect();
        for node in &nodes {
            node.up().await;
        }
        let asked = nodes.iter().map(|node| {
            let node = node.clone();
            tokio::spawn(async move { node.admitted(4_000, IP).await })
        });
        let mut admitted = 0;
        for one in asked.collect::<Vec<_>>() {
            admitted += one.await.expect("no panic");
        }
        let leased: u64 = nodes.iter().map(|node| node.stats().remote.expect("remote").leased).sum();
        assert!(admitted <= 3_000, "{quota}: {admitted}");
        assert!(admitted > 2_000 && leased > 1_000, "{quota}: {admitted} admitted, {leased} of them leased");
    }
}

/// Run by itself it does nothing; run by [`eight_processes_share_one_limit`] it is one of the processes.
#[tokio::test]
async fn one_process_of_the_fleet() {
    let Some(url) = role() else { return };
    let node = node(&settings(&url), Quota::per_hour(1_000));
    node.up().await;
    let admitted = node.admitted(300, IP).await;
    assert_eq!(node.stats().degraded, 0);
    println!("admitted={admitted}");
}

#[test]
fn eight_processes_share_one_limit() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let admitted = eight_processes(&server.url());
    assert!((700..=1_000).contains(&admitted), "{admitted}");
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_changes_nothing() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let pooler = pgbouncer::PgBouncer::start(&server);
    let (direct, pooled) = (settings(&server.url()), settings(&pooler.url()));
    let (one, other) = (node(&direct, Quota::per_hour(20)), node(&pooled, Quota::per_hour(20)));
    one.up().await;
    other.up().await;
    assert_eq!(one.admitted(15, IP).await + other.admitted(15, IP).await, 20);
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_and_limits_go_on_without_the_server() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let settings = Settings::new(&server.url()).expect("a URL").secret(SECRET);
    let node = node(&settings, Quota::per_hour(20));
    node.up().await;
    assert_eq!(node.admitted(20, IP).await, 20);
    // A commit that waits for the disk takes the earlier ones along.
    server.sql("CREATE TABLE written ()");
    server.kill();
    node.down().await;
    assert_eq!(node.admitted(5, IP).await, 0, "what is known here still binds");
    assert_eq!(node.send(from("192.0.2.2", "/")).await.status(), 200, "others are decided here");
    server.restart();
    node.up().await;
    let fresh = Node::over(RemoteLimits::postgres(&settings).expect("settings"), |limits| {
        limits.limit(Limit::per_ip(Quota::per_hour(20)))
    });
    fresh.up().await;
    assert_eq!(fresh.admitted(5, IP).await, 0, "the server has kept it");
}

#[tokio::test]
async fn one_line_shares_the_limits_of_a_gate() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let gate = Tollgate::builder().limit(Limit::per_ip(Quota::per_hour(5))).postgres(settings(&server.url()));
    let gate = gate.build().expect("a gate");
    let remote = gate.stats().remote.expect("a remote store");
    assert_eq!(remote.store, "postgres limits");
}

/// How many of `n` calls of the upstream are made.
fn subject(node: &Node) -> LimitSubject {
    node.layer.subject(Key::ip(IP.parse().expect("an address")))
}

#[tokio::test]
async fn resets_grants_and_bans_hold_on_all_nodes() {
    if !wanted() {
        return;
    }
    let (server, hand) = (Postgres::start(), ManualClock::new());
    let shared = settings(&server.url()).clock(Clock::Manual(hand.clone()));
    let node = || {
        let store = RemoteLimits::postgres(&shared).expect("settings");
        let limit = Limit::per_ip("2/min").named("ip");
        Node::over(store, |limits| limits.limit(limit).clock(Clock::Manual(hand.clone())))
    };
    let (a, b) = (node(), node());
    a.up().await;
    b.up().await;
    assert_eq!(a.admitted(1, IP).await + b.admitted(1, IP).await, 2);
    assert!(!subject(&a).peek().await.admits());
    subject(&a).reset().await.expect("PostgreSQL is there");
    hand.advance(Duration::from_secs(1));
    assert_eq!(b.admitted(2, IP).await, 2, "forgotten by the fleet");

    let until = Clock::Manual(hand.clone()).wall() + Duration::from_secs(600);
    subject(&a).grant("ip", "10/min", until).await.expect("PostgreSQL is there");
    let late = node();
    late.up().await;
    for node in [&b, &late] {
        hand.advance(Duration::from_secs(61));
        assert_eq!(subject(node).peek().await.limits()[0].quota(), Quota::per_minute(10));
        // A node may hold a lease of what remains.
        let admitted = node.admitted(10, IP).await + a.admitted(10, IP).await;
        assert!((6..=10).contains(&admitted), "{admitted}");
    }
    hand.advance(Duration::from_secs(600));
    assert_eq!(a.admitted(2, IP).await, 2, "the grant has ended");

    let until = Clock::Manual(hand.clone()).wall() + Duration::from_secs(600);
    subject(&b).ban(until).await.expect("PostgreSQL is there");
    hand.advance(Duration::from_secs(61));
    let status = async |node: &Node| node.send(from(IP, "/")).await.status().as_u16();
    // A node reads what is published when it is next asked.
    assert!(subject(&a).peek().await.denied() && subject(&late).peek().await.denied());
    assert_eq!([status(&a).await, status(&b).await, status(&late).await], [403; 3]);
    subject(&late).reset().await.expect("PostgreSQL is there");
    hand.advance(Duration::from_secs(2));
    assert!(!subject(&a).peek().await.denied());
    assert_eq!(status(&a).await, 200);
}

#[tokio::test]
async fn a_subject_that_is_refused_too_often_is_banned_on_all_nodes() {
    if !wanted() {
        return;
    }
    let (server, hand) = (Postgres::start(), ManualClock::new());
    let shared = settings(&server.url()).clock(Clock::Manual(hand.clone()));
    let node = || {
        let store = RemoteLimits::postgres(&shared).expect("settings");
        let limit = Limit::per_ip("1/min").ban_after(2, Duration::from_secs(600));
        Node::over(store, |limits| limits.limit(limit).clock(Clock::Manual(hand.clone())))
    };
    let (a, b) = (node(), node());
    a.up().await;
    b.up().await;
    assert_eq!(a.admitted(3, IP).await, 1);
    // The ban is published in the background.
    while !subject(&b).peek().await.denied() {}
    hand.advance(Duration::from_secs(2));
    for node in [&a, &b] {
        assert_eq!(node.send(from(IP, "/")).await.status(), 403);
    }
    hand.advance(Duration::from_secs(600));
    assert_eq!(b.admitted(1, IP).await, 1, "it has ended");
}

async fn made(layer: &UpstreamLayer, n: usize) -> usize {
    let mut made = 0;
    for _ in 0..n {
        let client = service_fn(|_: Request<Full<Bytes>>| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        made += usize::from(layer.layer(client).oneshot(Request::new(Full::default())).await.is_ok());
    }
    made
}

#[tokio::test]
async fn a_restart_and_a_second_process_forget_no_credit() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let layer = || {
        let store = RemoteCredits::postgres(&settings(&server.url())).expect("settings");
        let builder = UpstreamLayer::builder("api").quota(Credits::per_month(500)).share(Priority::Normal, 1.0);
        builder.store(Arc::new(store)).build().expect("a layer")
    };
    let first = layer();
    assert_eq!(made(&first, 100).await, 100);
    drop(first);
    server.kill();
    server.restart();
    let (second, third) = (layer(), layer());
    let mut total = 100;
    for _ in 0..250 {
        total += made(&second, 1).await + made(&third, 1).await;
    }
    assert!((400..=500).contains(&total), "never more than 500, and no more lost than blocks: {total}");
    second.shutdown().await;
    third.shutdown().await;
    let last = layer();
    total += made(&last, 500).await;
    assert!((450..=500).contains(&total), "returned credits may be spent, and no more: {total}");
    let row =
        server.sql("SELECT upstream, quota_window, booked - returned >= 450, expires_at > now() FROM tollgate_credits");
    assert_eq!(row, "api|month|t|t");
}

#[tokio::test]
async fn usage_is_summed_by_hour_over_all_processes() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let rules = || Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(60)));
    for _ in 0..2 {
        let api = Tollgate::upstream("api").quota(Credits::per_month(1_000)).cost(|_| 5).cache(rules());
        let api = api.postgres(settings(&server.url())).build().expect("a gate");
        let gate = Tollgate::builder().cache(rules()).routes(["/prices/{symbol}"]).postgres(settings(&server.url()));
        let gate = gate.build().expect("a gate");
        for path in ["/prices/a", "/prices/a", "/prices/b"] {
            let request = || Request::get(format!("http://api.example{path}")).body(Full::<Bytes>::default());
            let answer = || async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) };
            let client = service_fn(move |_: Request<Full<Bytes>>| answer());
            api.layer().layer(client).oneshot(request().expect("a request")).await.expect("an answer");
            gate.layer().layer(client).oneshot(request().expect("a request")).await.expect("an answer");
        }
        api.shutdown().await;
        gate.shutdown().await;
    }
    let credits = server.sql(
        "SELECT upstream, endpoint, sum(credits), sum(requests), sum(hits + misses) FROM credit_usage GROUP BY 1, 2",
    );
    let parts: Vec<&str> = credits.split('|').collect();
    assert_eq!(parts[..2], ["api", "/prices/{symbol}"], "{credits}");
    let number = |at: usize| parts[at].parse::<u64>().expect("a number");
    assert_eq!((number(2), number(4)), (5 * number(3), 6), "{credits}");
    assert!(number(3) >= 2, "what one process stored may be a hit in the next: {credits}");
    let cache = server.sql("SELECT route, sum(hits + misses), sum(hits) >= 2 FROM cache_usage GROUP BY 1");
    assert_eq!(cache, "/prices/{symbol}|6|t");
    assert_eq!(server.sql("SELECT count(*) <= 4, bool_and(hour <= now()) FROM tollgate_usage"), "t|t");
}

#[tokio::test]
async fn a_restart_returns_what_it_had_leased() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let mut admitted = 0;
    for _ in 0..12 {
        let node = node(&settings(&server.url()), Quota::per_hour(100));
        node.up().await;
        admitted += node.admitted(8, IP).await;
        node.layer.shutdown().await;
    }
    assert_eq!(admitted, 96, "no restart uses up the limit");
}

#[tokio::test]
async fn nodes_that_ask_for_one_key_at_the_same_time_are_not_refused_below_the_limit() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let settings = settings(&server.url());
    let nodes: Vec<Node> = (0..4).map(|_| node(&settings, Quota::per_hour(1_000))).collect();
    for node in &nodes {
        node.up().await;
    }
    for user in 0..20 {
        let asked = nodes.iter().map(|node| async move { node.admitted(1, &format!("192.0.2.{user}")).await });
        let admitted: usize = futures_util::future::join_all(asked).await.into_iter().sum();
        assert_eq!(admitted, 4, "user {user}");
    }
}
