//! The timing layer through its public face, under a clock that the tests turn.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tollgate::timing::{TimingBuilder, TimingLayer, timed};
use tollgate::{Clock, Event, ManualClock, UNMATCHED};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Answer = Result<Response<Empty<Bytes>>, Infallible>;

fn answer(status: u16) -> Response<Empty<Bytes>> {
    Response::builder().status(status).body(Empty::new()).expect("a response")
}

fn ask(path: &str) -> Request<()> {
    Request::get(path).body(()).expect("a request")
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A layer under a clock, and a service that takes as many milliseconds as its path says: `/slow/300`.
struct World {
    hand: ManualClock,
    timing: TimingLayer,
}

impl World {
    fn new(set_up: impl FnOnce(TimingBuilder) -> TimingBuilder) -> Self {
        let hand = ManualClock::new();
        let builder = TimingLayer::builder().clock(Clock::Manual(hand.clone()));
        Self { timing: set_up(builder).build().expect("a layer"), hand }
    }

    async fn takes(&self, path: &str, millis: u64) -> Response<tollgate::Body<Empty<Bytes>>> {
        self.answers(path, millis, 200).await
    }

    async fn answers(&self, path: &str, millis: u64, status: u16) -> Response<tollgate::Body<Empty<Bytes>>> {
        let hand = self.hand.clone();
        let inner = service_fn(move |_: Request<()>| {
            let hand = hand.clone();
            async move {
                hand.advance(ms(millis));
                Answer::Ok(answer(status))
            }
        });
        self.timing.layer(inner).oneshot(ask(path)).await.expect("an answer")
    }
}

fn near(measured: Duration, exact: Duration) -> bool {
    measured.abs_diff(exact) <= exact / 64
}

#[tokio::test]
async fn percentiles_by_route() {
    let world = World::new(|b| b.routes(["/a/{x}", "/b"]));
    for n in 1..=100 {
        world.takes(&format!("/a/{n}"), n).await;
    }
    world.takes("/b", 7).await;

    let stats = world.timing.stats();
    assert_eq!((stats.requests, stats.in_flight, stats.latency.count), (101, 0, 101));
    let route = stats.route("/a/{x}").expect("the route").clone();
    assert_eq!((route.requests, route.errors, route.cancelled), (100, 0, 0));
    let latency = route.latency;
    for (measured, exact) in [(latency.p50, 50), (latency.p90, 90), (latency.p95, 95), (latency.p99, 99)] {
        assert!(near(measured, ms(exact)), "{measured:?} for {exact} ms");
    }
    assert_eq!((latency.max, latency.mean, latency.total), (ms(100), Duration::from_micros(50_500), ms(5_050)));
    assert_eq!(stats.route("/b").expect("the route").latency.max, ms(7));
}

#[tokio::test]
async fn routes_beyond_the_bound_share_a_name_and_so_do_unmatched_paths() {
    let world = World::new(|b| b.routes(["/a", "/b", "/c", "/d"]).max_routes(2));
    for path in ["/nowhere", "//a", "/a", "/b", "/c", "/d", "/a", "/A"] {
        world.takes(path, 1).await;
    }
    let stats = world.timing.stats();
    let counts: Vec<(&str, u64)> = stats.routes.iter().map(|r| (&*r.route, r.requests)).collect();
    assert_eq!(counts, [("/a", 2), ("/b", 1), (UNMATCHED, 3), ("other", 2)]);
}

#[tokio::test]
async fn axum_names_the_routes_also_those_of_a_nested_router() {
    let timing = TimingLayer::new();
    let nested = Router::new().route("/{symbol}", get(|| async { "42" }));
    let mut app = Router::new().nest("/prices", nested).route("/me", get(|| async { "you" })).layer(timing.clone());
    for path in ["/prices/ACME", "/prices/OTHER", "/me", "/nowhere"] {
        let request = Request::get(path).body(axum::body::Body::empty()).expect("a request");
        app.as_service().oneshot(request).await.expect("an answer");
    }
    let stats = timing.stats();
    let counts: Vec<(&str, u64)> = stats.routes.iter().map(|r| (&*r.route, r.requests)).collect();
    assert_eq!(counts, [("/me", 1), ("/prices/{symbol}", 2), (UNMATCHED, 1)]);
}

#[tokio::test]
async fn server_errors_and_failures_count_as_errors() {
    let world = World::new(|b| b);
    for status in [200, 404, 500, 503] {
        world.answers("/", 1, status).await;
    }
    let failing = world.timing.layer(service_fn(|_: Request<()>| async {
        Err::<Response<Empty<Bytes>>, _>(std::io::Error::other("the inner service's own"))
    }));
    let error: std::io::Error = failing.oneshot(ask("/")).await.map(drop).expect_err("the inner error, untouched");
    assert_eq!(error.to_string(), "the inner service's own");

    let stats = world.timing.stats();
    let route = stats.route(UNMATCHED).expect("the route");
    assert_eq!((route.requests, route.errors, route.latency.count, route.in_flight), (5, 3, 5, 0));
}

#[tokio::test]
async fn a_dropped_request_is_cancelled_and_leaves_the_gauge_at_zero() {
    let world = World::new(|b| b.slow_after(ms(100)));
    let mut service = world.timing.layer(service_fn(|_: Request<()>| async {
        timed("for ever", pending::<()>()).await;
        Answer::Ok(answer(200))
    }));
    let mut response = Box::pin(service.call(ask("/")));
    assert!(response.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(world.timing.stats().in_flight, 1);
    world.hand.advance(ms(300));
    drop(response);

    let stats = world.timing.stats();
    let route = stats.route(UNMATCHED).expect("the route");
    assert_eq!((stats.in_flight, route.requests, route.cancelled, route.latency.count), (0, 1, 1, 0));
    let query = stats.query("for ever").expect("the query");
    assert_eq!((query.cancelled, query.latency.max), (1, ms(300)));
    // What the client gave up waiting for is what one wants to know: the query stands in the list.
    let slow = &stats.slow_recent[0];
    assert!(slow.cancelled && slow.status.is_none());
    assert_eq!((&*slow.queries[0].name, slow.queries[0].total), ("for ever", ms(300)));
}

#[tokio::test]
async fn a_panic_leaves_the_gauge_at_zero() {
    let timing = TimingLayer::new();
    let late = timing.layer(service_fn(|_: Request<()>| async {
        if true {
            panic!("a handler's bug");
        }
        Answer::Ok(answer(200))
    }));
    assert!(tokio::spawn(late.oneshot(ask("/"))).await.is_err());
    let early = timing.layer(service_fn(|_: Request<()>| -> std::future::Ready<Answer> { panic!("a service's bug") }));
    assert!(tokio::spawn(async { early.oneshot(ask("/")).await }).await.is_err());
    let stats = timing.stats();
    assert_eq!((stats.requests, stats.in_flight, stats.routes[0].cancelled), (2, 0, 2));
}

#[tokio::test]
async fn slow_requests_are_listed_and_reported() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    let world = World::new(|b| {
        b.routes(["/report"]).slow_after(ms(100)).hook(move |event: &Event<'_>| {
            if let Event::SlowRequest { route, took, .. } = event {
                sink.lock().expect("not poisoned").push((route.to_string(), *took));
            }
        })
    });
    for millis in [99, 100, 400, 250] {
        world.takes("/report", millis).await;
    }
    world.hand.advance(Duration::from_secs(60));
    world.takes("/report", 150).await;
    let stats = world.timing.stats();
    let millis = |list: &[tollgate::timing::SlowRequest]| list.iter().map(|r| r.took.as_millis()).collect::<Vec<_>>();
    assert_eq!(millis(&stats.slow_recent), [150, 250, 400, 100]);
    assert_eq!(millis(&stats.slowest), [400, 250, 150, 100]);
    assert_eq!(stats.route("/report").expect("the route").slow, 4);
    let reported: Vec<_> = seen.lock().expect("not poisoned").iter().map(|(_, took)| took.as_millis()).collect();
    assert_eq!(reported, [100, 150], "once a minute");
}

