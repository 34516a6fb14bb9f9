//! Limits through the public face: tiers, several limits at once, fields, refusals.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use support::{Inner, Req, World, answering, field, from, text};
use tollgate::identity::{Identity, Key, KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Draft, Limit, Quota, RateLimitBuilder, RateLimitLayer, Rejection, Reservation, Reset, Tiers};
use tollgate::{Clock, Event, RequestHead};
use tower::{Layer, Service, ServiceExt};

#[derive(Clone)]
struct User {
    name: &'static str,
    plan: &'static str,
}

impl Identity for User {
    fn key(&self) -> Key<'_> {
        Key::text("user", self.name)
    }
}

fn tiered() -> RateLimitBuilder {
    RateLimitLayer::builder()
        .identify(by::extension::<User>().or(by::client_ip(TrustedProxies::none())))
        .limit(Tiers::default().assign(|head| head.extension::<User>().map(|user| user.plan)))
}

fn world(builder: RateLimitBuilder) -> World {
    World::new(|clock| builder.clock(clock).build().expect("a layer"))
}

fn user(name: &'static str, plan: &'static str) -> Req {
    let mut request = from("192.0.2.1", "/");
    request.extensions_mut().insert(User { name, plan });
    request
}

fn anonymous() -> Req {
    from("192.0.2.1", "/")
}

