//! Caches that spare a budget: entries live longer as it runs low, and nothing is served that may not be.

#[path = "support/cache_world.rs"]
mod cache_world;
#[path = "support/data_world.rs"]
mod data_world;

use std::time::Duration;

use cache_world::{World as Web, reply};
use data_world::World;
use tollgate::cache::Profile;
use tollgate::{Allowance, Budget, BudgetPolicy, Clock, ManualClock};

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// This share is left, of a window of which half is over.
fn left(budget: &Budget, share: f64, clock: &ManualClock) {
    let (now, day) = (Clock::Manual(clock.clone()).now(), seconds(86_400));
    budget.set(&[Allowance::new(share, day, now + day / 2)]);
}

#[tokio::test]
async fn a_typed_value_lives_longer_as_the_budget_runs_low() {
    let budget = Budget::default();
    let world = World::new(|space| space.ttl(seconds(60)).budget(budget.clone()));
    world.load("a").await.expect("loaded");
    world.clock.advance(seconds(60));
    // 0.125 for half of the window: a quarter of the pace, so four times the life.
    left(&budget, 0.125, &world.clock);
    assert_eq!(*world.load("a").await.expect("spared"), 1);
    world.clock.advance(seconds(179));
    left(&budget, 0.125, &world.clock);
    assert_eq!(*world.load("a").await.expect("spared"), 1);
    assert_eq!(world.cached.get("a").await.as_deref(), Some(&1));
    assert_eq!((world.stats().stale, world.stats().budget_stretched, world.stats().hits), (3, 3, 0));
    world.clock.advance(seconds(1));
    left(&budget, 0.125, &world.clock);
    assert_eq!(*world.load("a").await.expect("loaded"), 2, "its life is over");
    // What was taken back is not spared.
    world.clock.advance(seconds(61));
    left(&budget, 0.125, &world.clock);
    world.cached.invalidate().all().await.expect("here");
    assert_eq!(*world.load("a").await.expect("loaded"), 3);
    // Nor anything, once the budget is whole.
    world.clock.advance(seconds(61));
    left(&budget, 1.0, &world.clock);
    assert_eq!(*world.load("a").await.expect("loaded"), 4);
}

#[tokio::test]
async fn on_its_last_tenth_what_is_stale_is_served_and_nothing_is_refreshed_ahead() {
    let budget = Budget::new(BudgetPolicy::default()).expect("a policy");
    let world = World::new(|space| {
        space.ttl(seconds(100)).refresh_ahead(0.5).stale_while_revalidate(seconds(2_000)).budget(budget.clone())
    });
    world.load("a").await.expect("loaded");
    left(&budget, 0.4, &world.clock);
    world.clock.advance(seconds(60));
    assert_eq!(*world.load("a").await.expect("fresh"), 1);
    world.quiet().await;
    assert_eq!(world.loads("a"), 1, "not ahead");
    left(&budget, 0.09, &world.clock);
    world.clock.advance(seconds(2_000));
    left(&budget, 0.09, &world.clock);
    assert_eq!(*world.load("a").await.expect("stale"), 1);
    world.quiet().await;
    assert_eq!((world.loads("a"), world.stats().budget_stretched), (1, 1), "not behind its back either");
    world.clock.advance(seconds(40));
    assert_eq!(*world.load("a").await.expect("loaded"), 2, "past its window somebody waits");
}

#[tokio::test]
async fn a_response_lives_longer_as_the_budget_runs_low_and_says_so() {
    let budget = Budget::default();
    let web = Web::with(
        |cache| cache.budget(budget.clone()),
        |asked| async move { Ok(reply(&[("cache-control", "max-age=60"), ("cache-tag", "t")], asked.call.to_string())) },
    );
    web.get("/a").await;
    web.advance(100);
    left(&budget, 0.125, &web.clock);
    let spared = web.get("/a").await;
    assert_eq!((spared.body.as_str(), spared.status_line()), ("0", "hit; ttl=-40; detail=budget"));
    assert_eq!(spared.header("age"), Some("100"), "its age is true");
    let stats = &web.stats().routes["unmatched"];
    assert_eq!((stats.stale, stats.bypassed["budget"], web.stats().inner_calls_avoided), (1, 1, 1));
    web.layer.invalidate().tag("t").await.expect("here");
    assert_eq!(web.get("/a").await.body, "1", "what was taken back is not spared");
    web.advance(61);
    web.layer.invalidate().soft().all().await.expect("here");
    assert_eq!(web.get("/a").await.body, "2", "nor what was marked stale");
    web.advance(240);
    assert_eq!(web.get("/a").await.body, "3", "its longest life is over");
}

#[tokio::test]
async fn what_forbids_stale_answers_is_never_spared() {
    let budget = Budget::default();
    for control in ["max-age=60, must-revalidate", "max-age=60, proxy-revalidate", "s-maxage=60", "no-cache"] {
        let web = Web::with(
            |cache| cache.budget(budget.clone()).profile(Profile::Shared),
            move |asked| async move { Ok(reply(&[("cache-control", control), ("etag", "\"1\"")], asked.call.to_string())) },
        );
        web.get("/a").await;
        web.advance(61);
        left(&budget, 0.01, &web.clock);
        assert_eq!(web.get("/a").await.body, "1", "{control}");
    }
    let web = Web::with(
        |cache| cache.budget(budget.clone()).profile(Profile::Shared),
        |asked| async move { Ok(reply(&[("cache-control", "max-age=60")], asked.call.to_string())) },
    );
    web.get("/a").await;
    web.advance(61);
    left(&budget, 0.125, &web.clock);
    assert_eq!(web.get("/a").await.body, "0");
    for (wish, expected) in [("no-cache", "1"), ("max-age=0", "2")] {
        web.advance(61);
        left(&budget, 0.125, &web.clock);
        assert_eq!(web.get_with("/a", &[("cache-control", wish)]).await.body, expected, "{wish}");
    }
}

/// Demand that would spend five budgets is met out of one, to its end.
#[tokio::test]
async fn five_times_the_demand_is_met_out_of_one_budget() {
    let mut policy = BudgetPolicy::default();
    policy.max_stretch = 10_000.0; // as much as it takes
    let budget = Budget::new(policy).expect("a policy");
    let world = World::new(|space| space.ttl(seconds(60)).budget(budget.clone()));
    let (start, day) = (Clock::Manual(world.clock.clone()).now(), seconds(86_400));
    // A key asked for every ten seconds is loaded 1 440 times a day; five keys would cost 7 200.
    let quota = 1_440_f64;
    for _ in 0..86_400 / 10 {
        let spent: u64 = (0..5).map(|n| world.loads(&n.to_string())).sum();
        budget.set(&[Allowance::new(1.0 - spent as f64 / quota, day, start + day)]);
        for n in 0..5 {
            world.load(&n.to_string()).await.expect("no error");
        }
        world.clock.advance(seconds(10));
    }
    let spent: u64 = (0..5).map(|n| world.loads(&n.to_string())).sum();
    assert!((1_300..=1_440).contains(&spent), "{spent} of {quota}");
}
