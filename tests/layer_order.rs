//! Where layers of tower-http go: each line of the guide's table, in either order.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may fail, and so may a handler; it measures"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::{get, post};
use http::{HeaderName, Request, StatusCode};
use http_body_util::BodyExt;
use support::{field, text};
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{ConcurrencyLimit, Count, Limit};
use tollgate::testing::FakePeer;
use tollgate::{Clock, ManualClock, Tollgate, TollgateBuilder};
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{Any, CorsLayer};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::timeout::TimeoutLayer;

fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "example.com")
}

async fn send(app: &Router, request: http::request::Builder) -> Response {
    send_body(app, request, Body::empty()).await
}

async fn send_body(app: &Router, request: http::request::Builder, body: Body) -> Response {
    let request = FakePeer::at("192.0.2.1").mark(request.body(body).expect("a request"));
    app.clone().oneshot(request).await.expect("infallible").map(Body::new)
}

fn gate(configure: impl FnOnce(TollgateBuilder) -> TollgateBuilder) -> Tollgate {
    configure(Tollgate::builder().clock(Clock::Manual(ManualClock::new()))).build().expect("a gate")
}

fn one() -> Tollgate {
    gate(|gate| gate.limit(Limit::per_ip("1/min")))
}

const HELLO: &str = "hello, hello, hello, hello, hello, hello, hello, hello, hello, hello, hello, hello";

fn hello() -> Router {
    Router::new().route("/", get(async || HELLO))
}

#[tokio::test]
async fn a_request_id_outside_is_on_refusals_and_inside_it_is_not() {
    for outside in [true, false] {
        let id = |app: Router| {
            app.layer(PropagateRequestIdLayer::x_request_id()).layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        };
        let gate = one();
        let app = if outside { id(hello().layer(gate.layer())) } else { id(hello()).layer(gate.layer()) };
        assert!(!field(&send(&app, request("GET", "/")).await, "x-request-id").is_empty());
        let refused = send(&app, request("GET", "/")).await;
        assert_eq!((refused.status().as_u16(), field(&refused, "x-request-id").is_empty()), (429, !outside));
    }
}

#[tokio::test]
async fn a_panic_is_a_response_frees_its_place_and_is_counted_as_a_failure() {
    for outside in [true, false] {
        let handler = async || -> &'static str { panic!("as the test asks") };
        let routes = Router::new().route("/", get(handler));
        let limits = |gate: TollgateBuilder| {
            let failures = Limit::per_ip("2/min").count(Count::failures());
            gate.limit(ConcurrencyLimit::per_ip(1)).limit(failures)
        };
        let (gate, catch) = (gate(limits), CatchPanicLayer::new());
        let app =
            if outside { routes.layer(gate.layer()).layer(catch) } else { routes.layer(catch).layer(gate.layer()) };
        for status in [500, 500, 429] {
            let response = send(&app, request("GET", "/")).await;
            assert_eq!(response.status(), status);
            // The limits see the response only if they are outside.
            assert_eq!(field(&response, "x-ratelimit-limit").is_empty(), outside && status == 500);
            drop(response.into_body().collect().await);
            assert_eq!(gate.stats().concurrency[0].in_progress, 0);
        }
    }
}