#[tokio::test]
async fn twenty_anonymous_requests_pass_in_any_minute_and_the_21st_is_refused() {
    let world = world(tiered());
    for left in (0..20).rev() {
        let response = world.send(anonymous()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(field(&response, "x-ratelimit-limit"), "20", "inner fields are overwritten");
        assert_eq!(field(&response, "x-ratelimit-remaining"), left.to_string());
        assert_eq!(field(&response, "x-ratelimit-reset"), "60");
        assert_eq!(field(&response, "retry-after"), "");
    }
    let refused = world.send(anonymous()).await;
    assert_eq!(refused.status(), 429);
    for (name, value) in [
        ("x-ratelimit-limit", "20"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "60"),
        ("retry-after", "60"),
        ("content-type", "application/problem+json"),
    ] {
        assert_eq!(field(&refused, name), value, "{name}");
    }
    assert_eq!(world.calls(), 20, "a refused request does not reach the inner service");
    let body: serde_json::Value = serde_json::from_str(&text(refused).await).expect("JSON");
    assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(body["status"], 429);
    assert_eq!(body["violated-policies"], serde_json::json!(["anonymous"]));
}

#[tokio::test]
async fn spread_over_the_minute_it_is_still_twenty() {
    let world = world(tiered());
    for _ in 0..20 {
        assert_eq!(world.status(anonymous()).await, 200);
        world.advance(2.9);
    }
    assert_eq!(world.status(anonymous()).await, 429, "second 58");
    world.advance(1.9);
    assert_eq!(world.status(anonymous()).await, 429, "second 59.9");
    world.advance(1.3);
    assert_eq!(world.status(anonymous()).await, 200, "the first has left the window");
    assert_eq!(world.status(anonymous()).await, 429);
}

#[tokio::test]
async fn each_tier_has_its_number() {
    for (plan, number) in [("free", 100), ("pro", 1_000), ("enterprise", 10_000)] {
        let world = world(tiered());
        assert_eq!(world.admitted(number + 50, || user("alice", plan)).await, number, "{plan}");
        assert_eq!(field(&world.send(user("alice", plan)).await, "x-ratelimit-limit"), number.to_string());
    }
}

#[tokio::test]
async fn one_user_never_affects_another() {
    let world = world(tiered());
    assert_eq!(world.admitted(500, || user("mallory", "free")).await, 100);
    assert_eq!(field(&world.send(user("alice", "free")).await, "x-ratelimit-remaining"), "99");
    assert_eq!(field(&world.send(anonymous()).await, "x-ratelimit-remaining"), "19");
}

#[tokio::test]
async fn a_thousand_invented_tokens_share_the_address() {
    let known = |head: &RequestHead<'_>| head.header("authorization").is_some_and(|value| value == "Bearer pro-alpha");
    let builder = RateLimitLayer::builder()
        .identify(by::bearer().or(by::client_ip(TrustedProxies::none())))
        .limit(Tiers::default().assign(move |head| known(head).then_some("pro")));
    let world = world(builder);
    let with_token = |token: String| {
        let mut request = anonymous();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a value"));
        request
    };
    let mut admitted = 0;
    for n in 0..1_000 {
        admitted += usize::from(world.status(with_token(format!("invented-{n}"))).await == 200);
    }
    assert_eq!(admitted, 20);
    assert_eq!(world.admitted(1_100, || with_token("pro-alpha".into())).await, 1_000);
}

#[tokio::test]
async fn an_unknown_tier_is_anonymous_and_warned_about_once() {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let sink = warnings.clone();
    let world = world(tiered().hook(move |event| {
        if let Event::Warning { code, .. } = event {
            sink.lock().expect("not poisoned").push(*code);
        }
    }));
    assert_eq!(world.admitted(30, || user("alice", "platinum")).await, 20);
    assert_eq!(*warnings.lock().expect("not poisoned"), ["unknown-tier"]);
}

#[tokio::test]
async fn changing_the_tier_keeps_the_used_share() {
    let world = world(tiered());
    assert_eq!(world.admitted(50, || user("alice", "free")).await, 50);
    assert_eq!(field(&world.send(user("alice", "pro")).await, "x-ratelimit-remaining"), "499");
}

#[tokio::test]
async fn several_limits_are_one_decision() {
    let builder = RateLimitLayer::builder()
        .limit(Limit::per_ip(Quota::per_second(5)))
        .limit(Limit::per_ip(Quota::per_minute(8)))
        .limit(Limit::global(Quota::per_hour(1_000)));
    let world = world(builder);
    assert_eq!(world.admitted(7, anonymous).await, 5);
    world.advance(1.1);
    let response = world.send(anonymous()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(field(&response, "x-ratelimit-limit"), "8", "the tightest share is reported");
    assert_eq!(field(&response, "x-ratelimit-remaining"), "2", "refusals were charged to nobody");
    assert_eq!(world.admitted(9, anonymous).await, 2);
    let refused = world.send(anonymous()).await;
    assert_eq!(field(&refused, "x-ratelimit-limit"), "8", "the longest wait is reported");
    assert_eq!(field(&refused, "retry-after"), "60");
    assert!(text(refused).await.contains("\"violated-policies\":[\"ip-per-min\"]"));
    let other = world.send(from("198.51.100.1", "/")).await;
    assert_eq!(field(&other, "x-ratelimit-remaining"), "4");
}

#[tokio::test]
async fn the_per_node_ceiling_answers_503_and_gives_back_what_others_took() {
    let builder = RateLimitLayer::builder()
        .limit(Limit::per_ip(Quota::per_minute(5)))
        .limit(Limit::per_node(Quota::per_second(2)));
    let world = world(builder);
    assert_eq!(world.admitted(2, anonymous).await, 2);
    for _ in 0..10 {
        let refused = world.send(anonymous()).await;
        assert_eq!(refused.status(), 503);
        assert_eq!(field(&refused, "retry-after"), "1");
        assert!(text(refused).await.contains("temporary-reduced-capacity"));
    }
    world.advance(1.0);
    assert_eq!(field(&world.send(anonymous()).await, "x-ratelimit-remaining"), "2", "5 less the 3 admitted");
    world.advance(1.0);
    assert_eq!(world.admitted(2, anonymous).await, 2, "5 in all: the 503s cost nothing");
    assert_eq!(world.status(anonymous()).await, 429);
}

#[tokio::test]
async fn costs_are_weighed() {
    let by_header = |head: &RequestHead<'_>| if head.header("x-heavy").is_some() { 10 } else { 1 };
    let world = world(RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(15)).cost_by(by_header)));
    let heavy = || {
        let mut request = anonymous();
        request.headers_mut().insert("x-heavy", http::HeaderValue::from_static("1"));
        request
    };
    assert_eq!(world.status(heavy()).await, 200);
    assert_eq!(world.status(heavy()).await, 429);
    assert_eq!(world.admitted(10, anonymous).await, 5, "the refused one cost nothing");
}

