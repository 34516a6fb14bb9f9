//! Setting limits up: what is refused when built, what is warned about, what is told to the hook.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::sync::{Arc, Mutex};

use support::{Req, World, from};
use tollgate::Event;
use tollgate::identity::{TrustedProxies, by};
use tollgate::limit::{Limit, Quota, RateLimitBuilder, RateLimitLayer, Tiers};

fn world(builder: RateLimitBuilder) -> World {
    World::new(|clock| builder.clock(clock).build().expect("a layer"))
}

fn anonymous() -> Req {
    from("192.0.2.1", "/")
}

#[tokio::test]
async fn an_unknown_peer_shares_one_bucket_with_one_warning_and_no_error() {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let sink = warnings.clone();
    let builder = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(5))).hook(move |event| {
        if let Event::Warning { code, message } = event {
            assert!(message.contains("into_make_service_with_connect_info"), "it says how to mend it");
            sink.lock().expect("not poisoned").push(*code);
        }
    });
    let world = world(builder);
    let unknown = || http::Request::get("/").body(http_body_util::Empty::new()).expect("a request");
    assert_eq!(world.admitted(10, unknown).await, 5);
    assert_eq!(*warnings.lock().expect("not poisoned"), ["unknown-peer"]);
}

#[tokio::test]
async fn suspicious_set_ups_are_warned_about_once() {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let sink = warnings.clone();
    let builder = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(5))).hook(move |event| {
        if let Event::Warning { code, .. } = event {
            sink.lock().expect("not poisoned").push(*code);
        }
    });
    let world = world(builder);
    for _ in 0..3 {
        let mut request = from("10.0.0.1", "/");
        request.headers_mut().insert("x-forwarded-for", http::HeaderValue::from_static("203.0.113.9"));
        world.send(request).await;
    }
    assert_eq!(*warnings.lock().expect("not poisoned"), ["untrusted-proxy"]);
}

#[tokio::test]
async fn events_tell_refusals_and_keys_near_their_limit() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = events.clone();
    let builder =
        RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(10)).named("ten")).hook(move |event| {
            sink.lock().expect("not poisoned").push(match event {
                Event::NearLimit { limit } => format!("near {limit}"),
                Event::Refused { limit, retry_after, .. } => format!("refused {limit} {}", retry_after.as_secs()),
                other => format!("{other:?}"),
            });
        });
    world(builder).admitted(12, anonymous).await;
    assert_eq!(*events.lock().expect("not poisoned"), ["near ten", "refused ten 60", "refused ten 60"]);
}

#[test]
fn misconfigurations_fail_when_built_and_name_the_value() {
    let limit = || Limit::per_ip(Quota::per_minute(5));
    let with = |limit: Limit| RateLimitLayer::builder().limit(limit);
    for (builder, named) in [
        (RateLimitLayer::builder(), "without a limit"),
        (with(Limit::per_ip(Quota::per_minute(0))), "0/min"),
        (with(Limit::per_ip(Quota::per_minute(5).bucket(0))), "burst"),
        (with(limit()).limit(limit()), "ip-per-min"),
        (with(limit().named("a\r\nb")), "a\\r\\nb"),
        (with(limit().named("")), "\"\""),
        (with(limit().cost(6)), "cost of 6"),
        (with(limit().cost(0)), "cost of 0"),
        (with(limit().on("/a/{x}")).limit(limit().on("/a/{y}")), "/a/{y}"),
        (with(limit().on("a")), "\"a\""),
        (with(limit().on("/users/:id")), "\"/users/{id}\""),
        (with(limit().on("/api/*")), "\"/api/{*rest}\""),
        (with(limit()).routes(["/users/:id"]), "\"/users/{id}\""),
        (with(limit()).capacity(0), "0 keys"),
        (with(limit()).allow_ips(["10.0.0.0/33"]), "10.0.0.0/33"),
        (with(limit()).identify(by::client_ip(TrustedProxies::cidrs(["10.0.0.0/33"]))), "10.0.0.0/33"),
        (with(limit()).identify(by::client_ip(TrustedProxies::none()).ipv6_prefix(129)), "/129"),
        (with(Limit::from(Tiers::default().tier("pro", Quota::per_minute(1)))), "\"pro\""),
        (with(Limit::from(Tiers::default().quota("gold", Quota::per_minute(1)))), "\"gold\""),
        (with(Limit::per_node(Quota::per_second(1)).shadow()), "node-per-second"),
        (with(Limit::per_node(Quota::per_second(1))).limit(Limit::per_node(Quota::per_minute(1))), "per-node"),
    ] {
        let error = builder.build().map(|_| ()).expect_err(named);
        assert!(error.is_config() && error.to_string().contains(named), "{named}: {error}");
    }
}

#[test]
#[should_panic(expected = "0/min")]
fn the_shortest_form_panics_at_start_up() {
    let _ = RateLimitLayer::per_ip(Quota::per_minute(0));
}

