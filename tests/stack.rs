//! All layers together: `Tollgate`, either order by hand, under every kind of service.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::http::StatusCode;
use axum::routing::{get, post};
use http::{Request, Response};
use http_body_util::BodyExt;
use support::field;
use tollgate::cache::{CacheLayer, Rule, Rules};
use tollgate::identity::{KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Limit, Quota, RateLimitLayer, Reservation, Tiers};
use tollgate::testing::FakePeer;
use tollgate::timing::{TimingLayer, timed};
use tollgate::{Body, Clock, Event, ManualClock, Tollgate};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

fn ask(path: &str, ip: &str) -> Request<AxumBody> {
    let request = Request::get(path).header("host", "example.com").body(AxumBody::empty()).expect("a request");
    FakePeer::at(ip).mark(request)
}

async fn send<S, B>(service: &S, request: Request<AxumBody>) -> Response<B>
where
    S: Service<Request<AxumBody>, Response = Response<B>, Error = Infallible> + Clone,
{
    service.clone().oneshot(request).await.expect("infallible")
}

#[tokio::test]
async fn in_either_order_nobody_sees_anothers_limits() {
    let limit = || RateLimitLayer::per_ip(Quota::per_minute(10));
    let cache = || CacheLayer::in_memory(1 << 20);
    let routes = || Router::new().route("/", get(|| async { ([("cache-control", "max-age=60")], "x") }));
    let limit_outside = routes().layer(cache()).layer(limit());
    let cache_outside = routes().layer(limit()).layer(cache());
    for (app, outside) in [(limit_outside, true), (cache_outside, false)] {
        let first = send(&app, ask("/", "192.0.2.1")).await;
        assert_eq!(field(&first, "x-ratelimit-remaining"), "9");
        let second = send(&app, ask("/", "192.0.2.2")).await;
        assert!(second.headers().contains_key("age"), "a hit");
        // Limit outside: the second client's own. Cache outside: a hit met no limit, and has none to show.
        assert_eq!(field(&second, "x-ratelimit-remaining"), if outside { "9" } else { "" });
    }
}

#[tokio::test]
async fn prometheus_reads_what_limits_decided() {
    let gate = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(2)).named("ip")).build().expect("a gate");
    let app = Router::new().route("/", get(|| async { "x" })).layer(gate.layer());
    for _ in 0..3 {
        send(&app, ask("/", "192.0.2.1")).await;
    }
    let page = gate.prometheus();
    for line in [
        "tollgate_limit_decisions_total{outcome=\"admitted\"} 2",
        "tollgate_limit_decisions_total{outcome=\"refused\"} 1",
        "tollgate_limit_requests_total{limit=\"ip\",outcome=\"admitted\"} 2",
        "tollgate_limit_requests_total{limit=\"ip\",outcome=\"refused\"} 1",
        "tollgate_limit_requests_total{limit=\"ip\",outcome=\"shadowed\"} 0",
        "tollgate_limit_route_refusals_total{http_route=\"/\"} 1",
        "tollgate_limit_degraded_total 0",
    ] {
        assert!(page.contains(line), "{page}");
    }
    assert!(!page.contains("tollgate_limit_store"), "there is none");
}

#[tokio::test]
async fn a_cache_hit_costs_what_the_limit_says() {
    for (hit_cost, admitted) in [(None, 10), (Some(0), 30), (Some(1), 10)] {
        let limit = Limit::per_ip(Quota::per_minute(20)).cost(2);
        let limit = hit_cost.map_or(limit.clone(), |units| limit.hit_cost(units));
        let rules = Rules::new().route("/", Rule::ttl(Duration::from_secs(60)));
        let gate = Tollgate::builder().limit(limit).cache(rules).clock(Clock::Manual(ManualClock::new()));
        let gate = gate.build().expect("a gate");
        let app = Router::new().route("/", get(|| async { "x" })).layer(gate.layer());
        let mut passed = 0;
        for _ in 0..30 {
            passed += usize::from(send(&app, ask("/", "192.0.2.1")).await.status() == StatusCode::OK);
        }
        // At a unit each, the last hit still has to fit at its full cost when it comes.
        let expected = if hit_cost == Some(1) { 18 } else { admitted };
        assert_eq!(passed, expected, "{hit_cost:?}");
    }
    let error = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(20)).hit_cost(2)).build();
    assert!(error.expect_err("a hit costs more than a request").to_string().contains("costs more"));
}