#[tokio::test]
async fn a_handler_settles_what_a_request_really_cost() {
    let hand = tollgate::ManualClock::new();
    let layer = RateLimitLayer::builder()
        .limit(Limit::per_ip(Quota::per_minute(100)).cost(10).reserve())
        .clock(Clock::Manual(hand))
        .build()
        .expect("a layer");
    let service = layer.layer(answering(|request| {
        let reserved = request.extensions().get::<Reservation>().expect("a reservation").clone();
        assert_eq!(reserved.reserved(), 10);
        match request.uri().path() {
            "/cheap" => reserved.commit(1),
            "/dear" => reserved.commit(30),
            "/free" => {
                reserved.clone().release();
                reserved.commit(99); // only the first settlement counts
            }
            _ => drop(reserved),
        }
        Response::new(Full::<Bytes>::from("ok"))
    }));
    // Each response says how many more of this estimate fit before the handler settled.
    for (path, left) in [("/cheap", "9"), ("/dear", "8"), ("/free", "5"), ("/dropped", "5"), ("/cheap", "4")] {
        let response = service.clone().oneshot(from("192.0.2.1", path)).await.expect("infallible");
        assert_eq!(field(&response, "x-ratelimit-remaining"), left, "{path}");
    }
}

#[tokio::test]
async fn a_dropped_request_settles_it_is_not_refunded() {
    let layer = RateLimitLayer::per_ip(Quota::per_minute(10));
    let mut service = layer.layer(Inner(Arc::default()));
    for _ in 0..10 {
        // Admitted, and dropped before the inner service is even called: as an HTTP/2 client resets its streams.
        drop(service.call(anonymous()));
    }
    assert_eq!(service.oneshot(anonymous()).await.expect("infallible").status(), 429);
}

#[tokio::test]
async fn a_limit_in_shadow_counts_and_refuses_nothing() {
    let layer = RateLimitLayer::builder()
        .limit(Limit::per_ip(Quota::per_minute(5)).named("trial").shadow())
        .limit(Limit::per_ip(Quota::per_minute(50)).named("real"))
        .build()
        .expect("a layer");
    let service = layer.layer(Inner(Arc::default()));
    for _ in 0..20 {
        let response = service.clone().oneshot(anonymous()).await.expect("infallible");
        assert_eq!((response.status().as_u16(), field(&response, "x-ratelimit-limit")), (200, "50"));
    }
    let stats = layer.stats();
    let trial = stats.limits.iter().find(|limit| limit.name == "trial").expect("the limit");
    assert_eq!((trial.would_refuse, trial.refused, stats.admitted), (15, 0, 20));
}

#[tokio::test]
async fn allowed_addresses_and_exempt_requests_are_not_counted() {
    let builder = RateLimitLayer::builder()
        .limit(Limit::per_ip(Quota::per_minute(2)))
        .allow_ips(["198.51.100.0/24", "2001:db8::/32"])
        .exempt(|head| head.uri().path() == "/health");
    let world = world(builder);
    assert_eq!(world.admitted(50, || from("198.51.100.7", "/")).await, 50);
    assert_eq!(world.admitted(50, || from("2001:db8::1", "/")).await, 50);
    assert_eq!(world.admitted(50, || from("192.0.2.1", "/health")).await, 50);
    assert_eq!(field(&world.send(from("192.0.2.1", "/health")).await, "x-ratelimit-remaining"), "");
    assert_eq!(world.admitted(50, anonymous).await, 2);
}