#[tokio::test]
async fn a_switched_off_layer_lets_everything_through() {
    let builder = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(1))).enabled(false);
    assert_eq!(world(builder).admitted(50, anonymous).await, 50);
}

/// Codes and texts of warnings.
type Warnings = Arc<Mutex<Vec<(&'static str, String)>>>;

/// A world and what it warns about.
fn warned(builder: RateLimitBuilder) -> (World, Warnings) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let sink = warnings.clone();
    let builder = builder.hook(move |event| {
        if let Event::Warning { code, message } = event {
            sink.lock().expect("not poisoned").push((*code, (*message).to_owned()));
        }
    });
    (world(builder), warnings)
}

fn with(mut request: Req, name: &'static str, value: &str) -> Req {
    request.headers_mut().insert(name, value.parse().expect("a value"));
    request
}

#[tokio::test]
async fn a_warning_names_the_cause_the_value_and_the_remedy() {
    let tiers = || Tiers::default().assign(|head| head.header("x-plan").and_then(|plan| plan.to_str().ok()));
    let proxies = || by::client_ip(TrustedProxies::cidrs(["10.0.0.0/8"]).header("forwarded"));
    let quota = || Quota::per_minute(5);
    for (builder, request, code, named) in [
        (
            RateLimitLayer::builder().limit(Limit::by(by::header("x-api-key"), quota()).named("keys")),
            anonymous(),
            "unknown-identity",
            &["\"keys\"", "header \"x-api-key\"", "\"unmatched\"", ".or(by::client_ip("][..],
        ),
        (
            RateLimitLayer::builder().identify(by::bearer()).limit(Limit::from(Tiers::default())),
            anonymous(),
            "unknown-identity",
            &["bearer token", ".or(by::client_ip("],
        ),
        (
            RateLimitLayer::builder().limit(Limit::from(tiers()).named("plans")),
            with(anonymous(), "x-plan", "platinum"),
            "unknown-tier",
            &["\"plans", "\"platinum\"", "\"pro\"", ".tier("],
        ),
        (
            RateLimitLayer::builder().identify(proxies()).limit(Limit::per_ip(quota())),
            with(from("10.0.0.1", "/"), "x-forwarded-for", "203.0.113.9"),
            "other-forwarding-field",
            &["\"x-forwarded-for\"", "\"forwarded\"", ".header(\"x-forwarded-for\")"],
        ),
        (
            RateLimitLayer::builder().limit(Limit::per_ip(quota()).named("ip")),
            http::Request::get("/").body(http_body_util::Empty::new()).expect("a request"),
            "unknown-peer",
            &["\"ip\"", "into_make_service_with_connect_info", "axum 0.7", "by::peer_from", "hops(1)"],
        ),
    ] {
        let (world, warnings) = warned(builder);
        for _ in 0..3 {
            world.send(request.clone()).await;
        }
        let warnings = warnings.lock().expect("not poisoned");
        assert_eq!(warnings.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [code]);
        for named in named {
            assert!(warnings[0].1.contains(named), "{named}: {}", warnings[0].1);
        }
    }
}

#[tokio::test]
async fn a_limit_whose_route_never_matches_is_listed_and_warned_about_once() {
    let builder = RateLimitLayer::builder()
        .limit(Limit::per_ip(Quota::per_minute(1_000)).on("/report/{id}").named("reports"))
        .limit(Limit::per_ip(Quota::per_minute(1_000)).on("/reprot/{id}").named("misspelt"));
    let (world, warnings) = warned(builder);
    for n in 0..300 {
        assert_eq!(warnings.lock().expect("not poisoned").len(), usize::from(n >= 100), "after {n}");
        world.send(from("192.0.2.1", "/report/7")).await;
    }
    let warnings = warnings.lock().expect("not poisoned");
    let (code, message) = &warnings[0];
    assert_eq!((*code, warnings.len()), ("unmatched-limit", 1));
    assert!(message.contains("\"misspelt\" on \"/reprot/{id}\"") && !message.contains("\"reports\""), "{message}");
    let layer = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(5)).on("/a").named("a")).build();
    assert_eq!(layer.expect("a layer").stats().unmatched_limits, ["a"]);
}

#[tokio::test]
async fn a_preflight_may_be_exempt() {
    let preflight = |complete: bool| {
        let mut request = with(anonymous(), "origin", "https://example.com");
        *request.method_mut() = http::Method::OPTIONS;
        if complete { with(request, "access-control-request-method", "PUT") } else { request }
    };
    let limit = || RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(5)));
    assert_eq!(world(limit()).admitted(9, || preflight(true)).await, 5);
    assert_eq!(world(limit().exempt_preflight()).admitted(9, || preflight(true)).await, 9);
    assert_eq!(world(limit().exempt_preflight()).admitted(9, || preflight(false)).await, 5, "an ordinary OPTIONS");
    assert_eq!(world(limit().exempt_preflight()).admitted(9, anonymous).await, 5);
}
