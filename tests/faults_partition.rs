//! A Redis that one node cannot reach any more while another can: packets dropped, or answered by resets, by a real packet
//! filter (nftables) in a network namespace of the test's own.
//!
//! Run by `./test.sh`, which says so where the machine allows no such namespace.

#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and guards against hanging")]

#[path = "support/gate.rs"]
mod gate;
#[path = "support/redis.rs"]
mod redis;

use std::process::Command;
use std::time::{Duration, Instant};

use gate::{BACK, Gate};
use redis::RedisServer;
use tollgate::TollgateBuilder;
use tollgate::limit::{Limit, OnOutage, Quota};

const LIMIT: u32 = 300;
/// Set in the process that runs inside the namespace.
const INSIDE: &str = "TOLLGATE_INSIDE_A_NAMESPACE";

fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output().expect("iproute2 and nftables are installed by ./test.sh");
    assert!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Cuts the node that reaches Redis by 127.0.0.2 off, both ways.
struct Filter(&'static str);

impl Filter {
    fn on(verdict: &'static str) -> Self {
        run("nft", &["add table inet cut"]);
        run("nft", &["add chain inet cut input { type filter hook input priority 0; }"]);
        run("nft", &[&format!("add rule inet cut input ip daddr 127.0.0.2 {verdict}")]);
        run("nft", &[&format!("add rule inet cut input ip saddr 127.0.0.2 {verdict}")]);
        Self(verdict)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        run("nft", &["delete table inet cut"]);
    }
}

fn node(url: &str, fleet: &str) -> Gate {
    let redis = tollgate::store::redis::Redis::new(url).expect("a URL").prefix(fleet);
    let limit = Limit::per_ip(Quota::per_hour(LIMIT));
    let set = |builder: TollgateBuilder| builder.limit(limit).limits_with(|limits| limits.on_outage(OnOutage::Local));
    Gate::over(redis, set)
}

/// Waits until both of the node's ways to Redis are in this state; somebody without a limit of note asks meanwhile.
async fn until(node: &Gate, up: bool) -> Duration {
    let since = Instant::now();
    let mut turn = 0;
    loop {
        let stats = node.gate.stats();
        if stats.remote.is_some_and(|remote| remote.up) == up && node.level().up == up {
            return since.elapsed();
        }
        assert!(since.elapsed() < BACK, "not {}: {:?}", if up { "back" } else { "noticed" }, node.level());
        node.send_from(&format!("198.51.100.{}", turn % 250), &format!("/{up}/{turn}")).await;
        turn += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn partition() {
    run("ip", &["link", "set", "lo", "up"]);
    let server = RedisServer::start_with(&["--bind", "127.0.0.1", "127.0.0.2"]);
    let near = format!("redis://127.0.0.1:{}", server.port());
    let far = format!("redis://127.0.0.2:{}", server.port());
    for verdict in ["drop", "tcp flags & (syn | ack) != 0 reject with tcp reset"] {
        let fleet = if verdict == "drop" { "dropped" } else { "reset" };
        let (cut, whole) = (node(&far, fleet), node(&near, fleet));
        until(&cut, true).await;
        until(&whole, true).await;
        let filter = Filter::on(verdict);
        // Every request is admitted or refused, and none hangs; alone, each admits at most the limit.
        let load = tokio::spawn({
            let cut = cut.clone();
            async move { cut.admitted(3_000).await.0 }
        });
        let admitted = whole.admitted(3_000).await.0 + load.await.expect("no request failed");
        let limit = LIMIT as usize;
        assert!((limit..=2 * limit).contains(&admitted), "{}: {admitted} admitted", filter.0);
        until(&cut, false).await;
        assert!(whole.level().up, "the other node is not touched");
        // Only the cut node's memory is left to it: nothing waits, nothing fails.
        for path in 0..500 {
            let response = cut.send_from(&format!("203.0.113.{}", path % 250), &format!("/away/{path}")).await;
            assert_eq!(response.status(), 200, "{}", filter.0);
        }
        drop(filter);
        until(&cut, true).await;
        assert_eq!(cut.admitted(500).await.0, 0, "what was admitted meanwhile is not forgiven");
        let path = format!("/{fleet}/shared");
        assert_eq!(whole.send_from("203.0.113.9", &path).await.status(), 200);
        whole.quiet().await;
        let shared = cut.send_from("203.0.113.10", &path).await;
        assert!(shared.headers().contains_key("age"), "{fleet}: served what the other node fetched");
    }
}

#[test]
fn a_node_behind_a_partition_goes_on_alone_and_comes_back() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(partition());
        return;
    }
    if std::env::var_os("TOLLGATE_TEST_NETWORK").is_none() {
        return;
    }
    let this = std::env::current_exe().expect("this test's own program");
    let name = "a_node_behind_a_partition_goes_on_alone_and_comes_back";
    let ran = Command::new("unshare")
        .args(["--map-root-user", "--net", "--pid", "--fork", "--kill-child"])
        .arg(this)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare is installed");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && out.contains("1 passed"), "inside the namespace:\n{out}\n{err}");
}