#[tokio::test]
async fn cors_outside_answers_preflights_and_shows_refusals_and_inside_preflights_can_be_exempt() {
    for (outside, exempt) in [(true, false), (false, true), (false, false)] {
        let cors = CorsLayer::new().allow_origin(Any).expose_headers([HeaderName::from_static("retry-after")]);
        let gate = gate(|gate| {
            let gate = gate.limit(Limit::per_ip("1/min"));
            if exempt { gate.limits_with(|limits| limits.exempt_preflight()) } else { gate }
        });
        let app =
            if outside { hello().layer(gate.layer()).layer(cors) } else { hello().layer(cors).layer(gate.layer()) };
        let mut preflights = Vec::new();
        for _ in 0..3 {
            let preflight = request("OPTIONS", "/").header("origin", "https://a.example");
            let preflight = preflight.header("access-control-request-method", "GET");
            preflights.push(send(&app, preflight).await.status().as_u16());
        }
        let counted = !outside && !exempt;
        assert_eq!(preflights, if counted { [200, 429, 429] } else { [200; 3] });
        let from_page = || request("GET", "/").header("origin", "https://a.example");
        assert_eq!(send(&app, from_page()).await.status(), if counted { 429 } else { 200 });
        let refused = send(&app, from_page()).await;
        assert_eq!(refused.status(), 429);
        let shown = if outside { ("*", "retry-after") } else { ("", "") };
        assert_eq!(
            (field(&refused, "access-control-allow-origin"), field(&refused, "access-control-expose-headers")),
            shown
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_out_outside_bounds_all_and_the_fetch_behind_it_is_stored() {
    let calls = Arc::new(AtomicUsize::new(0));
    let (counted, rules) = (calls.clone(), Rules::new().route("/", Rule::ttl(Duration::from_secs(60))));
    let handler = async move || {
        counted.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(2)).await;
        "slow"
    };
    let gate = gate(|gate| gate.cache(rules));
    let late = || TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(1));
    let app = Router::new().route("/", get(handler)).layer(gate.layer()).layer(late());
    assert_eq!(send(&app, request("GET", "/")).await.status(), 504);
    tokio::time::advance(Duration::from_secs(2)).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(text(send(&app, request("GET", "/")).await).await, "slow");
    assert_eq!(calls.load(Ordering::SeqCst), 1, "the first fetch went on, and was stored");
}

#[tokio::test(start_paused = true)]
async fn a_time_out_outside_bounds_the_queue_and_inside_it_does_not() {
    for (outside, expected) in [(true, 1), (false, 3)] {
        let places = ConcurrencyLimit::per_ip(1).queue(1, Duration::from_secs(3));
        let (gate, late) = (
            gate(|gate| gate.limit(places)),
            TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(1)),
        );
        let app =
            if outside { hello().layer(gate.layer()).layer(late) } else { hello().layer(late).layer(gate.layer()) };
        let _held = send(&app, request("GET", "/")).await;
        let before = tokio::time::Instant::now();
        let refused = send(&app, request("GET", "/")).await.status().as_u16();
        assert_eq!((refused, before.elapsed().as_secs()), (if outside { 504 } else { 429 }, expected));
        assert_eq!(gate.stats().concurrency[0].queued, 0, "it has left the queue");
    }
}

#[tokio::test]
async fn compression_inside_is_stored_by_accept_encoding_and_outside_it_works_too() {
    for outside in [true, false] {
        let rules = Rules::new().route("/", Rule::ttl(Duration::from_secs(60)));
        let (gate, gzip) = (gate(|gate| gate.cache(rules)), CompressionLayer::new().gzip(true));
        let app =
            if outside { hello().layer(gate.layer()).layer(gzip) } else { hello().layer(gzip).layer(gate.layer()) };
        for age in [false, true] {
            for encoding in ["gzip", ""] {
                let response = send(&app, request("GET", "/").header("accept-encoding", encoding)).await;
                assert_eq!(field(&response, "content-encoding"), encoding, "outside: {outside}");
                // Stored once outside of compression, and once by encoding inside of it.
                assert_eq!(response.headers().contains_key("age"), age || outside && encoding.is_empty());
                let bytes = response.into_body().collect().await.expect("a body").to_bytes();
                assert_eq!(bytes == HELLO, encoding.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_counted_where_the_body_limit_is_inside() {
    for outside in [true, false] {
        let routes = Router::new().route("/", post(async |body: String| body));
        let (gate, small) = (one(), RequestBodyLimitLayer::new(8));
        let app =
            if outside { routes.layer(gate.layer()).layer(small) } else { routes.layer(small).layer(gate.layer()) };
        let large =
            || send_body(&app, request("POST", "/").header("content-length", "100"), Body::from("x".repeat(100)));
        assert_eq!(large().await.status(), 413);
        assert_eq!(large().await.status(), if outside { 413 } else { 429 });
        assert_eq!(gate.stats().limits[0].admitted, u64::from(!outside));
    }
}
