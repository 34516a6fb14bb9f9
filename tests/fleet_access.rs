//! A fleet whose Redis asks who it is: sentinels with passwords, and a user with the documented permissions only.

#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/gate.rs"]
mod gate;
#[path = "support/redis.rs"]
mod redis;

use std::time::Duration;

use gate::Gate;
use redis::{RedisCluster, RedisSentinel, RedisServer, wanted};
use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Limit, Quota};
use tollgate::store::redis::{LimitMode, Redis};

fn node(redis: Redis) -> Gate {
    let rules = Rules::new().route("/{*rest}", Rule::ttl(Duration::from_secs(60)).same_for_everyone().tag("all"));
    let limit = Limit::per_ip(Quota::per_hour(1_000_000));
    Gate::build(Tollgate::builder().routes(["/{*rest}"]).cache(rules).limit(limit).redis(redis))
}

async fn connects(redis: Redis) -> bool {
    let node = node(redis);
    for _ in 0..200 {
        node.get("/a").await;
        if node.level().up && node.gate.stats().remote.is_some_and(|remote| remote.up) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_with_passwords_are_asked() {
    if !wanted() {
        return;
    }
    let at = |sentinel: &RedisSentinel, user: &str| {
        Redis::new(&sentinel.url().replace("://", &format!("://{user}"))).expect("a URL").prefix("fleet")
    };
    let same = RedisSentinel::with_passwords("secret", "secret");
    assert!(connects(at(&same, ":secret@")).await, "the same password for both");
    let apart = RedisSentinel::with_passwords("primarys", "sentinels");
    assert!(connects(at(&apart, ":primarys@").sentinel_credentials("", "sentinels")).await, "each its own");
    assert!(!connects(at(&apart, ":primarys@")).await, "and not with the wrong one");
    let open = RedisSentinel::start();
    assert!(connects(at(&open, "")).await, "none");
}

/// The command of the guide, for a server of this process.
fn permissions() -> Vec<String> {
    let guide = include_str!("../src/docs/fleets.md");
    let from = guide.find("ACL SETUSER").expect("the command");
    let command = &guide[from..from + guide[from..].find("```").expect("its end")];
    command.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_the_documented_permissions_lacks_none() {
    if !wanted() {
        return;
    }
    let command = permissions();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let server = RedisServer::start();
    assert_eq!(server.cli(&command).trim(), "OK");
    let cluster = RedisCluster::start();
    for node in &cluster.nodes {
        assert_eq!(node.cli(&command).trim(), "OK");
    }
    let urls = [server.url(), cluster.url()].map(|url| url.replace("://", "://tollgate:password@"));
    for url in urls {
        for mode in [LimitMode::Exact, LimitMode::Leased] {
            let redis = || Redis::new(&url).expect("a URL").limit_mode(mode);
            let (a, b) = (node(redis()).joined().await, node(redis()).joined().await);
            for n in 0..50 {
                a.get(&format!("/{n}")).await;
                b.get(&format!("/{n}")).await;
            }
            a.quiet().await;
            a.gate.invalidate().tag("all").await.expect("invalidated");
            a.gate.invalidate().matching("*/1*").await.expect("searched");
            let stats = (a.gate.stats().remote.expect("shared limits"), a.level());
            assert!(stats.0.up && stats.0.failures == 0 && stats.1.up, "{stats:?}");
        }
    }
    for server in cluster.nodes.iter().chain([&server]) {
        // What was refused follows `object`; the client names itself and its version, and ignores a refusal.
        let log = server.cli(&["ACL", "LOG", "100"]);
        let lines: Vec<&str> = log.lines().map(str::trim).collect();
        let refused = lines.windows(2).filter(|pair| pair[0] == "object").map(|pair| pair[1]);
        let refused: Vec<&str> = refused.filter(|command| !command.starts_with("client")).collect();
        assert_eq!(refused, [""; 0], "{log}");
    }
}