/// A handler that makes three queries, two of them side by side.
async fn report(hand: ManualClock) -> Answer {
    timed("user", async { hand.advance(ms(2)) }).await;
    let order = |span| {
        let hand = hand.clone();
        timed("orders", async move { hand.advance(span) })
    };
    tokio::join!(order(ms(3)), order(ms(4)));
    Ok(answer(200))
}

#[tokio::test]
async fn queries_are_joined_to_their_request() {
    let world = World::new(|b| b.routes(["/report"]).slow_after(ms(1)));
    let hand = world.hand.clone();
    let service = world.timing.layer(service_fn(move |_: Request<()>| report(hand.clone())));
    service.oneshot(ask("/report")).await.expect("an answer");

    let stats = world.timing.stats();
    let route = stats.route("/report").expect("the route");
    assert_eq!((route.queries, route.query_time), (3, ms(9)));
    let orders = stats.query("orders").expect("the query");
    assert_eq!((orders.latency.count, orders.latency.total, orders.latency.max), (2, ms(7), ms(4)));
    let shares: Vec<_> = stats.slow_recent[0].queries.iter().map(|q| (&*q.name, q.count, q.total)).collect();
    assert_eq!(shares, [("orders", 2, ms(7)), ("user", 1, ms(2))]);
}

#[tokio::test]
async fn concurrent_requests_do_not_mix() {
    let world = World::new(|b| b.routes(["/one", "/many"]));
    let service = world.timing.layer(service_fn(|request: Request<()>| async move {
        let queries = if request.uri().path() == "/one" { 1 } else { 5 };
        for _ in 0..queries {
            timed("row", tokio::task::yield_now()).await;
        }
        Answer::Ok(answer(200))
    }));
    let asked = (0..40).map(|n| service.clone().oneshot(ask(if n % 2 == 0 { "/one" } else { "/many" })));
    futures_util::future::join_all(asked).await;
    let stats = world.timing.stats();
    assert_eq!(stats.route("/one").expect("the route").queries, 20);
    assert_eq!(stats.route("/many").expect("the route").queries, 100);
}