#[tokio::test]
async fn routes_are_counted_by_pattern_and_dodges_share_one_count() {
    let builder = RateLimitLayer::builder()
        .limit(Limit::per_ip(Quota::per_minute(100)))
        .limit(Limit::per_ip(Quota::per_minute(3)).on("/report/{id}"));
    let world = world(builder);
    let mut admitted = 0;
    for n in 0..10 {
        admitted += usize::from(world.status(from("192.0.2.1", &format!("/report/{n}"))).await == 200);
    }
    assert_eq!(admitted, 3, "one count for the route, whatever its parameter");
    assert_eq!(world.status(from("192.0.2.1", "/other")).await, 200);

    let per_route = World::new(|clock| {
        RateLimitLayer::builder()
            .limit(Limit::per_ip(Quota::per_minute(4)).per_route())
            .clock(clock)
            .build()
            .expect("a layer")
    });
    let dodges = ["/a", "//a", "/./a", "/%2e/a", "/A", "/a/", "/a//"];
    let mut admitted = 0;
    for path in dodges {
        admitted += usize::from(per_route.status(from("192.0.2.1", path)).await == 200);
    }
    assert_eq!(admitted, 4, "paths that match no route share one count");
}

#[tokio::test]
async fn methods_are_counted_alike_and_overrides_ignored() {
    let world = world(RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(4))));
    for (method, status) in [("HEAD", 200), ("OPTIONS", 200), ("GET", 200), ("PURGE", 200), ("HEAD", 429)] {
        let mut request = anonymous();
        *request.method_mut() = method.parse().expect("a method");
        request.headers_mut().insert("x-http-method-override", http::HeaderValue::from_static("OPTIONS"));
        assert_eq!(world.status(request).await, status, "{method}");
    }
}

#[tokio::test]
async fn a_bucket_waits_as_long_as_it_says() {
    let world = world(RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(60).bucket(3))));
    assert_eq!(world.admitted(5, anonymous).await, 3);
    world.advance(0.1);
    assert_eq!(field(&world.send(anonymous()).await, "retry-after"), "1", "0.9 s rounds up, never down to 0");
    world.advance(0.9);
    assert_eq!(world.admitted(3, anonymous).await, 1);
    world.advance(1_000_000.0);
    assert_eq!(world.admitted(10, anonymous).await, 3, "idling saves no more than the burst");
}

#[tokio::test]
async fn ietf_fields_are_sent_when_asked_for() {
    let builder = RateLimitLayer::builder()
        .limit(Limit::per_ip(Quota::per_minute(100)).named("burst"))
        .limit(Limit::per_ip(Quota::per_day(1_000)).named("daily"))
        .ietf_fields(Draft::Eleven);
    let world = world(builder);
    let response = world.send(anonymous()).await;
    assert_eq!(field(&response, "ratelimit-policy"), "\"burst\";q=100;w=60,\"daily\";q=1000;w=86400");
    assert_eq!(field(&response, "ratelimit"), "\"burst\";r=99;t=60,\"daily\";r=999;t=86314");
    world.admitted(99, anonymous).await;
    let refused = world.send(anonymous()).await;
    assert_eq!(field(&refused, "ratelimit"), "\"burst\";r=0;t=60,\"daily\";r=900;t=77760");
    assert_eq!(field(&refused, "retry-after"), "60");
}

#[tokio::test]
async fn reset_may_be_told_as_an_epoch() {
    let builder = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(5))).reset(Reset::Epoch);
    assert_eq!(field(&world(builder).send(anonymous()).await, "x-ratelimit-reset"), "1767225660");
}

#[tokio::test]
async fn a_wall_clock_that_jumps_changes_no_limit() {
    let world = world(RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(5))));
    assert_eq!(world.admitted(5, anonymous).await, 5);
    for wall in [Duration::ZERO, Duration::from_secs(4_000_000_000)] {
        world.hand.set_wall(std::time::SystemTime::UNIX_EPOCH + wall);
        assert_eq!(world.status(anonymous()).await, 429);
    }
}