/// A stale hit refunds; the refresh behind it runs the handler, which settles the same charge.
#[tokio::test]
async fn a_charge_is_settled_once_by_the_hit_or_by_the_handler() {
    let hand = ManualClock::new();
    let rule = Rule::ttl(Duration::from_secs(1)).stale_while_revalidate(Duration::from_secs(3_600));
    let limit = Limit::per_ip(Quota::per_hour(100)).cost(10).reserve().hit_cost(0);
    let gate = Tollgate::builder().limit(limit).cache(Rules::new().route("/", rule)).clock(Clock::Manual(hand.clone()));
    let gate = gate.build().expect("a gate");
    let handler = |request: Request<AxumBody>| async move {
        if let Some(reservation) = request.extensions().get::<Reservation>() {
            reservation.clone().release();
        }
        "x"
    };
    let app = Router::new().route("/", get(handler)).layer(gate.layer());
    for n in 0..40 {
        hand.advance(Duration::from_secs(2));
        let response = send(&app, ask("/", "192.0.2.1")).await;
        assert_eq!(response.status(), StatusCode::OK, "{n}");
        let _ = response.into_body().collect().await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let remaining: u64 =
            field(&send(&app, ask("/", "192.0.2.1")).await, "x-ratelimit-remaining").parse().expect("a number");
        assert_eq!(remaining, 9, "100 less this request's 10, in tenths");
    }
}

fn gate(hand: &ManualClock, events: &Arc<Mutex<Vec<String>>>) -> Tollgate {
    let sink = events.clone();
    Tollgate::builder()
        .identify(by::header("x-user").or(by::client_ip(TrustedProxies::none())))
        .limit(Tiers::new(Quota::per_minute(30)))
        .cache(
            Rules::new()
                .route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15)).tag("prices"))
                .route("/typo/{x}", Rule::ttl(Duration::from_secs(1))),
        )
        .cost_per_call(0.5)
        .slow_after(Duration::from_secs(1))
        .clock(Clock::Manual(hand.clone()))
        .hook(move |event| {
            let name = match event {
                Event::Refused { .. } => "refused",
                Event::SlowRequest { .. } => "slow",
                Event::NearLimit { .. } => "near",
                Event::SlowQuery { .. } => "query",
                _ => "other",
            };
            sink.lock().expect("not poisoned").push(name.to_owned());
        })
        .build()
        .expect("a gate")
}

#[tokio::test]
async fn stats_tell_what_happened_by_route() {
    let (hand, events) = (ManualClock::new(), Arc::new(Mutex::new(Vec::new())));
    let gate = gate(&hand, &events);
    let turned = hand.clone();
    let price = move || {
        let hand = turned.clone();
        async move {
            timed("quote", async { hand.advance(Duration::from_secs(2)) }).await;
            "42"
        }
    };
    let app = Router::new()
        .route("/prices/{symbol}", get(price))
        .route("/me", get(|| async { "me" }))
        .route("/orders", post(|| async { StatusCode::CREATED }))
        .layer(gate.layer());

    for _ in 0..10 {
        assert_eq!(send(&app, ask("/prices/ACME", "192.0.2.1")).await.status(), 200);
    }
    assert_eq!(send(&app, ask("/prices/BOLT", "192.0.2.1")).await.status(), 200);
    for _ in 0..25 {
        send(&app, ask("/me", "192.0.2.1")).await;
    }
    let stats = gate.stats();
    let prices = &stats.routes["/prices/{symbol}"];
    assert_eq!((prices.requests, prices.misses, prices.hits, prices.limited), (11, 2, 9, 0));
    let me = &stats.routes["/me"];
    assert_eq!((me.requests, me.limited), (25, 6), "30 in all, 11 of them for prices");
    assert_eq!(me.bypassed["no-freshness"], 19, "nothing says how long it is fresh: {:?}", me.bypassed);
    assert_eq!((stats.inner_calls, stats.inner_calls_avoided), (21, 9));
    assert_eq!(stats.time_saved, Duration::from_secs(18));
    assert_eq!(stats.money_saved, Some(4.5));
    assert_eq!((stats.keys.keys, stats.keys.capacity), (1, 100_000));
    assert_eq!((stats.cache[0].entries, stats.cache[0].hits), (2, 9));
    assert_eq!(stats.unmatched_rules, ["/typo/{x}"]);
    assert!(prices.latency.max >= Duration::from_secs(2) && prices.latency.p50 < Duration::from_secs(1));
    assert_eq!(stats.timing.query("quote").expect("timed in a detached fetch").latency.count, 2);
    assert_eq!(stats.limits[0].refused, 6);
    let seen: HashSet<String> = events.lock().expect("not poisoned").iter().cloned().collect();
    assert_eq!(seen, ["near", "query", "refused", "slow"].map(str::to_owned).into(), "one hook hears every layer");

    gate.invalidate().tag("prices").await.expect("in process");
    send(&app, ask("/prices/ACME", "192.0.2.9")).await;
    assert_eq!(gate.stats().routes["/prices/{symbol}"].misses, 3);
    let json = serde_json::to_value(gate.stats()).expect("JSON");
    assert_eq!(json["routes"]["/prices/{symbol}"]["hits_total"], 9);
}

