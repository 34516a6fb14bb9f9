//! How a gate judges itself: scripted situations, and what an operator reads of them.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/redis.rs"]
mod redis;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tollgate::cache::{Rule, Rules};
use tollgate::limit::Limit;
use tollgate::testing::FakePeer;
use tollgate::upstream::{Credits, OnLimit};
use tollgate::{Clock, Event, Health, ManualClock, Tollgate, TollgateBuilder};
use tower::{Layer, ServiceExt, service_fn};

/// A gate in front of a service that takes time by turning the clock, and fails for `/fails`.
struct Gate {
    gate: Tollgate,
    hand: ManualClock,
    events: Arc<Mutex<Vec<String>>>,
}

impl Gate {
    fn new(builder: TollgateBuilder) -> Self {
        let (hand, events) = (ManualClock::new(), Arc::new(Mutex::new(Vec::new())));
        let sink = events.clone();
        let builder = builder.clock(Clock::Manual(hand.clone())).hook(move |event: &Event<'_>| {
            if matches!(event, Event::ObjectiveMissed { .. } | Event::ObjectiveMet { .. }) {
                sink.lock().expect("not poisoned").push(format!("{event:?}"));
            }
        });
        Self { gate: builder.build().expect("a gate"), hand, events }
    }

    /// Sends requests that take so long each.
    async fn send(&self, n: usize, path: &str, took: Duration) {
        let hand = self.hand.clone();
        let service = self.gate.layer().layer(service_fn(move |request: Request<String>| {
            hand.advance(took);
            let fails = request.uri().path() == "/fails";
            let status = if fails { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
            let response = Response::builder().status(status).body("answer".to_owned()).expect("a response");
            async { Ok::<_, Infallible>(response) }
        }));
        for _ in 0..n {
            let request = Request::get(path).header("host", "h").body(String::new()).expect("a request");
            let request = FakePeer::at("192.0.2.1").mark(request);
            drop(service.clone().oneshot(request).await.expect("infallible"));
        }
    }

    fn health(&self) -> Health {
        self.gate.health()
    }
}

const FAST: Duration = Duration::from_millis(5);
const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn the_json_has_the_shape_that_operators_expect() {
    let rules = Rules::new().route("/a", Rule::ttl(Duration::from_secs(60)).same_for_everyone());
    let gate = Gate::new(Tollgate::builder().routes(["/a"]).cache(rules));
    gate.send(40, "/a", FAST).await;
    let json = serde_json::to_value(gate.health()).expect("it serialises");
    assert_eq!((&json["status"], &json["score"], &json["band"]), (&"pass".into(), &100.into(), &"excellent".into()));
    let cache = &json["cache"];
    assert_eq!((&cache["hit_rate"], &cache["health"]), (&0.975.into(), &"excellent".into()));
    assert_eq!(cache["total_operations"], 40);
    let database = &json["database"];
    for key in ["avg_query_time_ms", "slow_queries", "total_queries"] {
        assert!(database[key].is_number(), "{database}");
    }
    assert_eq!((&json["degraded"], &json["reasons"]), (&false.into(), &serde_json::json!([])));
    assert!(json["recommendations"].as_array().is_some_and(Vec::is_empty) && json["timestamp"].is_u64(), "{json}");
}

#[tokio::test]
async fn a_service_that_fails_is_degraded_until_it_has_recovered() {
    let gate = Gate::new(Tollgate::builder());
    gate.send(95, "/", FAST).await;
    assert!(!gate.health().degraded);
    gate.send(15, "/fails", FAST).await;
    let health = gate.health();
    assert_eq!(health.reasons, ["13.6 % of requests fail"]);
    assert_eq!((health.degraded, health.status), (true, "warn"), "the objective is missed too");
    assert!(health.score.is_some_and(|score| score <= 60), "{health:?}");
    gate.health();
    let missed = gate.events.lock().expect("not poisoned").clone();
    assert!(matches!(&missed[..], [one] if one.starts_with("ObjectiveMissed { name: \"errors\"")), "once: {missed:?}");
    gate.hand.advance(Duration::from_secs(400));
    gate.send(100, "/", FAST).await;
    let health = gate.health();
    assert_eq!((health.degraded, health.status), (false, "pass"), "{health:?}");
    assert!(gate.events.lock().expect("not poisoned")[1].starts_with("ObjectiveMet"));
}

#[tokio::test]
async fn a_slow_service_misses_its_objective_and_a_target_of_its_own_decides_what_is_slow() {
    let slow = Duration::from_millis(1_200);
    for (target, state, degraded) in [(500, "missed", true), (1_300, "met", false)] {
        let target = Duration::from_millis(target);
        let gate = Gate::new(Tollgate::builder().health_with(|health| health.latency_target(target)));
        gate.send(40, "/", slow).await;
        let health = gate.health();
        assert_eq!((health.slos[0].state, health.degraded), (state, degraded), "{health:?}");
    }
}

