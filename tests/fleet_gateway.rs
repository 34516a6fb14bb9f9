//! Two gateways with `--redis`: one asks the origin, both answer, and both are one limit.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tollgate::Tollgate;

#[path = "../examples/gateway.rs"]
#[allow(dead_code, reason = "an example is a program of its own")]
mod example;
#[path = "support/redis.rs"]
mod redis;

use example::flags::Flags;
use redis::{RedisServer, wanted};

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

async fn gateway(upstream: SocketAddr, redis: &str) -> (SocketAddr, Tollgate) {
    let (listener, address) = listener().await;
    let line = format!("--upstream http://{upstream} --limit-per-ip 50/h --redis {redis}");
    let flags = Flags::parse(line.split_whitespace().map(str::to_owned)).expect("correct flags").expect("no help");
    let gate = example::gate(&flags).expect("a gate");
    let serving = gate.clone();
    tokio::spawn(async move { example::run(listener, &flags, &serving, std::future::pending()).await });
    (address, gate)
}

async fn ask(gateway: SocketAddr, path: &str) -> (u16, String) {
    let request = Request::get(format!("http://{gateway}{path}")).header("host", "site.example");
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let answer = Client::builder(TokioExecutor::new()).build_http().request(request).await.expect("an answer");
    let status = answer.status().as_u16();
    (status, String::from_utf8_lossy(&answer.into_body().collect().await.expect("a body").to_bytes()).into_owned())
}

async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: not within 10 s");
}

#[tokio::test]
async fn gateways_share_answers_and_a_limit() {
    if !wanted() {
        return;
    }
    let redis = RedisServer::start();
    let calls = Arc::new(AtomicUsize::new(0));
    let origin = {
        let calls = calls.clone();
        get(async move || ([("cache-control", "max-age=60")], calls.fetch_add(1, Ordering::SeqCst).to_string()))
    };
    let (listener, upstream) = listener().await;
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/{*rest}", origin)).await });
    let (one, first) = gateway(upstream, &redis.url()).await;
    let (other, second) = gateway(upstream, &redis.url()).await;
    for gate in [&first, &second] {
        until("joined", || gate.stats().cache.iter().all(|level| level.up)).await;
    }
    assert_eq!(ask(one, "/a").await, (200, "0".to_owned()));
    until("it is in Redis", || first.stats().fetches_in_flight == 0).await;
    assert_eq!(ask(other, "/a").await, (200, "0".to_owned()));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let mut admitted = 0;
    for number in 0..60 {
        let gateway = if number % 2 == 0 { one } else { other };
        admitted += usize::from(ask(gateway, "/a").await.0 == 200);
    }
    // A decision that this machine was too busy for is made by each alone.
    let alone = [&first, &second].iter().any(|gate| gate.stats().remote.is_some_and(|remote| remote.failures > 0));
    assert!(admitted == 48 || alone, "{admitted} after two");
    redis.kill();
    for number in 0..100 {
        let status = ask(other, &format!("/{number}")).await.0;
        assert!(matches!(status, 200 | 429), "{status}");
    }
}
