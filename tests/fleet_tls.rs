//! A fleet whose Redis speaks TLS only, with a certificate of its own authority.

#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/gate.rs"]
mod gate;
#[path = "support/redis.rs"]
mod redis;

use std::path::Path;

use gate::Gate;
use redis::{RedisServer, certificates, wanted};
use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Limit, Quota};
use tollgate::store::redis::Redis;

fn node(server: &RedisServer, authority: &Path) -> Gate {
    let pem = std::fs::read(authority).expect("a certificate");
    let redis = Redis::new(&server.url()).expect("a URL").ca_certificate(pem);
    let rule = Rule::ttl(std::time::Duration::from_secs(60)).same_for_everyone();
    let rules = Rules::new().route("/{*rest}", rule);
    let limit = Limit::per_ip(Quota::per_hour(1_000_000));
    Gate::build(Tollgate::builder().routes(["/{*rest}"]).cache(rules).limit(limit).redis(redis))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_share_over_tls_and_come_back() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start_tls();
    let (a, b) = (node(&server, server.ca()).joined().await, node(&server, server.ca()).joined().await);
    a.get("/a").await;
    a.quiet().await;
    assert!(b.get("/a").await, "{:?}", b.level());
    a.smooth_load("tls", 1_000, 100).await;
    a.gate.invalidate().key("/a").await.expect("told over TLS");
    for _ in 0..1_000 {
        if !b.get("/a").await {
            server.kill();
            a.smooth_load("killed", 1_000, 100).await;
            server.restart();
            a.back().await;
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the other node did not hear");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_authority_is_no_server() {
    if !wanted() {
        return;
    }
    let server = RedisServer::start_tls();
    let folder = std::env::temp_dir().join(format!("tollgate-other-authority-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let other = certificates(&folder);
    let stranger = node(&server, &other);
    stranger.smooth_load("strange", 2_000, 200).await;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    stranger.smooth_load("strange", 2_000, 200).await;
    assert!(!stranger.level().up, "{:?}", stranger.level());
    assert_eq!(server.keys(), Vec::<String>::new(), "nothing was told to a stranger");
    std::fs::remove_dir_all(folder).expect("removed");
}