#[tokio::test]
async fn some_routes_have_an_objective_of_their_own() {
    let target = Duration::from_millis(50);
    let routes = ["/search", "/api/{*rest}"];
    let builder = Tollgate::builder().routes(["/search", "/api/{id}", "/other"]);
    let gate = Gate::new(builder.health_with(|health| health.latency_target_on(routes, target)));
    gate.send(30, "/other", Duration::from_millis(200)).await;
    let state = |gate: &Gate| gate.health().slos.last().map(|slo| (slo.name.clone(), slo.state)).expect("an objective");
    assert_eq!(state(&gate), ("latency /search, /api/{*rest}".to_owned(), "unknown"), "the others do not count");
    gate.send(30, "/search", FAST).await;
    assert_eq!(state(&gate).1, "met");
    gate.send(30, "/api/7", Duration::from_millis(200)).await;
    let health = gate.health();
    let objective = health.slos.last().expect("an objective");
    assert_eq!((objective.state, objective.actual), ("missed", Some(0.5)));
    assert_eq!(health.slos[0].state, "met", "that of all routes is");
}

#[tokio::test]
async fn a_hit_target_is_an_objective_and_a_low_ratio_is_advice() {
    let rules = Rules::new().route("/a/{id}", Rule::ttl(Duration::from_secs(60)).same_for_everyone());
    let builder = Tollgate::builder().routes(["/a/{id}"]).cache(rules);
    let gate = Gate::new(builder.health_with(|health| health.hit_target("/a/{id}", 0.5)));
    for id in 0..40 {
        gate.send(1, &format!("/a/{id}"), FAST).await;
    }
    let health = gate.health();
    let objective = health.slos.iter().find(|slo| slo.name == "hits /a/{id}").expect("an objective");
    assert_eq!((objective.state, objective.actual, objective.burn_1h), ("missed", Some(0.0), Some(2.0)));
    assert_eq!(health.recommendations[0].code, "low-hit-ratio");
    assert_eq!(health.recommendations[0].evidence, "hit ratio 0 %, target 50 %, 40 misses");
    gate.send(400, "/a/1", FAST).await;
    let health = gate.health();
    assert!(health.recommendations.is_empty() && health.cache.health == "excellent", "{health:?}");
}

#[tokio::test]
async fn a_limit_that_refuses_many_is_advice_and_one_that_refuses_few_is_not() {
    let gate = Gate::new(Tollgate::builder().limit(Limit::per_ip("90/h").named("api")));
    gate.send(100, "/", FAST).await;
    assert!(gate.health().recommendations.is_empty());
    gate.send(20, "/", FAST).await;
    let advice = &gate.health().recommendations[0];
    assert_eq!((advice.code, advice.evidence.as_str()), ("refuses-many", "30 of 120 requests, at 90/hour"));
    assert!(advice.lines.contains("limit api"));
}

#[tokio::test]
async fn a_quota_is_a_warning_at_85_per_cent_and_a_failure_at_95() {
    let market =
        Tollgate::upstream("market").quota(Credits::per_month(100)).on_limit(OnLimit::Observe).build().expect("a gate");
    let gate = Gate::new(Tollgate::builder().watch_upstream(&market));
    let service = market
        .layer()
        .layer(service_fn(|_: Request<String>| async { Ok::<_, Infallible>(Response::new("answer".to_owned())) }));
    let mut status = Vec::new();
    for calls in [84, 1, 10] {
        for n in 0..calls {
            let request = Request::get(format!("http://market.example/{calls}/{n}")).body(String::new());
            drop(service.clone().oneshot(request.expect("a request")).await.expect("below the quota"));
        }
        let health = gate.health();
        status.push((health.status, health.checks[0].status, health.checks[0].text.clone()));
    }
    let of = |status, text: &str| (status, status, text.to_owned());
    assert_eq!(status, [of("pass", ""), of("warn", "85 % of 100 is used"), of("fail", "95 % of 100 is used")]);
    assert!(gate.gate.report().contains("market month"), "{}", gate.gate.report());
}