#[tokio::test]
async fn two_routes_and_a_thousand_connections_share_one_limit() {
    let layer = RateLimitLayer::per_ip(Quota::per_minute(50));
    // axum calls `Layer::layer` once per route, and clones the service for each connection.
    let app = Router::new().route("/a", get(|| async {})).route("/b", get(|| async {})).layer(layer.clone());
    let other = Router::new().route("/c", get(|| async {})).route_layer(layer);
    let admitted = AtomicUsize::new(0);
    for n in 0..1_000 {
        let (connection, path) = match n % 3 {
            0 => (app.clone(), "/a"),
            1 => (app.clone(), "/b"),
            _ => (other.clone(), "/c"),
        };
        let status = send(&connection, ask(path, "192.0.2.1")).await.status();
        admitted.fetch_add(usize::from(status == 200), Ordering::Relaxed);
    }
    assert_eq!(admitted.into_inner(), 50);
}

#[tokio::test]
async fn the_body_is_wrapped_once_and_the_error_is_the_inner_services() {
    #[derive(Debug, PartialEq)]
    struct Mine;
    let inner = tower::service_fn(|request: Request<AxumBody>| async move {
        if request.uri().path() == "/fail" { Err(Mine) } else { Ok(Response::new(AxumBody::from("x"))) }
    });
    let gate = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(5))).build().expect("a gate");
    let service = gate.layer().layer(inner);
    let response: Response<Body<AxumBody>> = service.clone().oneshot(ask("/", "192.0.2.1")).await.expect("no error");
    assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), "x");
    let error: Mine = service.oneshot(ask("/fail", "192.0.2.1")).await.map(drop).expect_err("the error");
    assert_eq!(error, Mine);
}

#[tokio::test]
async fn every_layer_fits_under_axum_service_builder_buffer_and_tonic() {
    let limit = || RateLimitLayer::per_ip(Quota::per_minute(5));
    let gate = Tollgate::builder().build().expect("a gate");
    let app: Router = Router::new()
        .route("/", get(|| async { "x" }).layer(limit()))
        .layer(ServiceBuilder::new().layer(gate.layer()).layer(limit()).layer(TimingLayer::new()))
        .layer(limit())
        // An optional layer keeps its type: it is switched off, not left out.
        .layer(
            RateLimitLayer::builder().limit(Limit::global(Quota::per_day(1))).enabled(false).build().expect("a layer"),
        );
    assert_eq!(send(&app, ask("/", "192.0.2.1")).await.status(), 200);

    let bare =
        tower::service_fn(|_: Request<AxumBody>| async { Ok::<_, Infallible>(Response::new(AxumBody::empty())) });
    let buffered = ServiceBuilder::new().buffer(8).layer(gate.layer()).layer(limit()).service(bare);
    assert_eq!(buffered.oneshot(ask("/", "192.0.2.1")).await.expect("no error").status(), 200);
    let inside = ServiceBuilder::new().layer(limit()).layer(gate.layer()).buffer(8).service(bare);
    assert_eq!(inside.oneshot(ask("/", "192.0.2.1")).await.expect("no error").status(), 200);

    let grpc = tower::service_fn(|_: Request<tonic::body::Body>| async {
        Ok::<_, Infallible>(Response::new(tonic::body::Body::empty()))
    });
    let request = Request::post("http://x/pkg.S/Call").body(tonic::body::Body::empty()).expect("a request");
    let stacked = ServiceBuilder::new().layer(gate.layer()).layer(limit()).layer(TimingLayer::new()).service(grpc);
    assert_eq!(stacked.oneshot(request).await.expect("no error").status(), 200);
}

