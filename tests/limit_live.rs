//! Limits that change while requests go on: quotas, switches, and tiers that somebody else knows.
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and reads the paused clock")]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{Req, World, field, from};
use tollgate::Mode;
use tollgate::identity::{Identity, Key, KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Draft, Limit, Quota, RateLimitLayer, TierLookup, Tiers};

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct UserId(u64);

impl Identity for UserId {
    fn key(&self) -> Key<'_> {
        Key::number("user", self.0)
    }
}

fn user(id: u64) -> Req {
    let mut request = from("192.0.2.1", "/");
    request.extensions_mut().insert(UserId(id));
    request
}

/// Who knows the tiers: answers late, errs, panics or hangs as told.
#[derive(Clone, Default)]
struct Plans {
    plans: Arc<Mutex<HashMap<u64, &'static str>>>,
    asked: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    hangs: Arc<AtomicBool>,
    panics: Arc<AtomicBool>,
}

impl Plans {
    fn set(&self, id: u64, plan: &'static str) {
        self.plans.lock().expect("not poisoned").insert(id, plan);
    }

    fn lookup(&self) -> TierLookup {
        let plans = self.clone();
        TierLookup::new(
            |head| head.extension::<UserId>().copied(),
            move |user: UserId| {
                let plans = plans.clone();
                async move {
                    plans.asked.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    while plans.hangs.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    assert!(!plans.panics.load(Ordering::SeqCst), "a panic of whoever is asked");
                    if plans.fails.load(Ordering::SeqCst) {
                        return Err("the database is down");
                    }
                    Ok(plans.plans.lock().expect("not poisoned").get(&user.0).map(|plan| (*plan).to_owned()))
                }
            },
        )
    }