#[tokio::test]
async fn a_query_spawned_by_its_request_stays_with_it() {
    let timing = TimingLayer::new();
    let service = timing.layer(service_fn(|_: Request<()>| async {
        tokio::spawn(timed("spawned", async {})).await.expect("the task ended");
        Answer::Ok(answer(200))
    }));
    service.oneshot(ask("/")).await.expect("an answer");
    assert_eq!(timing.stats().routes[0].queries, 1);
}

#[tokio::test]
async fn a_query_outside_every_request_is_counted_as_that() {
    let timing = TimingLayer::new();
    let before = timing.stats().unattributed.count;
    assert_eq!(timed("alone", async { 42 }).await, 42);
    drop(timed("never polled", async {}));
    assert_eq!(timing.stats().unattributed.count, before + 1);
    assert!(timing.stats().queries.is_empty());
}

#[tokio::test]
async fn server_timing_is_added_to_what_the_service_says() {
    let world = World::new(|b| b.server_timing(true));
    let hand = world.hand.clone();
    let service = world.timing.layer(service_fn(move |_: Request<()>| {
        let hand = hand.clone();
        async move {
            let mut response = report(hand).await?;
            response.headers_mut().append("server-timing", "render;dur=5".parse().expect("a value"));
            Answer::Ok(response)
        }
    }));
    let response = service.oneshot(ask("/report")).await.expect("an answer");
    let lines: Vec<&str> =
        response.headers().get_all("server-timing").iter().map(|v| v.to_str().expect("ASCII")).collect();
    assert_eq!(lines, ["render;dur=5", "total;dur=9, db;dur=9;desc=\"3 queries\""]);
}