#[tokio::test]
async fn a_gate_with_nothing_switched_on_only_times() {
    let gate = Tollgate::builder().build().expect("a gate");
    let app = Router::new().route("/", get(|| async { ([("cache-control", "max-age=60")], "x") })).layer(gate.layer());
    for _ in 0..3 {
        let response = send(&app, ask("/", "192.0.2.1")).await;
        assert!(!response.headers().contains_key("age") && !response.headers().contains_key("x-ratelimit-limit"));
    }
    assert_eq!(gate.stats().routes["/"].requests, 3);
    assert_eq!(gate.stats().money_saved, None);
}

#[tokio::test]
async fn shutting_down_waits_for_fetches_that_outlived_their_request() {
    let gate = Tollgate::builder()
        .cache(Rules::new().route("/slow", Rule::ttl(Duration::from_secs(60))))
        .build()
        .expect("a gate");
    let finished = Arc::new(AtomicUsize::new(0));
    let counter = finished.clone();
    let slow = move || {
        let counter = counter.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            counter.fetch_add(1, Ordering::SeqCst);
            "done"
        }
    };
    let app = Router::new().route("/slow", get(slow)).layer(gate.layer());
    let impatient = tokio::time::timeout(Duration::from_millis(10), send(&app, ask("/slow", "192.0.2.1")));
    assert!(impatient.await.is_err(), "the client leaves");
    gate.shutdown().await;
    assert_eq!(finished.load(Ordering::SeqCst), 1, "its fetch was finished and kept");
    assert!(send(&app, ask("/slow", "192.0.2.1")).await.headers().contains_key("age"));
}

#[test]
fn misconfigurations_are_refused_by_value() {
    for (builder, named) in [
        (Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(0))), "0/min"),
        (Tollgate::builder().cost_per_call(f64::NAN), "NaN"),
        (Tollgate::builder().cost_per_call(-1.0), "-1"),
        (Tollgate::builder().cache_with(|cache| cache.memory(1_000).max_entry(2_000)), "2000"),
        (
            Tollgate::builder().cache(Rules::new().route("/a/{x}", Rule::never()).route("/a/{y}", Rule::never())),
            "/a/{y}",
        ),
        (Tollgate::builder().timing_with(|timing| timing.routes(["/a/{x}", "/a/{y}"])), "/a/{y}"),
    ] {
        let error = builder.build().map(|_| ()).expect_err(named);
        assert!(error.is_config() && error.to_string().contains(named), "{named}: {error}");
    }
}

#[tokio::test]
async fn nothing_shows_who_asked() {
    let secret = "tok-5ecre7";
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = events.clone();
    let gate = Tollgate::builder()
        .identify(by::bearer())
        .limit(Limit::per_user(Quota::per_minute(1)))
        .cache(Rules::new().route("/", Rule::ttl(Duration::from_secs(60)).same_for_everyone()))
        .hook(move |event| sink.lock().expect("not poisoned").push(format!("{event:?}")))
        .build()
        .expect("a gate");
    let app = Router::new().route("/", get(|| async { "x" })).layer(gate.layer());
    for _ in 0..3 {
        let mut request = ask("/", "203.0.113.77");
        request.headers_mut().insert("authorization", format!("Bearer {secret}").parse().expect("a value"));
        let response = send(&app, request).await;
        let shown = format!("{:?}", response.headers());
        assert!(!shown.contains(secret) && !shown.contains("203.0.113.77"), "{shown}");
    }
    let shown = format!("{gate:?} {} {:?}", serde_json::to_string(&gate.stats()).expect("JSON"), events);
    assert!(shown.contains("Refused") && !shown.contains(secret) && !shown.contains("203.0.113.77"), "{shown}");
}