    fn world(&self, events: &Arc<AtomicUsize>) -> World {
        let events = events.clone();
        let tiers = Tiers::default().lookup(self.lookup());
        let identity = by::extension::<UserId>().or(by::client_ip(TrustedProxies::none()));
        let builder = RateLimitLayer::builder().identify(identity).limit(tiers).hook(move |event| {
            events.fetch_add(usize::from(format!("{event:?}").starts_with("StoreFailed")), Ordering::SeqCst);
        });
        World::new(|clock| builder.clock(clock).build().expect("a layer"))
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn limit_of(world: &World, id: u64) -> String {
    field(&world.send(user(id)).await, "x-ratelimit-limit").to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_tier_is_looked_up_once_and_remembered() {
    let (plans, events) = (Plans::default(), Arc::default());
    plans.set(1, "pro");
    let world = plans.world(&events);
    let all: Vec<_> = futures_util::future::join_all((0..50).map(|_| limit_of(&world, 1))).await;
    assert!(all.iter().all(|limit| limit == "1000"), "{all:?}");
    assert_eq!(plans.asked(), 1, "fifty at once are one question");
    assert_eq!(limit_of(&world, 2).await, "20", "an unknown user is anonymous");
    assert_eq!(limit_of(&world, 2).await, "20");
    assert_eq!(plans.asked(), 2, "that nothing is known is known too");
    plans.set(1, "enterprise");
    world.advance(59.0);
    assert_eq!(limit_of(&world, 1).await, "1000");
    world.advance(2.0);
    assert_eq!(limit_of(&world, 1).await, "1000", "asked again meanwhile, waited for by nobody");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((limit_of(&world, 1).await.as_str(), plans.asked()), ("10000", 3));
    assert_eq!(events.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn while_nobody_answers_the_last_known_tier_stays() {
    let (plans, events) = (Plans::default(), Arc::default());
    plans.set(1, "pro");
    let world = plans.world(&events);
    assert_eq!(limit_of(&world, 1).await, "1000");
    plans.fails.store(true, Ordering::SeqCst);
    for _ in 0..100 {
        world.advance(61.0);
        assert_eq!(limit_of(&world, 1).await, "1000");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.advance(86_400.0);
    assert_eq!(limit_of(&world, 1).await, "1000", "a day later too");
    assert_eq!(limit_of(&world, 2).await, "20", "who never had one is anonymous");
    let before = plans.asked();
    for _ in 0..100 {
        assert_eq!(limit_of(&world, 2).await, "20");
    }
    assert_eq!(plans.asked(), before, "and is not asked for again at once");
    assert!((2..=102).contains(&events.load(Ordering::SeqCst)), "told, but not for each request");
    plans.fails.store(false, Ordering::SeqCst);
    plans.set(2, "free");
    world.advance(2.0);
    assert_eq!(limit_of(&world, 2).await, "100");
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_hangs_or_panics_costs_a_request_its_deadline_at_most() {
    for panics in [false, true] {
        let (plans, events) = (Plans::default(), Arc::default());
        let world = plans.world(&events);
        plans.hangs.store(!panics, Ordering::SeqCst);
        plans.panics.store(panics, Ordering::SeqCst);
        let start = tokio::time::Instant::now();
        assert_eq!(limit_of(&world, 1).await, "20");
        assert!(start.elapsed() <= Duration::from_millis(50), "{:?}", start.elapsed());
        let before = plans.asked();
        let start = tokio::time::Instant::now();
        for _ in 0..10 {
            assert_eq!(limit_of(&world, 1).await, "20");
        }
        assert_eq!((start.elapsed(), plans.asked()), (Duration::ZERO, before), "panics: {panics}");
        plans.hangs.store(false, Ordering::SeqCst);
        plans.panics.store(false, Ordering::SeqCst);
        plans.set(1, "pro");
        world.advance(2.0);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(limit_of(&world, 1).await, "1000", "panics: {panics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_identities_are_asked_for_and_forgotten() {
    let (plans, events) = (Plans::default(), Arc::default());
    let world = plans.world(&events);
    for chunk in 0..100 {
        let asked = (0..1_000).map(|i| limit_of(&world, chunk * 1_000 + i + 1));
        assert!(futures_util::future::join_all(asked).await.iter().all(|limit| limit == "20"));
    }
    assert!(plans.asked() <= 100_000);
}

#[tokio::test]
async fn a_quota_changes_and_nobody_forgets_what_was_used() {
    let layer = RateLimitLayer::builder().limit(Tiers::default()).limit(Limit::per_ip(Quota::per_hour(50)).named("ip"));
    let mut handle = None;
    let world = World::new(|clock| {
        let layer = layer.clock(clock).ietf_fields(Draft::Eleven).build().expect("a layer");
        handle = Some(layer.clone());
        layer
    });
    let handle = handle.expect("a layer");
    assert_eq!(world.admitted(10, || from("192.0.2.1", "/")).await, 10);
    handle.set_quota("anonymous", Quota::per_minute(200)).expect("a tier");
    let response = world.send(from("192.0.2.1", "/")).await;
    // Half of 20 were used, so half of 200 are; of the other limit ten of fifty, which admits fewer more.
    assert!(field(&response, "ratelimit").contains("\"anonymous\";r=99;"), "{response:?}");
    assert_eq!((field(&response, "x-ratelimit-limit"), field(&response, "x-ratelimit-remaining")), ("50", "39"));
    assert!(field(&response, "ratelimit-policy").contains("\"anonymous\";q=200;w=60"));
    assert_eq!(handle.stats().limits[0].quota, "200/min");
    handle.set_quota("ip", Quota::per_hour(11)).expect("a limit");
    // Eleven of fifty are two and a half of eleven, rounded up.
    let response = world.send(from("192.0.2.1", "/")).await;
    assert!(field(&response, "ratelimit").contains("\"anonymous\";r=98;"), "{response:?}");
    assert_eq!((field(&response, "x-ratelimit-limit"), field(&response, "x-ratelimit-remaining")), ("11", "7"));
    handle.set_quota("anonymous", Quota::per_minute(20_000)).expect("a tier");
    handle.set_quota("ip", Quota::per_hour(6)).expect("a limit");
    let response = world.send(from("192.0.2.1", "/")).await;
    assert_eq!(field(&response, "x-ratelimit-limit"), "6");
    for (name, quota, why) in
        [("nobody", Quota::per_minute(1), "unknown limit"), ("ip", Quota::per_minute(0), "at least 1")]
    {
        assert!(handle.set_quota(name, quota).expect_err(name).to_string().contains(why));
    }
}

#[tokio::test]
async fn limits_are_switched_off_and_on_and_to_looking_only() {
    let mut handle = None;
    let world = World::new(|clock| {
        let builder = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_hour(5))).clock(clock);
        let layer = builder.build().expect("a layer");
        handle = Some(layer.clone());
        layer
    });
    let handle = handle.expect("a layer");
    let ask = || from("192.0.2.1", "/");
    assert_eq!(world.admitted(3, ask).await, 3);
    handle.set_mode(Mode::Off);
    let response = world.send(ask()).await;
    assert_eq!(field(&response, "x-ratelimit-limit"), "inner", "as if it were not there");
    assert_eq!(world.admitted(100, ask).await, 100);
    handle.set_mode(Mode::Shadow);
    assert_eq!(world.admitted(10, ask).await, 10);
    assert_eq!(handle.stats().limits[0].would_refuse, 8, "counted, two of the ten fitted");
    handle.set_mode(Mode::On);
    assert_eq!(world.admitted(10, ask).await, 0, "what was used while looking is used");
}