/// Asks for the health until it is so, or the test fails.
async fn until(gate: &Gate, what: &str, wanted: impl Fn(&Health) -> bool) -> Health {
    for _ in 0..400 {
        let health = gate.health();
        if wanted(&health) {
            return health;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {what}: {:?}", gate.health());
}

#[tokio::test]
async fn checks_of_the_application_run_in_the_background_and_their_faults_stay_with_them() {
    let (fails, runs) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (answer, count) = (fails.clone(), runs.clone());
    let gate = Gate::new(Tollgate::builder().health_with(move |health| {
        let health = health.check("database", move || {
            count.fetch_add(1, Ordering::SeqCst);
            let fails = answer.load(Ordering::SeqCst);
            async move { if fails { Err("refused") } else { Ok(()) } }
        });
        let panics = || async { if true { panic!("a fault of the check") } else { Ok::<(), String>(()) } };
        health.check("panics", panics).pool("main", || (8, 10)).pool("small", || (7, 10))
    }));
    assert_eq!(gate.health().status, "warn", "not known yet, but for the pool");
    let health =
        until(&gate, "failing", |health| health.checks.iter().filter(|check| check.status == "fail").count() == 2)
            .await;
    let check = |health: &Health, name: &str| {
        let check = health.checks.iter().find(|check| check.name == name).expect("a check").clone();
        (check.status, check.text)
    };
    assert_eq!(health.status, "fail");
    assert_eq!(check(&health, "check database"), ("fail", "refused".to_owned()));
    assert_eq!(check(&health, "check panics"), ("fail", "the check panicked".to_owned()));
    assert_eq!(check(&health, "pool main"), ("warn", "8 of 10 connections are in use".to_owned()));
    assert_eq!(check(&health, "pool small"), ("pass", String::new()));
    assert_eq!(runs.load(Ordering::SeqCst), 1, "the result is used for five seconds");
    fails.store(false, Ordering::SeqCst);
    gate.hand.advance(Duration::from_secs(5));
    until(&gate, "well", |health| check(health, "check database").0 == "pass").await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_fails_after_a_second() {
    let gate = Gate::new(
        Tollgate::builder().health_with(|health| health.check("hangs", std::future::pending::<Result<(), String>>)),
    );
    assert_eq!(gate.health().status, "pass");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let health = gate.health();
    assert_eq!((health.status, health.checks[3].text.as_str()), ("fail", "no answer within 1 s"));
}

#[tokio::test]
async fn a_store_that_is_down_is_a_warning_since_requests_continue() {
    if !redis::wanted() {
        return;
    }
    let server = redis::RedisServer::start();
    let rules = Rules::new().route("/{*rest}", Rule::ttl(Duration::from_secs(60)).same_for_everyone());
    let limit = Limit::per_ip("1000/h");
    let gate = Tollgate::builder().routes(["/{*rest}"]).cache(rules).limit(limit).redis(server.url().as_str());
    let gate = Gate::new(gate);
    assert_eq!(gate.health().status, "pass", "it may connect first");
    gate.send(1, "/a", FAST).await;
    let is_up = || gate.gate.stats().cache[1].up && gate.gate.stats().remote.is_some_and(|remote| remote.up);
    until(&gate, "up", |_| is_up()).await;
    server.kill();
    for n in 0..40 {
        gate.send(1, &format!("/b/{n}"), FAST).await;
    }
    let health = until(&gate, "degraded", |health| health.degraded).await;
    assert_eq!(health.status, "warn");
    assert!(health.reasons.iter().any(|reason| reason.ends_with("is unavailable: failing open")), "{health:?}");
    assert_eq!(health.recommendations[0].code, "store-down");
    assert!(health.parts.iter().any(|part| part.name == "stores" && part.value.is_some_and(|value| value < 1.0)));
}

#[tokio::test]
async fn the_report_is_aligned_text_with_the_numbers_of_the_day() {
    let rules = Rules::new().route("/a", Rule::ttl(Duration::from_secs(3_600)).same_for_everyone());
    let builder = Tollgate::builder().routes(["/a", "/b"]).cache(rules).cost_per_call(0.5);
    let gate = Gate::new(builder.limit(Limit::per_ip("1000/h").named("api")));
    gate.send(11, "/a", Duration::from_millis(100)).await;
    gate.health();
    gate.hand.advance(Duration::from_secs(7_200));
    gate.send(4, "/b", FAST).await;
    let report = gate.gate.report();
    let line = |start: &str| {
        let found = report.lines().find(|line| line.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("no {start}: {report}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(report.lines().next(), Some("Tollgate, the last 2 h"));
    assert_eq!(line("requests"), "requests 15");
    assert_eq!(line("answered from"), "answered from the cache 10 of 11 (90.9 %)");
    assert_eq!(line("calls avoided"), "calls avoided 10, 1 s of waiting, 5.00 in money");
    assert_eq!(line("/a"), "/a 10 1 90.9 % 70.0 %");
    assert_eq!(line("api"), "api 1000/hour 15 0 0");
}

#[test]
fn a_target_that_cannot_be_met_or_missed_is_an_error() {
    for (builder, reason) in [
        (Tollgate::builder().health_with(|health| health.error_target(0.0)), "between 0 and 1, not 0"),
        (Tollgate::builder().health_with(|health| health.error_target(f64::NAN)), "not NaN"),
        (Tollgate::builder().health_with(|health| health.hit_target("/a", 1.0)), "\"/a\""),
        (Tollgate::builder().health_with(|health| health.latency_target(Duration::ZERO)), "0 s"),
        (Tollgate::builder().health_with(|health| health.latency_target_on("GET /a", HOUR)), "leave the method out"),
    ] {
        let error = builder.build().expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
}