/// A misspelt rule is silent otherwise: the requests it was meant for match none.
#[tokio::test]
async fn a_cache_rule_that_never_matches_is_warned_about_once() {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let sink = warnings.clone();
    let rule = || Rule::ttl(Duration::from_secs(60));
    let gate = Tollgate::builder()
        .cache(Rules::new().route("/prices/{symbol}", rule()).route("/oders/{id}", rule()))
        .hook(move |event| {
            if let Event::Warning { code, message } = event {
                sink.lock().expect("not poisoned").push((*code, (*message).to_owned()));
            }
        })
        .build()
        .expect("a gate");
    let app = Router::new()
        .route("/prices/{symbol}", get(|| async { "1" }))
        .route("/orders/{id}", get(|| async { "2" }))
        .layer(gate.layer());
    send(&app, ask("/prices/ACME", "192.0.2.1")).await;
    for n in 1..=300 {
        send(&app, ask("/orders/7", "192.0.2.1")).await;
        assert_eq!(warnings.lock().expect("not poisoned").len(), usize::from(n >= 100), "after {n}");
    }
    let warnings = warnings.lock().expect("not poisoned");
    assert_eq!(warnings[0].0, "unmatched-cache-rule");
    assert!(warnings[0].1.contains("/oders/{id}") && !warnings[0].1.contains("/prices"), "{warnings:?}");
    let old = Tollgate::builder().cache(Rules::new().route("/users/:id", rule())).build();
    assert!(old.expect_err("old syntax").to_string().contains("/users/{id}"));
}

#[tokio::test]
async fn a_request_that_a_handler_sends_through_its_own_gate_is_a_request_like_any_other() {
    let gate = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(10))).build().expect("a gate");
    let page = Router::new().route("/page", get(|| async { "page" })).layer(gate.layer());
    let parts = page.clone();
    let batch = post(move || async move {
        let mut statuses = Vec::new();
        for _ in 0..12 {
            statuses.push(send(&parts, ask("/page", "192.0.2.1")).await.status());
        }
        statuses.iter().filter(|status| **status == StatusCode::OK).count().to_string()
    });
    let app = Router::new().route("/batch", batch).layer(gate.layer()).merge(page);
    let request = Request::post("/batch").header("host", "example.com").body(AxumBody::empty()).expect("a request");
    let response = send(&app, FakePeer::at("192.0.2.1").mark(request)).await;
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(body, "9", "the batch itself took one of ten");
}

#[tokio::test]
async fn a_gate_layered_twice_is_recognized_while_timing_is_off() {
    let gate = Tollgate::builder()
        .limit(Limit::per_ip(Quota::per_minute(10)))
        .cache(Rules::new().route("/a", Rule::ttl(Duration::from_secs(60))))
        .build()
        .expect("a gate");
    gate.set_timing_mode(tollgate::Mode::Off);
    let app = Router::new().route("/a", get(|| async { "a" })).layer(gate.layer());
    let app = Router::new().nest("/in", app).layer(gate.layer());
    let sent = tokio::time::timeout(Duration::from_secs(1), send(&app, ask("/in/a", "192.0.2.1"))).await;
    let response = sent.expect("no fetch waits for itself");
    assert_eq!((response.status(), field(&response, "x-ratelimit-remaining")), (StatusCode::OK, "9"));
}

#[tokio::test]
async fn a_gate_layered_twice_charges_and_fetches_once_and_says_so() {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let seen = warnings.clone();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let gate = Tollgate::builder()
        .limit(Limit::per_ip(Quota::per_minute(10)))
        .cache(Rules::new().route("/a", Rule::ttl(Duration::from_secs(60))))
        .hook(move |event| {
            if let Event::Warning { code, message } = event {
                seen.lock().expect("no panic").push((code.to_owned(), message.to_string()));
            }
        })
        .build()
        .expect("a gate");
    let other = RateLimitLayer::per_ip(Quota::per_minute(5));
    let handler = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async { "a" }
    };
    // Around the route and around the router; a layer of another kind between the two goes on.
    let inner = Router::new().route("/a", get(handler.clone())).route("/b", get(handler)).layer(gate.layer());
    let app = Router::new().merge(inner).layer(other).layer(gate.layer());
    for n in 0..5 {
        let sent = tokio::time::timeout(Duration::from_secs(1), send(&app, ask("/a", "192.0.2.1"))).await;
        let response = sent.expect("no fetch waits for itself");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(field(&response, "x-ratelimit-remaining"), (9 - n).to_string());
        let _ = response.into_body().collect().await.expect("a body");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!((gate.stats().requests, gate.stats().in_flight), (5, 0));
    for n in 0..5 {
        let response = send(&app, ask("/b", "192.0.2.1")).await;
        assert_eq!(response.status(), if n < 4 { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS }, "{n}");
    }
    let warnings = warnings.lock().expect("no panic");
    let repeated: Vec<_> = warnings.iter().filter(|(code, _)| *code == "repeated-gate").collect();
    assert_eq!(repeated.len(), 1, "{warnings:?}");
    assert!(repeated[0].1.contains("remove"), "{repeated:?}");
}
