//! Calls of an upstream through [`UpstreamLayer`]: what is counted, refused, waited for and told.
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and asks the paused clock")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tollgate::Circuit;
use tollgate::upstream::{
    CallPace, CreditStore, Credits, Error, MemoryCredits, ObservedLimits, OnLimit, Priority, RejectedReason,
    UpstreamBuilder, UpstreamLayer,
};
use tollgate::{Body, Clock, ManualClock, MaybeReady};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt, service_fn};

type Req = Request<Full<Bytes>>;
type Res = Response<Full<Bytes>>;
type Called = Result<Response<Body<Full<Bytes>>>, Error<&'static str>>;

/// An upstream that plays a script, behind a layer, with a clock to turn.
struct World {
    hand: ManualClock,
    calls: Arc<AtomicUsize>,
    events: Arc<Mutex<Vec<String>>>,
    layer: UpstreamLayer,
    service: BoxCloneService<Req, Response<Body<Full<Bytes>>>, Error<&'static str>>,
}

impl World {
    fn new(
        set: impl FnOnce(UpstreamBuilder) -> UpstreamBuilder,
        script: impl Fn(usize, &Req) -> Result<Res, &'static str> + Send + Sync + 'static,
    ) -> Self {
        let (hand, calls, events) =
            (ManualClock::new(), Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<String>>>::default());
        let heard = events.clone();
        let builder = UpstreamLayer::builder("api").clock(Clock::Manual(hand.clone()));
        let builder = builder.hook(move |event| heard.lock().expect("not poisoned").push(format!("{event:?}")));
        let layer = set(builder).build().expect("a layer");
        let (counter, script) = (calls.clone(), Arc::new(script));
        let inner = service_fn(move |request: Req| {
            let n = counter.fetch_add(1, Ordering::SeqCst);
            let script = script.clone();
            async move { script(n, &request) }
        });
        let service = BoxCloneService::new(layer.layer(inner));
        Self { hand, calls, events, layer, service }
    }

    async fn get(&self, path: &str) -> Called {
        self.send(path, Priority::Normal).await
    }

    async fn send(&self, path: &str, priority: Priority) -> Called {
        let mut request =
            Request::get(format!("http://api.example.com{path}")).body(Full::default()).expect("a request");
        request.extensions_mut().insert(priority);
        self.service.clone().oneshot(request).await
    }

    /// How many of `n` calls are made, one after the other.
    async fn made(&self, n: usize) -> usize {
        let mut made = 0;
        for _ in 0..n {
            made += usize::from(self.get("/").await.is_ok());
        }
        made
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn events(&self, kind: &str) -> Vec<String> {
        self.events.lock().expect("not poisoned").iter().filter(|event| event.starts_with(kind)).cloned().collect()
    }
}

fn ok(_: usize, _: &Req) -> Result<Res, &'static str> {
    Ok(Response::new(Full::from("ok")))
}

fn with(status: u16, fields: &[(&str, &str)]) -> Result<Res, &'static str> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    Ok(response.body(Full::default()).expect("a response"))
}

fn reason(called: Called) -> (RejectedReason, u64) {
    match called {
        Err(Error::Rejected(shed)) => (shed.reason, shed.retry_after.as_secs()),
        other => unreachable!("not shed: {:?}", other.map(|response| response.status())),
    }
}

#[tokio::test]
async fn what_a_quota_holds_is_called_and_what_goes_beyond_is_shed_with_the_time_to_come_back() {
    let world = World::new(|builder| builder.quota(Credits::per_minute(20)), ok);
    assert_eq!(world.made(25).await, 18, "nine tenths for ordinary calls");
    assert_eq!(reason(world.get("/").await), (RejectedReason::Quota, 60));
    assert!(world.send("/", Priority::High).await.is_ok());
    assert_eq!(reason(world.send("/", Priority::Low).await).0, RejectedReason::Quota);
    world.hand.advance(Duration::from_secs(60));
    assert_eq!((world.made(1).await, world.calls()), (1, 20));
    let stats = world.layer.stats();
    assert_eq!((stats.calls, stats.credits, stats.rejections["quota"]), (20, 20, 9));
    assert_eq!((stats.windows[0].spent, stats.windows[0].remaining, stats.circuit), (1, 19, "closed"));
    let json = serde_json::to_value(&stats).expect("JSON");
    assert_eq!((&json["upstream"], &json["windows"][0]["limit"]), (&"api".into(), &20.into()));
}