#[tokio::test]
async fn grpc_is_told_resource_exhausted() {
    let world = world(RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(1))));
    let call = |kind: &'static str| {
        let mut request = anonymous();
        request.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
        request
    };
    assert_eq!(world.status(call("application/grpc")).await, 200);
    let refused = world.send(call("application/grpc+proto")).await;
    assert_eq!(refused.status(), 200);
    assert_eq!(field(&refused, "grpc-status"), "8");
    assert_eq!(field(&refused, "x-ratelimit-remaining"), "0");
    assert!(field(&refused, "grpc-status-details-bin").starts_with("CAgSE3JhdGUg"));
    assert!(http_body::Body::is_end_stream(refused.body()), "headers only");
    assert_eq!(world.status(call("application/grpc-web")).await, 429);
}

#[tokio::test]
async fn the_refusal_may_be_the_users_own() {
    let builder = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(1)).named("mine")).on_reject(
        |rejection: &Rejection<'_>| {
            let names: Vec<&str> = rejection.decision().violated().map(|part| part.name()).collect();
            let text = format!("{} {names:?}", rejection.head().uri());
            Response::builder().status(418).header("retry-after", "a while").body(Bytes::from(text)).ok()
        },
    );
    let world = world(builder);
    world.send(anonymous()).await;
    let refused = world.send(anonymous()).await;
    assert_eq!((refused.status().as_u16(), field(&refused, "retry-after")), (418, "60"));
    assert_eq!(text(refused).await, "/ [\"mine\"]");
}

#[tokio::test]
async fn a_limit_in_shadow_that_charged_nothing_gives_nothing_back() {
    let layer = RateLimitLayer::builder()
        .limit(Limit::per_ip(Quota::per_minute(10)).cost(10).reserve().shadow())
        .ietf_fields(Draft::Eleven)
        .build()
        .expect("a layer");
    let service = layer.layer(answering(|request| {
        if let Some(reserved) = request.extensions().get::<Reservation>().cloned() {
            let release = request.uri().path() == "/release";
            if release { reserved.release() } else { reserved.commit(10) }
        }
        Response::new(Full::<Bytes>::from("ok"))
    }));
    for path in ["/", "/release", "/"] {
        let response = service.clone().oneshot(from("192.0.2.1", path)).await.expect("infallible");
        assert!(!response.headers().contains_key("ratelimit-policy"), "a limit in shadow says nothing");
    }
    assert_eq!(layer.stats().limits[0].would_refuse, 2, "the second gave back nothing, so the third is over too");
}

#[tokio::test]
async fn quotas_are_read_from_text_everywhere_and_mistakes_fail_at_build_with_the_valid_forms() {
    let world = world(RateLimitLayer::builder().limit(Limit::per_ip("2/15min").named("a")));
    assert_eq!(world.admitted(5, anonymous).await, 2);
    world.advance(15.0 * 60.0);
    assert_eq!(world.admitted(5, anonymous).await, 2);
    let layer = RateLimitLayer::per_ip("20/minute");
    layer.set_quota("ip-per-min", "1000/h".to_owned()).expect("a quota");
    assert_eq!(layer.stats().limits[0].quota, "1000/hour");
    assert!(layer.set_quota("ip-per-min", "1000/h/h").is_err());

    for (limit, wrong) in [
        (Limit::per_ip("5 per minute").named("login"), "\"login\": invalid quota \"5 per minute\""),
        (Limit::global("5/fortnight"), "\"5/fortnight\""),
        (Limit::by(by::bearer(), "0/s"), "\"0/s\""),
        (Tiers::new("20/minute").tier("pro", "x/s").into(), "\"x/s\""),
        (Tiers::default().quota("pro", "1/0s").into(), "\"1/0s\""),
    ] {
        let error = RateLimitLayer::builder().limit(limit).build().expect_err(wrong).to_string();
        assert!(error.contains(wrong), "{error}");
        if !wrong.contains("0/s") {
            assert!(error.contains("\"100/minute\"") && error.contains("\"5/15min\""), "{error}");
        }
    }
}
