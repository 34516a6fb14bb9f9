//! cache and timing whose mode changes while requests go on.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use support::{Req, text};
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Limit, Quota};
use tollgate::{Clock, ManualClock, Mode, Tollgate};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

fn gate() -> Tollgate {
    let rules = Rules::new().route("/x", Rule::ttl(Duration::from_secs(60)));
    Tollgate::builder().cache(rules).timing_with(|timing| timing.server_timing(true)).build().expect("a gate")
}

/// Answers with the number of the call; says whether there was a `Server-Timing` and a `Cache-Status`.
#[derive(Clone)]
struct App(BoxCloneSyncService<Req, Response<tollgate::Body<Full<Bytes>>>, Infallible>);

impl App {
    fn new(gate: &Tollgate) -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let inner = service_fn(move |_: Req| {
            let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
            async move { Ok::<_, Infallible>(Response::new(Full::from(call.to_string()))) }
        });
        Self(BoxCloneSyncService::new(gate.layer().layer(inner)))
    }

    async fn send(&self, method: &str) -> (String, bool) {
        let request = Request::builder().method(method).uri("/x").header("host", "example.com");
        let response =
            self.0.clone().oneshot(request.body(Empty::new()).expect("a request")).await.expect("infallible");
        let timed = response.headers().contains_key("server-timing");
        (text(response).await, timed)
    }

    async fn get(&self) -> String {
        self.send("GET").await.0
    }
}

#[tokio::test]
async fn a_cache_that_was_off_still_has_its_entries() {
    let gate = gate();
    let app = App::new(&gate);
    assert_eq!((app.get().await.as_str(), app.get().await.as_str()), ("1", "1"));
    gate.set_cache_mode(Mode::Off);
    assert_eq!((app.get().await.as_str(), app.get().await.as_str()), ("2", "3"));
    gate.set_cache_mode(Mode::On);
    assert_eq!(app.get().await, "1", "kept");
}

#[tokio::test]
async fn what_changes_while_the_cache_is_off_is_not_served_afterwards() {
    let gate = gate();
    let app = App::new(&gate);
    assert_eq!(app.get().await, "1");
    gate.set_cache_mode(Mode::Off);
    assert_eq!(app.send("PUT").await.0, "2");
    gate.set_cache_mode(Mode::On);
    assert_eq!(app.get().await, "3");
}

#[tokio::test]
async fn a_cache_that_only_looks_changes_nothing_and_tells_what_it_would_have_done() {
    let rules = Rules::new().route("/x", Rule::ttl(Duration::from_secs(60)).stale_if_error(Duration::from_secs(60)));
    let clock = ManualClock::new();
    let gate = Tollgate::builder()
        .cache(rules)
        .cache_with(|cache| cache.cache_status(true))
        .clock(Clock::Manual(clock.clone()))
        .build()
        .expect("a gate");
    gate.set_cache_mode(Mode::Shadow);
    assert_eq!(gate.stats().modes.cache, Mode::Shadow);
    let calls = Arc::new(AtomicUsize::new(0));
    let inner = service_fn(move |request: Req| {
        let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let fails = request.headers().contains_key("fail");
            let status = if fails { 503 } else { 200 };
            let response = Response::builder().status(status).header("etag", "\"1\"");
            let response = response.header("tollgate-cache-control", "max-age=60").body(Full::from(call.to_string()));
            Ok::<_, Infallible>(response.expect("a response"))
        }
    });
    let service = gate.layer().layer(inner);
    let send = |field: &'static str| {
        let request = Request::get("/x").header("host", "example.com").header(field, "\"1\"");
        service.clone().oneshot(request.body(Empty::new()).expect("a request"))
    };
    for (call, field) in [("1", "x-nothing"), ("2", "if-none-match"), ("3", "if-none-match"), ("4", "x-nothing")] {
        let response = send(field).await.expect("infallible");
        assert_eq!(response.status(), 200, "what the service says, though the client has it");
        let mut names: Vec<_> = response.headers().keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["etag", "tollgate-cache-control"], "call {call}");
        assert_eq!(text(response).await, call);
    }
    clock.advance(Duration::from_secs(70));
    let response = send("fail").await.expect("infallible");
    assert_eq!(response.status(), 503, "no stale answer in place of a failure");
    let stats = gate.stats();
    let route = &stats.routes["/x"];
    assert_eq!((route.shadowed, route.hits, route.stale, route.misses), (3, 0, 0, 2));
    assert_eq!((stats.inner_calls, stats.inner_calls_avoided), (5, 0));
    gate.set_cache_mode(Mode::On);
    assert_eq!(gate.stats().modes.cache, Mode::On);
    assert_eq!(text(send("x-nothing").await.expect("infallible")).await, "6", "stale by now: fetched");
    let hit = send("x-nothing").await.expect("infallible");
    assert!(hit.headers()["cache-status"].to_str().expect("text").contains("hit"));
    assert_eq!(text(hit).await, "6");
}