#[tokio::test]
async fn a_call_costs_what_its_endpoint_costs() {
    let world = World::new(
        |builder| {
            let builder = builder.quota(Credits::per_day(100)).routes(["/search", "/items/{id}"]);
            builder.cost(|head| if head.uri().path() == "/search" { 5 } else { 1 })
        },
        ok,
    );
    for path in ["/search", "/items/1", "/items/2", "/else"] {
        world.get(path).await.expect("within the quota");
    }
    let stats = world.layer.stats();
    let endpoints: Vec<_> = stats.endpoints.iter().map(|e| (&*e.endpoint, e.calls, e.credits)).collect();
    assert_eq!(endpoints, [("/search", 1, 5), ("/items/{id}", 2, 2), ("unmatched", 1, 1)]);
    assert_eq!(stats.windows[0].spent, 8);
    let rows = world.layer.report().rows;
    assert_eq!(rows.iter().map(|row| &*row.endpoint).collect::<Vec<_>>(), ["/search", "/items/{id}", "unmatched"]);
}

#[tokio::test]
async fn what_the_upstream_says_binds_without_a_quota_of_ours() {
    let world = World::new(
        |builder| builder.share(Priority::Normal, 1.0),
        |n, _| {
            let left = 2_usize.saturating_sub(n).to_string();
            with(200, &[("x-ratelimit-limit", "3"), ("x-ratelimit-remaining", &left), ("x-ratelimit-reset", "30")])
        },
    );
    assert_eq!((world.made(5).await, world.calls()), (3, 3), "asked no more once nothing remained");
    assert_eq!(reason(world.get("/").await), (RejectedReason::Quota, 30));
    let learned = &world.layer.stats().learned[0];
    assert_eq!((learned.limit, learned.spent, learned.remaining), (3, 3, 0));
    world.hand.advance(Duration::from_secs(31));
    assert_eq!(world.made(1).await, 1);
}

#[tokio::test]
async fn refused_with_a_time_to_wait_nobody_calls_before() {
    let script = |n: usize, _: &Req| if n == 0 { with(403, &[("retry-after", "60")]) } else { with(200, &[]) };
    let world = World::new(|builder| builder, script);
    assert_eq!(world.get("/").await.expect("an answer").status(), StatusCode::FORBIDDEN);
    assert_eq!(reason(world.get("/other").await), (RejectedReason::RetryAfter, 60));
    world.hand.advance(Duration::from_secs(60));
    assert_eq!(world.made(1).await, 1);
}

#[tokio::test]
async fn limits_told_inside_a_200_are_read_while_the_body_goes_by() {
    let world = World::new(
        |builder| {
            builder.limits_in_body(64, |parts, body| {
                let told = parts.status == 200 && body.starts_with(b"{\"error\":\"too many\"");
                told.then(|| ObservedLimits::new().retry_after(Duration::from_secs(9)))
            })
        },
        |n, _| {
            let body = if n == 1 {
                "{\"error\":\"too many\", \"more\": \"than is looked at, by far, by far, by far\"}"
            } else {
                "{}"
            };
            Ok(Response::new(Full::from(body)))
        },
    );
    world.get("/").await.expect("an answer").into_body().collect().await.expect("a body");
    let body = world.get("/").await.expect("an answer").into_body().collect().await.expect("a body").to_bytes();
    assert!(body.ends_with(b"by far\"}"), "unchanged");
    assert_eq!(reason(world.get("/").await), (RejectedReason::RetryAfter, 9));
}

#[tokio::test]
async fn thresholds_are_told_once_per_crossing_and_window() {
    let world = World::new(|builder| builder.quota(Credits::per_minute(100)).on_limit(OnLimit::Observe), ok);
    assert_eq!(world.made(150).await, 150);
    let told = world.events("QuotaUsed");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("percent: 80, spent: 80, limit: 100") && told[1].contains("percent: 90, spent: 90"),
        "{told:?}"
    );
    assert_eq!((world.layer.stats().would_reject, world.events("CallRejected").len()), (60, 0));
    world.hand.advance(Duration::from_secs(60));
    world.made(85).await;
    assert_eq!(world.events("QuotaUsed").len(), 3);
}

#[tokio::test]
async fn a_failing_upstream_is_left_alone_until_it_answers_again() {
    let world = World::new(
        |builder| builder.circuit(Circuit::default().failures(3)),
        |n, _| if n < 3 { Err("refused") } else { with(200, &[]) },
    );
    for _ in 0..3 {
        assert!(matches!(world.get("/").await, Err(Error::Inner("refused"))), "the client's own error, untouched");
    }
    assert_eq!(reason(world.get("/").await).0, RejectedReason::CircuitOpen);
    assert_eq!((world.calls(), world.events("CircuitOpened").len(), world.layer.stats().circuit), (3, 1, "open"));
    world.hand.advance(Duration::from_secs(1));
    assert_eq!((world.made(2).await, world.events("CircuitClosed").len()), (2, 1));
}

