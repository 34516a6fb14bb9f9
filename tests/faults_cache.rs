//! What breaks under a cache that a fleet shares, and what clients see of it: nothing.
//!
//! Each test runs thousands of requests against the whole stack over real servers. For every one of them: no error, no
//! wrong body, no hang (ten times the promise), back to normal afterwards.

#![expect(clippy::disallowed_methods, reason = "a test guards against hanging")]

#[path = "support/fault_proxy.rs"]
mod fault_proxy;
#[path = "support/gate.rs"]
mod gate;
#[path = "support/redis.rs"]
mod redis;

use std::sync::atomic::Ordering;
use std::time::Duration;

use fault_proxy::{Fault, FaultProxy};
use gate::{BACK, Gate, HANG, tasks};
use redis::{RedisCluster, RedisSentinel, RedisServer, wanted};
use tollgate::cache::{Rule, Rules};
use tollgate::{Clock, ManualClock, Tollgate};

/// Two nodes share what either fetches, again or still.
async fn share(a: &Gate, b: &Gate, path: &str) {
    let since = std::time::Instant::now();
    let mut tries = 0;
    loop {
        let path = format!("{path}-{tries}");
        a.get(&path).await;
        a.quiet().await;
        if b.get(&path).await {
            return;
        }
        assert!(since.elapsed() < BACK, "{path}: not shared: {:?} {:?}", a.level(), b.level());
        tries += 1;
        // One call a second tries a store that has failed.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Loads the node until it has noticed that Redis is away, then more.
async fn loaded_while_away(node: &Gate) {
    let mut round = 0;
    while node.level().up {
        assert!(round < 100, "not noticed: {:?}", node.level());
        node.smooth_load(&format!("unnoticed{round}"), 200, 100).await;
        round += 1;
    }
    // The breaker is open: nobody waits for anything any more, so thousands take no time.
    node.smooth_load("away", 3_000, 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_at_the_start() {
    if !wanted() {
        return;
    }
    let server = RedisServer::absent();
    let nodes = [Gate::at(&server.url()), Gate::at(&server.url())];
    for node in &nodes {
        node.smooth_load("early", 2_000, 100).await;
        assert!(!node.level().up && node.calls() <= 110, "its memory serves: {} calls", node.calls());
    }
    server.restart();
    for node in &nodes {
        node.back().await;
    }
    share(&nodes[0], &nodes[1], "/late").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_and_comes_back() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let (a, b) = (Gate::at(&server.url()).joined().await, Gate::at(&server.url()).joined().await);
    share(&a, &b, "/before").await;
    for round in 0..3 {
        let loaded = a.clone();
        let load = tokio::spawn(async move { loaded.smooth_load(&format!("killed{round}"), 3_000, 300).await });
        tokio::time::sleep(Duration::from_millis(5)).await;
        server.kill();
        load.await.expect("no request failed");
        loaded_while_away(&a).await;
        assert!(b.get("/before-0").await || round > 0, "what its memory holds is served meanwhile");
        server.restart();
        a.back().await;
        b.back().await;
        share(&a, &b, &format!("/after{round}")).await;
    }
    a.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let (a, b) = (Gate::at(&server.url()).joined().await, Gate::at(&server.url()).joined().await);
    share(&a, &b, "/before").await;
    server.stop();
    loaded_while_away(&a).await;
    assert!(b.get("/before-0").await, "a hit in memory waits for nothing");
    server.cont();
    a.back().await;
    b.back().await;
    share(&a, &b, "/after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_two_seconds_for_every_reply() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::before(server.port());
    let (a, b) = (Gate::at(&proxy.url()).joined().await, Gate::at(&server.url()).joined().await);
    proxy.set(Fault::Slow { one_in: 1, by: Duration::from_secs(2) });
    loaded_while_away(&a).await;
    proxy.heal();
    a.back().await;
    share(&a, &b, "/after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_slow_replies_do_not_shut_it_off() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::before(server.port());
    let a = Gate::at(&proxy.url()).joined().await;
    proxy.set(Fault::Slow { one_in: 20, by: Duration::from_millis(100) });
    let mut slow = 0;
    for number in 0..60 {
        let load = a.smooth_load(&format!("rare{number}"), 1, 1).await;
        slow += usize::from(load.max() > Duration::from_millis(40));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(slow < 30, "{slow} of 60 were slow");
    assert!(!a.events().iter().any(|event| event.contains("StoreDown")), "{:?}", a.events());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let a = Gate::at(&server.url()).joined().await;
    let nowhere = redis::free_port().to_string();
    let refusals: [(&str, &[&str], &[&str]); 2] = [
        ("READONLY", &["REPLICAOF", "127.0.0.1", &nowhere], &["REPLICAOF", "NO", "ONE"]),
        ("OOM", &["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]),
    ];
    for (what, begin, end) in refusals {
        server.cli(begin);
        a.smooth_load(what, 3_000, 300).await;
        server.cli(end);
        a.back().await;
        let b = Gate::at(&server.url()).joined().await;
        share(&a, &b, &format!("/{what}-after")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_loading_or_cannot_save() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::before(server.port());
    let (a, b) = (Gate::at(&proxy.url()).joined().await, Gate::at(&server.url()).joined().await);
    for answer in ["-LOADING Redis is loading the dataset in memory", "-MISCONF Errors writing to the AOF file"] {
        proxy.set(Fault::Answer(answer));
        a.smooth_load("refusing", 3_000, 300).await;
        proxy.heal();
        a.back().await;
    }
    share(&a, &b, "/after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_and_a_missing_permission() {
    if !wanted() {
        return;
    }
    let server = RedisServer::with_password("right");
    let wrong = Gate::at(&server.url().replace("right", "wrong"));
    let before = server.info("total_connections_received");
    let since = std::time::Instant::now();
    for round in 0..4 {
        wrong.smooth_load(&format!("wrong{round}"), 500, 50).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // The look at the figures is a connection too, and so is a subscription.
    let (attempts, seconds) = (server.info("total_connections_received") - before, since.elapsed().as_secs_f64());
    assert!((attempts as f64) < 11.0 * seconds, "{attempts} connections in {seconds} s");
    assert!(!wrong.level().up);
    server.cli(&["ACL", "SETUSER", "reader", "on", ">right", "~*", "&*", "+@all", "-set", "-eval"]);
    let reader = Gate::at(&server.url().replace(":right@", "reader:right@"));
    reader.smooth_load("reader", 3_000, 300).await;
    server.cli(&["ACL", "SETUSER", "reader", "+set", "+eval"]);
    reader.back().await;
    server.cli(&["CONFIG", "SET", "requirepass", "wrong"]);
    wrong.back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_slots_move_and_whose_node_is_lost() {
    if !wanted() {
        return;
    }
    let cluster = RedisCluster::start();
    let (a, b) = (Gate::at(&cluster.url()).joined().await, Gate::at(&cluster.url()).joined().await);
    share(&a, &b, "/before").await;
    for round in 0..3 {
        let loaded = a.clone();
        let load = tokio::spawn(async move { loaded.smooth_load(&format!("moving{round}"), 2_000, 500).await });
        cluster.move_slot("tollgate:{cache}:log");
        load.await.expect("no request failed");
    }
    a.back().await;
    share(&a, &b, "/moved").await;
    a.gate.invalidate().key("/moved-0").await.expect("told");
    let lost = (cluster.owner("tollgate:{cache}:log") + 1) % 3;
    cluster.nodes[lost].kill();
    a.smooth_load("lost", 3_000, 500).await;
    cluster.nodes[lost].spawn();
    a.smooth_load("found", 1_000, 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_names_another_primary() {
    if !wanted() {
        return;
    }
    let sentinel = RedisSentinel::start();
    let (a, b) = (Gate::at(&sentinel.url()).joined().await, Gate::at(&sentinel.url()).joined().await);
    share(&a, &b, "/before").await;
    let loaded = a.clone();
    let load = tokio::spawn(async move { loaded.smooth_load("failing-over", 5_000, 1_000).await });
    tokio::task::spawn_blocking(move || {
        sentinel.fail_over();
        sentinel
    })
    .await
    .map(|kept| async move {
        load.await.expect("no request failed");
        a.back().await;
        b.back().await;
        share(&a, &b, "/after").await;
        drop(kept);
    })
    .expect("failed over")
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_and_connections_that_are_reset() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::before(server.port());
    let (a, b) = (Gate::at(&proxy.url()).joined().await, Gate::at(&server.url()).joined().await);
    for fault in [Fault::Partition, Fault::Reset] {
        proxy.set(fault);
        loaded_while_away(&a).await;
        proxy.heal();
        a.back().await;
        share(&a, &b, &format!("/after-{fault:?}")).await;
        share(&b, &a, &format!("/and-back-{fault:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_are_cut_garbled_swapped_or_slow() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::before(server.port());
    let b = Gate::at(&server.url()).joined().await;
    // Entries that a node without them will read through the proxy.
    b.load("shared", 500, 500).await;
    b.quiet().await;
    let faults = [Fault::Cut, Fault::Half, Fault::Flip, Fault::Swap, Fault::Drip { pause: Duration::from_millis(1) }];
    for (number, fault) in faults.into_iter().enumerate() {
        let a = Gate::at(&proxy.url()).joined().await;
        proxy.set(fault);
        // Every body is compared with the path it was asked under.
        for round in 0..4 {
            a.smooth_load("shared", 500, 500).await;
            a.smooth_load(&format!("own{round}"), 250, 250).await;
        }
        proxy.heal();
        a.back().await;
        share(&a, &b, &format!("/after-{number}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_calendar_that_jumps_changes_no_life() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let hand = ManualClock::new();
    let clock = Clock::Manual(hand.clone());
    let a = Gate::with(&server.url(), |builder| builder.clock(clock.clone())).joined().await;
    let b = Gate::with(&server.url(), |builder| builder.clock(clock)).joined().await;
    let day = Duration::from_secs(1_767_225_600);
    for (number, hours) in [(0, 1.0), (1, -1.0)] {
        let path = format!("/jump{number}");
        a.get(&path).await;
        a.quiet().await;
        let jump = Duration::from_secs_f64(day.as_secs_f64() + 3_600.0 * hours);
        hand.set_wall(std::time::SystemTime::UNIX_EPOCH + jump);
        let response = b.send(&path).await;
        let age: u64 = response.headers()["age"].to_str().expect("text").parse().expect("never negative");
        assert!(age <= 2, "{age}");
        hand.advance(Duration::from_secs(70));
        assert!(!b.get(&path).await, "a minute is a minute");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_is_down_is_stood_in_for_by_what_another_node_fetched() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let hand = ManualClock::new();
    let node = || {
        let rule = Rule::ttl(Duration::from_secs(60)).stale_if_error(Duration::from_secs(600)).same_for_everyone();
        let rules = Rules::new().otherwise(rule);
        Gate::build(Tollgate::builder().cache(rules).redis(server.url()).clock(Clock::Manual(hand.clone())))
    };
    let (a, b) = (node().joined().await, node().joined().await);
    a.get("/a").await;
    a.quiet().await;
    hand.advance(Duration::from_secs(120));
    b.origin.down.store(true, Ordering::SeqCst);
    assert!(b.get("/a").await, "stale, from Redis, in place of a 503");
    hand.advance(Duration::from_secs(700));
    assert_eq!(b.send("/a").await.status(), 503, "not past its window");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_and_gates_that_are_dropped_leave_nothing_behind() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start();
    let baseline = tasks();
    let gate = Gate::at(&server.url()).joined().await;
    for number in 0..1_000 {
        // Left after a moment: before, while and after the fetch.
        let path = format!("/left{number}");
        let _ = tokio::time::timeout(Duration::from_micros(number % 300), gate.send(&path)).await;
    }
    gate.quiet().await;
    let since = std::time::Instant::now();
    gate.gate.shutdown().await;
    assert!(since.elapsed() < Duration::from_secs(10));
    server.stop();
    drop(gate);
    for _ in 0..1_000 {
        if tasks() <= baseline {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{} tasks are left of {baseline}", tasks());
}

#[test]
fn the_guards_are_ten_times_the_promises() {
    assert_eq!((HANG, BACK), (10 * Duration::from_millis(50), 10 * Duration::from_millis(500)));
}
