//! The hyper example, over a real socket.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Limit, Quota};
use tower::Layer;

#[path = "../examples/hyper.rs"]
#[allow(dead_code, unreachable_pub, reason = "an example is a program of its own")]
mod example;

async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(example::serve(listener));
    format!("http://{address}")
}

async fn get(url: &str, http2: bool) -> (StatusCode, HeaderMap, Bytes) {
    // A client of its own: a connection of its own.
    let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http::<Empty<Bytes>>();
    let request = Request::get(url).body(Empty::new()).expect("a request");
    let (head, body) = client.request(request).await.expect("an answer").into_parts();
    (head.status, head.headers, body.collect().await.expect("a body").to_bytes())
}

#[tokio::test]
async fn twenty_pass_over_any_connection_and_protocol_and_the_next_is_refused() {
    let url = start().await;
    for n in 1..=20 {
        let (status, headers, body) = get(&format!("{url}/prices/{n}"), n % 2 == 0).await;
        assert_eq!(
            (status, body),
            (StatusCode::OK, format!("{n} costs {} cents\n", if n < 10 { 100 } else { 200 }).into())
        );
        assert_eq!(headers["x-ratelimit-limit"], "20");
        assert_eq!(headers["x-ratelimit-remaining"], (20 - n).to_string());
    }
    for http2 in [false, true] {
        let (status, headers, body) = get(&format!("{url}/prices/1"), http2).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(headers["x-ratelimit-remaining"], "0");
        assert_eq!(headers["content-type"], "application/problem+json");
        assert!(headers.contains_key("retry-after") && headers.contains_key("x-ratelimit-reset"));
        assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
    }
}

#[tokio::test]
async fn the_second_answer_comes_from_the_cache_and_makes_no_query() {
    let url = start().await;
    let (_, first, _) = get(&format!("{url}/prices/ACME"), false).await;
    let (_, second, body) = get(&format!("{url}/prices/ACME"), true).await;
    let timing = |headers: &HeaderMap| headers["server-timing"].to_str().expect("ASCII").to_owned();
    assert!(timing(&first).contains("db;dur=") && timing(&first).contains("desc=\"1 query\""), "{}", timing(&first));
    assert!(timing(&second).starts_with("total;dur=") && !timing(&second).contains("db"), "{}", timing(&second));
    assert_eq!((&second["age"], &body[..]), (&"0".parse().expect("a value"), &b"ACME costs 400 cents\n"[..]));
}

/// Over hyper no router has matched: declared routes are chosen as one would.
#[tokio::test]
async fn a_rule_for_a_pattern_does_not_govern_a_declared_static_route() {
    let rules = Rules::new().route("/users/{name}", Rule::ttl(Duration::from_secs(60)).same_for_everyone());
    let gate = Tollgate::builder().cache(rules).routes(["/users/{name}", "/users/me"]).build().expect("a gate");
    let service = gate.layer().layer(tower::service_fn(async |request: Request<Incoming>| {
        let user = request.headers().get("x-user").map_or("nobody", |user| user.to_str().expect("text")).to_owned();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(user)))
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(example::accept(listener, service));
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let ask = async |path: &str, user: &str| {
        let request =
            Request::get(format!("{url}{path}")).header("x-user", user).body(Empty::new()).expect("a request");
        client.request(request).await.expect("an answer").into_body().collect().await.expect("a body").to_bytes()
    };
    for user in ["alice", "bob"] {
        assert_eq!(ask("/users/me", user).await, user);
    }
    assert_eq!((ask("/users/dave", "alice").await, ask("/users/dave", "bob").await), ("alice".into(), "alice".into()));
}

/// Routes that are declared once serve timing, limits and cache.
#[tokio::test]
async fn every_layer_counts_under_the_same_declared_route() {
    let gate = Tollgate::builder()
        .routes(["/prices/{symbol}", "/prices/all", "/health"])
        .limit(Limit::per_ip(Quota::per_hour(4)).on("/prices/{symbol}"))
        .cache(Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(60)).same_for_everyone()))
        .build()
        .expect("a gate");
    let service = gate.layer().layer(tower::service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("a page")))
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(example::accept(listener, service));
    for path in ["/prices/A", "/prices/A", "/prices/B", "/prices/B", "/prices/C", "/prices/all", "/health", "/other"] {
        get(&format!("{url}{path}"), false).await;
    }
    let stats = gate.stats();
    let routes: Vec<&str> = stats.routes.keys().map(String::as_str).collect();
    assert_eq!(routes, ["/health", "/prices/all", "/prices/{symbol}", "unmatched"]);
    let prices = &stats.routes["/prices/{symbol}"];
    assert_eq!((prices.requests, prices.limited, prices.hits, prices.misses), (5, 1, 2, 2));
    assert_eq!(prices.latency.count, 5);
    let all = &stats.routes["/prices/all"];
    assert_eq!((all.requests, all.misses, all.bypassed["no-freshness"]), (1, 0, 1), "no rule covers it");
}