#[tokio::test]
async fn entries_made_while_it_only_looked_are_served_once_it_is_on() {
    let gate = gate();
    let app = App::new(&gate);
    gate.set_cache_mode(Mode::Shadow);
    assert_eq!((app.get().await.as_str(), app.get().await.as_str()), ("1", "2"));
    gate.set_cache_mode(Mode::On);
    assert_eq!(app.get().await, "1");
    gate.set_cache_mode(Mode::Shadow);
    assert_eq!(app.send("PUT").await.0, "3");
    gate.set_cache_mode(Mode::On);
    assert_eq!(app.get().await, "4", "what was changed meanwhile is not served");
}

#[tokio::test]
async fn rules_are_replaced_and_what_is_stored_keeps_its_life() {
    let clock = ManualClock::new();
    let rules = |seconds| Rules::new().route("/x", Rule::ttl(Duration::from_secs(seconds)));
    let gate = Tollgate::builder().cache(rules(60)).clock(Clock::Manual(clock.clone())).build().expect("a gate");
    let app = App::new(&gate);
    assert_eq!(app.get().await, "1");
    gate.set_rules(rules(10).route("/y", Rule::never())).expect("rules");
    assert_eq!(gate.stats().unmatched_rules, ["/x", "/y"], "counted anew");
    clock.advance(Duration::from_secs(59));
    assert_eq!(app.get().await, "1", "stored for a minute");
    assert_eq!(gate.stats().unmatched_rules, ["/y"]);
    clock.advance(Duration::from_secs(1));
    assert_eq!(app.get().await, "2");
    clock.advance(Duration::from_secs(9));
    assert_eq!(app.get().await, "2");
    clock.advance(Duration::from_secs(1));
    assert_eq!(app.get().await, "3", "stored for ten seconds");

    let wrong = gate.set_rules(rules(0)).expect_err("a mistake").to_string();
    assert!(wrong.contains("\"/x\": ttl 0s"), "{wrong}");
    clock.advance(Duration::from_secs(9));
    assert_eq!(app.get().await, "3", "the rules before the mistake are in force");
    gate.set_rules(Rules::new().route("/x", Rule::never())).expect("rules");
    assert_eq!((app.get().await.as_str(), app.get().await.as_str()), ("4", "5"), "no entry is served that may not be");
}

#[test]
fn stats_tell_which_layers_are_on() {
    let gate = gate();
    let modes = || serde_json::to_value(gate.stats()).expect("JSON")["modes"].clone();
    assert_eq!(modes(), serde_json::json!({"limits": "off", "cache": "on", "timing": "on"}), "no limit was set");
    gate.set_timing_mode(Mode::Shadow);
    gate.set_cache_mode(Mode::Off);
    assert_eq!(modes(), serde_json::json!({"limits": "off", "cache": "off", "timing": "shadow"}));
    let limited = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(9))).build().expect("a gate");
    assert_eq!((limited.stats().modes.limits, limited.stats().modes.cache), (Mode::On, Mode::Off));
    limited.set_limits_mode(Mode::Shadow);
    assert_eq!(limited.stats().modes.limits, Mode::Shadow);
}

#[tokio::test]
async fn timing_is_switched_and_keeps_what_it_measured() {
    let gate = gate();
    let app = App::new(&gate);
    for (mode, told, requests) in
        [(Mode::On, true, 1), (Mode::Off, false, 1), (Mode::Shadow, false, 2), (Mode::On, true, 3)]
    {
        gate.set_timing_mode(mode);
        assert_eq!(app.send("GET").await.1, told, "{mode:?}");
        assert_eq!(gate.stats().requests, requests, "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_while_everything_is_switched() {
    let gate = gate();
    let app = App::new(&gate);
    let clients = (0..4).map(|client| {
        let app = app.clone();
        tokio::spawn(async move {
            for turn in 0..200 {
                let method = if (turn + client) % 10 == 0 { "PUT" } else { "GET" };
                assert!(!app.send(method).await.0.is_empty());
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
        for mode in [Mode::Off, Mode::Shadow, Mode::On] {
            gate.set_cache_mode(mode);
            gate.set_timing_mode(mode);
            let ttl = Duration::from_secs(60);
            let rules = Rules::new().route("/x", if mode == Mode::On { Rule::ttl(ttl) } else { Rule::never() });
            gate.set_rules(rules).expect("rules");
            tokio::task::yield_now().await;
        }
    }
    for client in clients {
        client.await.expect("no panic");
    }
    assert_eq!(gate.stats().in_flight, 0, "whoever was counted in is counted out");
}
