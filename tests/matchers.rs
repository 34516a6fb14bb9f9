//! Routes, methods and exceptions: one matcher for limits, cache rules and timing.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use support::{Req, World, from};
use tollgate::cache::{CacheLayer, Rule, Rules};
use tollgate::limit::{Limit, RateLimitLayer};
use tollgate::timing::TimingLayer;
use tollgate::{Clock, Event, ManualClock, RouteMatcher, Tollgate};
use tower::{Layer, ServiceExt};

fn request(method: &str, path: &str) -> Req {
    let mut request = from("192.0.2.1", path);
    *request.method_mut() = method.parse::<Method>().expect("a method");
    request
}

fn world(limits: impl IntoIterator<Item = Limit>) -> World {
    let builder = limits.into_iter().fold(RateLimitLayer::builder(), tollgate::limit::RateLimitBuilder::limit);
    World::new(|clock| builder.clock(clock).build().expect("a layer"))
}

#[tokio::test]
async fn a_limit_on_several_routes_has_one_count_and_leaves_other_methods_alone() {
    let world = world([Limit::per_ip("2/min").on(["POST /login", "POST /reset"])]);
    assert_eq!(world.status(request("POST", "/login")).await, 200);
    assert_eq!(world.status(request("POST", "/reset")).await, 200);
    assert_eq!(world.status(request("POST", "/login")).await, 429);
    assert_eq!(world.status(request("POST", "/reset")).await, 429);
    assert_eq!(world.admitted(9, || request("GET", "/login")).await, 9);
    assert_eq!(world.admitted(9, || request("POST", "/other")).await, 9);
}

#[tokio::test]
async fn get_includes_head_and_exceptions_are_not_counted() {
    let read = Limit::per_ip("1/min").on("GET /a").named("read");
    let most = Limit::per_ip("3/min").except(["/health", "GET /metrics"]).named("most");
    let world = world([read, most]);
    assert_eq!(world.admitted(9, || request("GET", "/health")).await, 9);
    assert_eq!(world.admitted(9, || request("GET", "/metrics")).await, 9);
    assert_eq!(world.status(request("GET", "/a")).await, 200);
    assert_eq!(world.status(request("HEAD", "/a")).await, 429);
    assert_eq!(world.admitted(9, || request("POST", "/metrics")).await, 2);
}

#[tokio::test]
async fn a_catch_all_covers_what_other_limits_name_but_for_its_exceptions() {
    let admin = RouteMatcher::from("/admin/{*rest}").except("/admin/health");
    let (all, stats) = (Limit::per_ip("3/min").on(admin), Limit::per_ip("2/min").on("/admin/stats"));
    let world = world([all.named("admin"), stats.named("stats")]);
    assert_eq!(world.admitted(9, || request("GET", "/admin/stats")).await, 2);
    assert_eq!(world.admitted(9, || request("GET", "/admin/users")).await, 1);
    assert_eq!(world.admitted(9, || request("GET", "/admin/health")).await, 9);
}

#[test]
fn an_entry_that_no_declared_route_matches_is_reported_once() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = seen.clone();
    let gate = Tollgate::builder()
        .routes(["/login", "/articles/{id}"])
        .limit(Limit::per_ip("5/15min").on(["POST /login", "POST /lgoin"]).named("login"))
        .cache(Rules::new().route(["/articles/{id}", "/artcles"], Rule::ttl(Duration::from_secs(60))))
        .hook(move |event| {
            if let Event::Warning { code: "undeclared-route", message } = event {
                sink.lock().expect("not poisoned").push((*message).to_owned());
            }
        })
        .build()
        .expect("a gate");
    let seen = seen.lock().expect("not poisoned");
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].contains("\"/lgoin\" of limit \"login\"") && !seen[0].contains("\"/login\""), "{seen:?}");
    assert!(seen[1].contains("\"/artcles\"") && !seen[1].contains("{id}"), "{seen:?}");
    drop(gate);
}

#[test]
fn malformed_entries_fail_when_the_layer_is_built() {
    for limit in [Limit::per_ip("5/min").on("post /login"), Limit::per_ip("5/min").except("health")] {
        assert!(RateLimitLayer::builder().limit(limit).build().expect_err("a mistake").is_config());
    }
    assert!(TimingLayer::builder().except("health").build().is_err());
    assert!(CacheLayer::builder().rules(Rules::new().route("get /a", Rule::never())).build().is_err());
    assert!(RateLimitLayer::builder().limit(Limit::per_node("5/s").except("/health")).build().is_err());
}

#[tokio::test]
async fn timing_measures_no_excepted_route() {
    let layer = TimingLayer::builder()
        .clock(Clock::Manual(ManualClock::new()))
        .except(["/health", "POST /events"])
        .build()
        .expect("a layer");
    let service = layer.layer(support::Inner(Arc::default()));
    for (method, path) in [("GET", "/health"), ("POST", "/events"), ("GET", "/events"), ("GET", "/")] {
        service.clone().oneshot(request(method, path)).await.expect("infallible");
    }
    assert_eq!(layer.stats().requests, 2);
}
