//! Queries of a handler that the cache runs detached: they belong to the request that caused the call.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tollgate::cache::Rules;
use tollgate::timing::timed;
use tollgate::{Clock, ManualClock, Tollgate};
use tower::{Layer, Service, ServiceExt, service_fn};

const ROUTE: &str = "/prices/{symbol}";

fn gate(hand: &ManualClock) -> Tollgate {
    Tollgate::builder()
        .clock(Clock::Manual(hand.clone()))
        .cache(Rules::new())
        .timing_with(|timing| timing.routes([ROUTE]))
        .build()
        .expect("a gate")
}

async fn price(_: Request<Empty<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    timed("load price", tokio::time::sleep(Duration::from_millis(1))).await;
    let response = Response::builder().header("cache-control", "max-age=1, stale-while-revalidate=60");
    Ok(response.body(Full::from("42")).expect("a response"))
}

fn ask() -> Request<Empty<Bytes>> {
    Request::get("/prices/ACME").header("host", "a").body(Empty::new()).expect("a request")
}

/// Turns the runtime until the queries of the route are as many.
async fn queries(gate: &Tollgate, wanted: u64) -> u64 {
    let count = || gate.stats().timing.route(ROUTE).map_or(0, |route| route.queries);
    for _ in 0..2_000 {
        if count() >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    count()
}

#[tokio::test]
async fn a_miss_a_hit_and_a_background_revalidation() {
    let hand = ManualClock::new();
    let gate = gate(&hand);
    let service = gate.layer().layer(service_fn(price));
    for (advance, wanted) in [(0, 1), (0, 1), (2, 2)] {
        hand.advance(Duration::from_secs(advance));
        let response = service.clone().oneshot(ask()).await.expect("an answer");
        assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), "42");
        assert_eq!(queries(&gate, wanted).await, wanted);
    }
    let timing = gate.stats().timing;
    assert_eq!(timing.query("load price").map(|query| query.latency.count), Some(2));
}

#[tokio::test]
async fn a_fetch_whose_client_has_left_goes_on_and_counts() {
    let gate = gate(&ManualClock::new());
    let mut service = gate.layer().layer(service_fn(price));
    let mut answer = Box::pin(service.ready().await.expect("ready").call(ask()));
    let waker = std::task::Waker::noop();
    assert!(answer.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
    drop(answer);
    assert_eq!(queries(&gate, 1).await, 1);
    let timing = gate.stats().timing;
    assert_eq!(timing.route(ROUTE).map(|route| (route.cancelled, route.in_flight)), Some((1, 0)));
}

#[tokio::test]
async fn server_timing_says_what_cache_and_limit_did() {
    let hand = ManualClock::new();
    let gate = Tollgate::builder()
        .clock(Clock::Manual(hand.clone()))
        .limit(tollgate::limit::Limit::global(tollgate::limit::Quota::per_hour(4)))
        .cache(Rules::new())
        .timing_with(|timing| timing.routes([ROUTE]).server_timing(true))
        .build()
        .expect("a gate");
    let service = gate.layer().layer(service_fn(price));
    let mut said = Vec::new();
    for (advance, method, made) in [(0, "GET", 1), (0, "GET", 1), (2, "GET", 2), (0, "POST", 3), (0, "GET", 3)] {
        hand.advance(Duration::from_secs(advance));
        let mut request = ask();
        *request.method_mut() = method.parse().expect("a method");
        let response = service.clone().oneshot(request).await.expect("an answer");
        let line = response.headers()["server-timing"].to_str().expect("ASCII").to_owned();
        said.push(line.split_once(", cache;desc=").map_or(line.clone(), |(_, rest)| rest.to_owned()));
        drop(response.into_body().collect().await.expect("a body"));
        assert_eq!(queries(&gate, made).await, made);
    }
    assert_eq!(
        said,
        [
            "\"miss\", limit;desc=\"allowed\"",
            "\"hit\", limit;desc=\"allowed\"",
            "\"stale\", limit;desc=\"allowed\"",
            "\"pass\", limit;desc=\"allowed\"",
            "total;dur=0, limit;desc=\"refused\"",
        ]
    );
}
