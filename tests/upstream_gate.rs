//! The client-side stack: what callers see of an upstream with a cache, a quota and a credential in front of it.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use tollgate::cache::{Rule, Rules};
use tollgate::upstream::{Credits, Error, Priority};
use tollgate::{Body, Clock, ManualClock, Tollgate, UpstreamGate, UpstreamGateBuilder};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt, service_fn};

type Req = Request<Full<Bytes>>;
type Called = Result<Response<Body<Full<Bytes>>>, Error<&'static str>>;

const MINUTE: Duration = Duration::from_secs(60);

/// An API that counts, says `private` like most do to a bearer token, and knows `If-None-Match`.
struct World {
    hand: ManualClock,
    calls: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
    gate: UpstreamGate,
    service: BoxCloneService<Req, Response<Body<Full<Bytes>>>, Error<&'static str>>,
}

impl World {
    fn new(set: impl FnOnce(UpstreamGateBuilder) -> UpstreamGateBuilder) -> Self {
        let hand = ManualClock::new();
        let gate = set(Tollgate::upstream("market").clock(Clock::Manual(hand.clone()))).build().expect("a gate");
        let (calls, seen) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<HeaderMap>>>::default());
        let (counter, log) = (calls.clone(), seen.clone());
        let inner = service_fn(move |request: Req| {
            let n = counter.fetch_add(1, Ordering::SeqCst);
            log.lock().expect("not poisoned").push(request.headers().clone());
            async move {
                tokio::task::yield_now().await;
                let known = request.headers().contains_key("if-none-match");
                let private = request.headers().contains_key("authorization");
                let response = Response::builder().status(if known { 304 } else { 200 }).header("etag", "\"1\"");
                let response =
                    if private { response.header("cache-control", "private, s-maxage=60") } else { response };
                let response = match request.headers().get("x-says") {
                    Some(said) => response.header("cache-control", said),
                    None => response,
                };
                Ok::<_, &'static str>(response.body(Full::from(format!("answer {n}"))).expect("a response"))
            }
        });
        let service = BoxCloneService::new(gate.layer().layer(inner));
        Self { hand, calls, seen, gate, service }
    }

    async fn send(&self, path: &str, fields: &[(&str, &str)]) -> Called {
        let mut request = Request::get(format!("https://api.example.com{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.service.clone().oneshot(request.body(Full::default()).expect("a request")).await
    }

    async fn get(&self, path: &str) -> String {
        let response = self.send(path, &[]).await.expect("an answer");
        String::from_utf8(response.into_body().collect().await.expect("a body").to_bytes().to_vec()).expect("text")
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn prices() -> Rules {
    Rules::new().route("/prices/{symbol}", Rule::ttl(15 * MINUTE).stale_if_error(24 * 60 * MINUTE).tag("prices"))
}

#[tokio::test]
async fn one_call_serves_all_who_ask_until_it_is_too_old_or_taken_back() {
    let world = World::new(|gate| gate.quota(Credits::per_month(60_000)).cache(prices()));
    let all = futures_util::future::join_all((0..50).map(|_| world.get("/prices/ACME"))).await;
    assert!(all.iter().all(|answer| answer == "answer 0") && world.calls() == 1);
    world.hand.advance(14 * MINUTE);
    assert_eq!(world.get("/prices/ACME").await, "answer 0");
    world.gate.invalidate().tag("prices").await.expect("taken back");
    assert_eq!(world.get("/prices/ACME").await, "answer 1");
    let stats = world.gate.stats();
    assert_eq!((stats.requests, stats.calls, stats.calls_avoided), (52, 2, 50));
    assert_eq!(stats.upstream.windows[0].spent, 2);
    let json = serde_json::to_value(&stats).expect("JSON");
    assert_eq!(
        (&json["efficiency"][0]["endpoint"], &json["efficiency"][0]["avoided_total"]),
        (&"/prices/{symbol}".into(), &50.into())
    );
    world.gate.shutdown().await;
}

#[tokio::test]
async fn a_call_that_is_shed_becomes_a_stale_answer() {
    let world = World::new(|gate| {
        gate.quota(Credits::per_day(2)).cache(prices()).upstream_with(|b| b.share(Priority::Normal, 1.0))
    });
    assert_eq!(
        (world.get("/prices/ACME").await, world.get("/prices/OTHER").await),
        ("answer 0".into(), "answer 1".into())
    );
    world.hand.advance(4 * 60 * MINUTE);
    assert_eq!(world.get("/prices/ACME").await, "answer 0", "hours old, and better than nothing");
    assert!(matches!(world.send("/prices/NEW", &[]).await, Err(Error::Rejected(_))), "nothing is known of it");
    assert_eq!(world.calls(), 2);
    world.hand.advance(24 * 60 * MINUTE);
    world.get("/prices/ACME").await;
    assert_eq!(world.calls(), 3, "a new day");
}

#[tokio::test]
async fn what_has_not_changed_costs_nothing_where_that_is_free() {
    let world = World::new(|gate| {
        gate.quota(Credits::per_day(100)).cache(prices()).upstream_with(|upstream| upstream.free_not_modified())
    });
    for _ in 0..10 {
        assert_eq!(world.get("/prices/ACME").await, "answer 0");
        world.hand.advance(16 * MINUTE);
    }
    let stats = world.gate.stats();
    assert_eq!((world.calls(), stats.upstream.windows[0].spent), (10, 1));
    assert_eq!(stats.upstream.endpoints[0].not_modified, 9);
}

#[tokio::test]
async fn our_own_credential_is_shared_and_a_users_never_is() {
    let world = World::new(|gate| gate.quota(Credits::per_day(100)).cache(prices()).bearer("ours"));
    assert_eq!(world.get("/prices/ACME").await, "answer 0");
    assert_eq!(world.get("/prices/ACME").await, "answer 0", "private to us, and kept for us");
    let theirs = world.send("/prices/ACME", &[("authorization", "Bearer theirs")]).await.expect("an answer");
    assert!(theirs.headers().get("age").is_none() && theirs.headers().get("tollgate-cache-control").is_none());
    let sent: Vec<_> = world.seen.lock().expect("not poisoned").iter().map(|h| h["authorization"].clone()).collect();
    assert_eq!(sent, ["Bearer ours", "Bearer theirs"]);
    assert_eq!(world.get("/prices/ACME").await, "answer 0", "a user's answer is nobody else's");
    assert!(!format!("{:?}", world.gate).contains("Bearer"));
    let hit = world.send("/prices/ACME", &[]).await.expect("an answer");
    assert_eq!(hit.headers()["cache-control"], "private, s-maxage=60", "others are told what the upstream says");
}

#[tokio::test]
async fn rules_decide_where_they_are_said_to() {
    for (decide, calls) in [(false, 2), (true, 1)] {
        let world = World::new(|gate| {
            let gate = gate.cache(prices());
            if decide { gate.rules_decide() } else { gate }
        });
        // The upstream says a minute, the rule fifteen.
        let ask = || async { world.send("/prices/ACME", &[("x-says", "max-age=60")]).await.expect("an answer") };
        ask().await.into_body().collect().await.expect("a body");
        world.hand.advance(10 * MINUTE);
        assert_eq!(ask().await.headers()["cache-control"], "max-age=60", "as the upstream says");
        assert!(ask().await.headers().get("tollgate-cache-control").is_none());
        assert_eq!(world.calls(), calls);
        let theirs = world.send("/prices/ACME", &[("authorization", "Bearer theirs")]).await.expect("an answer");
        assert!(theirs.headers().get("tollgate-cache-control").is_none(), "what passes by is told nothing either");
    }
}

#[tokio::test]
async fn a_credential_that_keeps_everything_out_of_the_cache_is_said() {
    let events = Arc::<Mutex<Vec<String>>>::default();
    let heard = events.clone();
    let world = World::new(|gate| {
        gate.cache(prices()).hook(move |event| heard.lock().expect("not poisoned").push(format!("{event:?}")))
    });
    for _ in 0..150 {
        world.send("/prices/ACME", &[("authorization", "Bearer shared")]).await.expect("an answer");
    }
    let events = events.lock().expect("not poisoned");
    assert!(
        events.iter().any(|event| event.contains("useless-cache-rule") && event.contains("same_for_everyone")),
        "{events:?}"
    );
    assert_eq!(world.calls(), 150);
}

#[tokio::test]
async fn as_the_quota_runs_low_answers_live_longer() {
    let world = World::new(|gate| {
        gate.quota(Credits::per_day(100))
            .cache(prices())
            .upstream_with(|upstream| upstream.share(Priority::Normal, 1.0))
    });
    world.get("/prices/ACME").await;
    for n in 0..79 {
        world.get(&format!("/prices/{n}")).await;
    }
    // A fifth is left for the whole day: answers live five times as long.
    world.hand.advance(60 * MINUTE);
    assert_eq!((world.get("/prices/ACME").await, world.calls()), ("answer 0".to_owned(), 80));
    world.hand.advance(30 * MINUTE);
    world.get("/prices/ACME").await;
    assert_eq!(world.calls(), 81);
}

#[test]
fn mistakes_are_named() {
    let refusal = |gate: UpstreamGateBuilder| gate.build().expect_err("a mistake").to_string();
    assert!(refusal(Tollgate::upstream("")).contains("name"));
    assert!(refusal(Tollgate::upstream("a").price(-1.0)).contains("-1"));
    let secret = refusal(Tollgate::upstream("a").bearer("hunter2\n"));
    assert!(secret.contains("authorization") && !secret.contains("hunter2"), "{secret}");
    assert!(Tollgate::upstream("a").build().is_ok());
}