#[tokio::test]
async fn a_503_that_names_a_time_opens_the_circuit_until_then() {
    let world = World::new(|builder| builder, |n, _| with(if n == 0 { 503 } else { 200 }, &[("retry-after", "120")]));
    assert_eq!(world.get("/").await.expect("an answer").status(), 503);
    assert_eq!(reason(world.get("/").await), (RejectedReason::CircuitOpen, 120));
    world.hand.advance(Duration::from_secs(120));
    assert_eq!(world.made(3).await, 3);
}

#[tokio::test]
async fn not_modified_costs_nothing_where_it_is_free() {
    let world = World::new(|builder| builder.quota(Credits::per_hour(10)).free_not_modified(), |_, _| with(304, &[]));
    assert_eq!(world.made(100).await, 100);
    let stats = world.layer.stats();
    assert_eq!((stats.windows[0].spent, stats.credits, stats.endpoints[0].not_modified), (0, 0, 100));
}

#[tokio::test]
async fn a_call_whose_client_left_stays_spent() {
    let layer = UpstreamLayer::with_quota("api", Credits::per_hour(10)).expect("a layer");
    let service = layer.layer(service_fn(|_: Req| std::future::pending::<Result<Res, &'static str>>()));
    let call = service.oneshot(Request::new(Full::default()));
    assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
    assert_eq!(layer.stats().windows[0].spent, 1);
}

#[tokio::test]
async fn caches_hear_what_is_left() {
    let world = World::new(|builder| builder.quota(Credits::per_hour(100)).share(Priority::Normal, 1.0), ok);
    let budget = world.layer.budget();
    let now = Clock::Manual(world.hand.clone()).now();
    assert_eq!(budget.effect(now).stretch, 1.0);
    world.made(80).await;
    let effect = budget.effect(now);
    assert!((4.9..5.1).contains(&effect.stretch) && !effect.prefer_stale, "a fifth is left for an hour: {effect:?}");
    world.made(20).await;
    assert!(budget.effect(now).prefer_stale);
    assert_eq!(budget.effect(now + Duration::from_secs(3_600)).stretch, 1.0);
}

#[tokio::test(start_paused = true)]
async fn what_may_wait_waits_for_its_turn_and_nothing_longer_than_its_bound() {
    let most = Duration::from_millis(700);
    let world = World::new(|builder| builder.on_limit(OnLimit::Wait(most)).pace(CallPace::per_second(10)), ok);
    let start = tokio::time::Instant::now();
    let calls = (0..50).map(|_| async {
        let made = world.get("/").await.is_ok();
        (made, start.elapsed())
    });
    let ended = futures_util::future::join_all(calls).await;
    assert_eq!(ended.iter().filter(|(made, _)| *made).count(), 8, "one at once, one each tenth of a second");
    assert!(ended.iter().all(|(_, after)| *after <= most + Duration::from_millis(5)), "{ended:?}");
    assert_eq!(world.layer.stats().rejections["paced"], 42);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_window_is_called_when_it_begins_if_that_is_soon_enough() {
    let world = World::new(
        |builder| {
            builder
                .quota(Credits::per_minute(1))
                .share(Priority::Normal, 1.0)
                .on_limit(OnLimit::Wait(Duration::from_secs(20)))
        },
        ok,
    );
    assert_eq!(world.made(1).await, 1);
    assert_eq!(reason(world.get("/").await), (RejectedReason::Quota, 60), "too late: at once");
    world.hand.advance(Duration::from_secs(45));
    let start = tokio::time::Instant::now();
    let waiting = world.get("/");
    let turning = async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.hand.advance(Duration::from_secs(1));
        }
    };
    let (called, ()) = futures_util::future::join(waiting, turning).await;
    assert!(called.is_ok() && start.elapsed() <= Duration::from_secs(21));
    assert_eq!(world.layer.stats().waits, 1);
}

/// A service in front of the client that is full: what is shed must not wait for it.
#[tokio::test]
async fn what_is_shed_neither_waits_for_the_client_nor_touches_it() {
    let hand = ManualClock::new();
    let layer = UpstreamLayer::builder("api").quota(Credits::per_hour(1)).clock(Clock::Manual(hand)).build();
    let layer = layer.expect("a layer");
    let slow = service_fn(|_: Req| std::future::pending::<Result<Res, &'static str>>());
    let service = layer.layer(tower::limit::ConcurrencyLimit::new(slow, 1));
    let ask = || {
        let mut request: Req = Request::new(Full::default());
        request.extensions_mut().insert(Priority::High);
        service.clone().oneshot(request)
    };
    let first = tokio::spawn(ask());
    tokio::task::yield_now().await;
    let error = tokio::time::timeout(Duration::from_secs(5), ask()).await.expect("at once").expect_err("a rejection");
    assert_eq!(error.rejected().map(|rejected| rejected.reason), Some(RejectedReason::Quota));
    first.abort();
}

#[tokio::test]
async fn a_restart_and_a_second_node_forget_nothing() {
    let ledger = Arc::new(MemoryCredits::default());
    let node = || {
        let ledger = ledger.clone();
        World::new(move |b| b.quota(Credits::per_hour(100)).share(Priority::Normal, 1.0).store(ledger), ok)
    };
    let first = node();
    assert_eq!(first.made(30).await, 30);
    drop(first);
    let (second, third) = (node(), node());
    let (mut made, mut turn) = (0, 0);
    while turn < 100 {
        made += second.made(1).await + third.made(1).await;
        turn += 1;
    }
    assert!((40..=70).contains(&made), "never more than 70, and no more lost than blocks: {made}");
    assert!(second.layer.stats().windows[0].spent >= 100 - 30);
    second.layer.shutdown().await;
    third.layer.shutdown().await;
    let last = node();
    made += last.made(100).await;
    assert!((60..=70).contains(&made), "what was given back may be spent: {made}");
}

/// A store that answers only when it is told to.
#[derive(Default)]
struct Away {
    store: MemoryCredits,
    away: std::sync::atomic::AtomicBool,
}

impl CreditStore for Away {
    fn book(
        &self,
        bookings: &[tollgate::upstream::Booking],
    ) -> MaybeReady<Result<Vec<tollgate::upstream::Balance>, tollgate::Error>> {
        if self.away.load(Ordering::SeqCst) {
            return MaybeReady::Ready(Err(tollgate::Error::store("away", "away")));
        }
        self.store.book(bookings)
    }
}

#[tokio::test]
async fn while_the_store_is_away_calls_are_made_and_booked_later() {
    let store = Arc::new(Away::default());
    let shared = store.clone();
    let world = World::new(move |b| b.quota(Credits::per_hour(1_000)).store(shared), ok);
    assert_eq!(world.made(10).await, 10);
    store.away.store(true, Ordering::SeqCst);
    assert_eq!(world.made(100).await, 100);
    let stats = world.layer.stats();
    assert!(stats.store_up == Some(false) && stats.unbooked > 80, "{stats:?}");
    assert_eq!(world.events("StoreFailed").len(), 1, "asked once a second");
    store.away.store(false, Ordering::SeqCst);
    world.hand.advance(Duration::from_secs(2));
    assert_eq!(world.made(1).await, 1);
    let stats = world.layer.stats();
    assert_eq!((stats.store_up, stats.unbooked, stats.windows[0].spent), (Some(true), 0, 111));
}

#[test]
fn mistakes_are_named() {
    let refusal = |builder: UpstreamBuilder| builder.build().expect_err("a mistake").to_string();
    let builder = || UpstreamLayer::builder("api");
    for (builder, named) in [
        (UpstreamLayer::builder(""), "name"),
        (builder().quota(Credits::per_day(0)), "0 per day"),
        (builder().quota(Credits::per_day(5)).quota(Credits::per_day(6)), "6 per day"),
        (builder().alert_at([80, 101]), "101"),
        (builder().share(Priority::Low, 1.5), "1.5"),
        (builder().pace(CallPace::per_second(0)), "0 calls"),
        (builder().circuit(Circuit::default().percent(101)), "101"),
        (builder().routes(["/a/{x}", "/a/{y}"]), "/a/{y}"),
    ] {
        let refusal = refusal(builder);
        assert!(refusal.contains(named), "{refusal}");
    }
    assert!(UpstreamLayer::builder("api").circuit(None).build().is_ok());
}

/// A store that takes its time.
struct Slow(Duration, MemoryCredits);

impl CreditStore for Slow {
    fn book(
        &self,
        bookings: &[tollgate::upstream::Booking],
    ) -> MaybeReady<Result<Vec<tollgate::upstream::Balance>, tollgate::Error>> {
        let (wait, answer) = (self.0, self.1.book(bookings));
        MaybeReady::Pending(Box::pin(async move {
            tokio::time::sleep(wait).await;
            answer.await
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_store_longer_than_its_patience() {
    for (store, mode, most) in [
        (200, OnLimit::Reject, 250),
        (5_000, OnLimit::Reject, 250),
        (200, OnLimit::Wait(Duration::from_millis(40)), 40),
    ] {
        let store = Arc::new(Slow(Duration::from_millis(store), MemoryCredits::default()));
        // A small limit: each block is one call, so that each stands in line for the store.
        let world = World::new(
            move |b| b.quota(Credits::per_hour(30)).share(Priority::Normal, 1.0).on_limit(mode).store(store),
            ok,
        );
        let start = tokio::time::Instant::now();
        let calls = (0..20).map(|_| async { (world.get("/").await.is_ok(), start.elapsed()) });
        for (made, after) in futures_util::future::join_all(calls).await {
            assert!(made && after <= Duration::from_millis(most + 5), "{mode:?}: {made} after {after:?}");
        }
        let stats = world.layer.stats();
        assert!(stats.windows[0].spent >= 20, "{stats:?}");
    }
}
