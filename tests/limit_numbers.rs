//! The numbers in responses are promises: `X-RateLimit-Remaining`, `-Reset` and `Retry-After`, for every state, cost,
//! number of limits and change of tier, against an exact log of what was admitted.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use support::{Req, Res, World, field, from};
use tollgate::identity::by;
use tollgate::limit::{Check, Limit, LimitStore, LimitStoreStats, Quota, RateLimitLayer, Settlement, Tiers, Verdicts};
use tollgate::store::memory::MemoryLimits;
use tollgate::{Error, MaybeReady, RequestHead, Timestamp};

type Tier = (&'static str, Quota, Option<(u64, u64)>);

const DAY: u64 = 86_400_000;
/// Name, quota, and limit and period in milliseconds of the exact windows.
const TIERS: [Tier; 3] = [
    ("day", Quota::per_day(10), Some((10, DAY))),
    ("min", Quota::per_minute(15), Some((15, 60_000))),
    ("bucket", Quota::per_minute(6).bucket(3), None),
];

#[derive(Clone, Copy, Debug)]
struct Step {
    /// Milliseconds since the step before.
    after: u64,
    user: usize,
    tier: usize,
    cost: u32,
}

fn request(step: Step) -> Req {
    let mut request = from("192.0.2.1", "/");
    let fields = [("x-user", step.user.to_string()), ("x-tier", TIERS[step.tier].0.to_owned())];
    for (name, value) in fields.into_iter().chain([("x-cost", step.cost.to_string())]) {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    request
}

fn world(limits: usize) -> World {
    let cost = |head: &RequestHead<'_>| {
        let cost = head.header("x-cost").and_then(|cost| cost.to_str().ok()?.parse().ok());
        cost.unwrap_or(1)
    };
    let mut tiers = Tiers::new(Quota::per_minute(1));
    for (name, quota, _) in TIERS {
        tiers = tiers.tier(name, quota);
    }
    let tiers = tiers.assign(|head| head.header("x-tier").and_then(|tier| tier.to_str().ok()));
    let users = || Limit::by(by::header("x-user"), Quota::new(40, Duration::from_secs(600))).named("users");
    let all = Limit::global(Quota::per_hour(600).bucket(30)).named("all");
    let mut builder = RateLimitLayer::builder().identify(by::header("x-user"));
    if limits != 1 {
        builder = builder.limit(tiers);
    }
    if limits != 0 {
        builder = builder.limit(users().cost_by(cost));
    }
    if limits == 3 {
        builder = builder.limit(all);
    }
    World::new(|clock| builder.clock(clock).build().expect("a layer"))
}

fn send(world: &World, step: Step) -> Res {
    world.send(request(step)).now_or_never().expect("memory answers at once")
}

/// A world in which these steps were made, and the last response.
fn after(limits: usize, steps: &[Step]) -> (World, Option<Res>) {
    let (world, mut last) = (world(limits), None);
    for step in steps {
        world.hand.advance(Duration::from_millis(step.after));
        last = Some(send(&world, *step));
    }
    (world, last)
}

fn number(response: &Res, name: &str) -> u64 {
    field(response, name).parse().expect("a number")
}

fn admitted(world: &World, step: Step) -> u64 {
    (0..1_000).take_while(|_| send(world, step).status() == 200).count() as u64
}

fn step() -> impl Strategy<Value = Step> {
    let pause = prop_oneof![4 => Just(0), 4 => 0_u64..2_000, 2 => 0_u64..90_000, 1 => 0..2 * DAY];
    (pause, 0..2_usize, 0..TIERS.len(), 1..5_u32).prop_map(|(after, user, tier, cost)| Step { after, user, tier, cost })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_response_promises_is_kept(limits in 0..4_usize, steps in prop::collection::vec(step(), 1..60)) {
        let (promised, response) = after(limits, &steps);
        let (response, step) = (response.expect("a step"), steps[steps.len() - 1]);
        if response.status() == 200 {
            let remaining = number(&response, "x-ratelimit-remaining");
            prop_assert_eq!(admitted(&promised, step), remaining, "as many requests like this one pass now");
            return Ok(());
        }
        prop_assert_eq!(number(&response, "x-ratelimit-remaining"), 0, "none passes now");
        let retry = number(&response, "retry-after");
        let (early, _) = after(limits, &steps);
        early.hand.advance(Duration::from_secs(retry) - Duration::from_secs(1));
        prop_assert_eq!(send(&early, step).status() == 200, false, "not a second earlier");
        promised.hand.advance(Duration::from_secs(retry));
        prop_assert_eq!(send(&promised, step).status().as_u16(), 200, "after {} s", retry);
    }

    #[test]
    fn after_its_reset_a_limit_is_whole(limits in 0..2_usize, steps in prop::collection::vec(step(), 1..40)) {
        let (world, response) = after(limits, &steps);
        let (response, step) = (response.expect("a step"), steps[steps.len() - 1]);
        world.hand.advance(Duration::from_secs(number(&response, "x-ratelimit-reset")));
        let whole = if limits == 1 { 40 / u64::from(step.cost) } else { u64::from(TIERS[step.tier].1.capacity()) };
        prop_assert_eq!(admitted(&world, step), whole);
    }

    /// However users change their tiers, no window ever holds more than its limit.
    #[test]
    fn no_window_holds_more_than_its_limit(limits in 0..4_usize, steps in prop::collection::vec(step(), 1..150)) {
        let world = world(limits);
        let (mut now, mut log) = (0, Vec::new());
        for step in steps {
            world.hand.advance(Duration::from_millis(step.after));
            now += step.after;
            if send(&world, step).status() == 200 {
                log.push((now, step));
            }
            if let (true, Some((limit, period))) = (limits != 1, TIERS[step.tier].2) {
                let counts = |(at, other): &&(u64, Step)| {
                    now - at < period && (other.user, other.tier) == (step.user, step.tier)
                };
                prop_assert!(log.iter().filter(counts).count() as u64 <= limit, "{log:?}");
            }
            if limits != 0 {
                let mine = log.iter().filter(|(at, other)| now - at < 600_000 && other.user == step.user);
                prop_assert!(mine.map(|(_, other)| u64::from(other.cost)).sum::<u64>() <= 40, "{log:?}");
            }
        }
    }
}

/// The limit that admits the fewest more is reported, not the one with the smallest share left.
#[tokio::test]
async fn a_users_own_limit_is_reported_beside_a_large_one_of_the_address() {
    let tiers = Tiers::new(Quota::per_minute(1)).tier("pro", Quota::per_minute(1_000)).assign(|_| Some("pro"));
    let builder = RateLimitLayer::builder()
        .identify(by::header("x-user"))
        .limit(tiers)
        .limit(Limit::per_ip(Quota::per_minute(20_000)));
    let world = World::new(|clock| builder.clock(clock).build().expect("a layer"));
    let of = |user: usize| Step { after: 0, user, tier: 0, cost: 1 };
    for _ in 0..900 {
        send(&world, of(1));
    }
    let first = send(&world, of(2));
    assert_eq!((field(&first, "x-ratelimit-limit"), field(&first, "x-ratelimit-remaining")), ("1000", "999"));
    assert_eq!(admitted(&world, of(2)), 999);
}

#[tokio::test]
async fn a_change_of_tier_and_back_earns_nothing() {
    let world = world(0);
    let of = |tier: usize| Step { after: 0, user: 1, tier, cost: 1 };
    let mut by_day = admitted(&world, of(0));
    for _ in 0..10 {
        admitted(&world, of(1));
        world.advance(61.0);
        admitted(&world, of(1));
        by_day += admitted(&world, of(0));
    }
    assert_eq!(by_day, 10, "a day's worth");
}

/// A shared store that can be away.
struct Away {
    store: MemoryLimits,
    away: AtomicBool,
}

impl LimitStore for Away {
    fn decide(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        if self.away.load(Ordering::SeqCst) {
            return MaybeReady::Ready(Err(Error::store("away", "away")));
        }
        self.store.decide(checks, now)
    }

    fn peek(&self, checks: &[Check], now: Timestamp) -> MaybeReady<Result<Verdicts, Error>> {
        self.store.peek(checks, now)
    }

    fn settle(&self, settlements: &[Settlement], now: Timestamp) -> MaybeReady<Result<(), Error>> {
        self.store.settle(settlements, now)
    }

    fn stats(&self) -> LimitStoreStats {
        self.store.stats()
    }
}

/// The store has seen nothing of what was admitted without it, and this process still counts that.
#[tokio::test]
async fn after_an_outage_the_smaller_rest_of_both_engines_is_reported() {
    let store = Arc::new(Away { store: MemoryLimits::new(100), away: AtomicBool::new(true) });
    let builder = RateLimitLayer::builder().limit(Limit::per_ip(Quota::per_minute(10))).store(store.clone());
    let world = World::new(|clock| builder.clock(clock).build().expect("a layer"));
    let ask = async || world.send(from("192.0.2.1", "/")).await;
    for _ in 0..7 {
        assert_eq!(ask().await.status(), 200);
    }
    store.away.store(false, Ordering::SeqCst);
    for left in ["2", "1", "0"] {
        let response = ask().await;
        assert_eq!((response.status().as_u16(), field(&response, "x-ratelimit-remaining")), (200, left));
    }
    assert_eq!(ask().await.status(), 429);
}