#[tokio::test]
async fn server_timing_is_opt_in() {
    let world = World::new(|b| b);
    assert!(!world.takes("/", 1).await.headers().contains_key("server-timing"));
}

#[tokio::test]
async fn a_layer_that_is_not_enabled_measures_nothing_and_hides_no_outer_one() {
    let off = TimingLayer::builder().enabled(false).server_timing(true).build().expect("a layer");
    let outer = TimingLayer::new();
    let inner = service_fn(|_: Request<()>| async {
        timed("row", async {}).await;
        Answer::Ok(answer(200))
    });
    let response = ServiceBuilder::new().layer(&outer).layer(&off).service(inner).oneshot(ask("/")).await;
    assert!(!response.expect("an answer").headers().contains_key("server-timing"));
    assert_eq!(off.stats().requests, 0);
    assert_eq!(outer.stats().routes[0].queries, 1);
}

#[tokio::test]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    /// Panics when called without having been ready, as a `BodyBuffer` or a `ConcurrencyLimit` does.
    struct Strict(bool);
    impl Clone for Strict {
        fn clone(&self) -> Self {
            Self(false)
        }
    }
    impl Service<Request<()>> for Strict {
        type Response = Response<Empty<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Answer>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0 = true;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _request: Request<()>) -> Self::Future {
            assert!(std::mem::replace(&mut self.0, false), "called without being ready");
            std::future::ready(Ok(answer(200)))
        }
    }
    let mut service = TimingLayer::new().layer(Strict(false));
    for _ in 0..3 {
        poll_fn(|cx| service.poll_ready(cx)).await.expect("ready");
        assert_eq!(service.call(ask("/")).await.expect("an answer").status(), StatusCode::OK);
        service = service.clone();
    }
}

#[tokio::test]
async fn clones_and_routes_count_into_one_state() {
    let timing = TimingLayer::new();
    for _ in 0..1_000 {
        let service = timing.clone().layer(service_fn(|_: Request<()>| async { Answer::Ok(answer(200)) }));
        service.oneshot(ask("/")).await.expect("an answer");
    }
    assert_eq!(timing.stats().requests, 1_000);
}

#[test]
fn a_layer_that_cannot_work_is_refused_when_it_is_built() {
    for (builder, named) in [
        (TimingLayer::builder().max_routes(0), "max_routes is 0"),
        (TimingLayer::builder().max_routes(1 << 20), "1048576"),
        (TimingLayer::builder().routes(["/a/{x}", "/a/{y}"]), "/a/{y}"),
        (TimingLayer::builder().routes(["prices"]), "prices"),
    ] {
        let error = builder.build().expect_err("refused");
        assert!(error.is_config() && error.to_string().contains(named), "{error}");
    }
}

#[tokio::test]
async fn stats_are_json_in_milliseconds() {
    let world = World::new(|b| b.slow_after(ms(2)));
    world.takes("/", 2).await;
    let json = serde_json::to_value(world.timing.stats()).expect("JSON");
    assert_eq!(json["routes"][0]["latency"]["max_ms"], 2.0);
    assert_eq!(json["slow_recent"][0]["at_unix_ms"], 1_767_225_600_002_u64);
    assert_eq!(json["slow_recent"][0]["status"], 200);
}

fn assert_thread_safe<T: Send + Sync + Clone + std::fmt::Debug>(_: &T) {}

#[test]
fn layer_and_service_are_clone_debug_send_and_sync() {
    let timing = TimingLayer::new();
    assert_thread_safe(&timing);
    assert_thread_safe(&timing.layer(()));
    assert_thread_safe(&timing.stats());
}
