//! One load for a key: who leads, who waits, who leaves; time-outs, failures, panics, and what stands in for them.
#![expect(clippy::disallowed_methods, reason = "a paused clock is read")]

#[path = "support/data_world.rs"]
mod data_world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use data_world::{Fault, World, seconds};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tollgate::cache::{CacheKey, CacheStore, Cached, DataCache, LevelStats, LoadError, Loaded, Stored};
use tollgate::store::memory::MemoryCache;
use tollgate::{Clock, Error, ManualClock, Timestamp};

type Answer = Result<Arc<u64>, LoadError<Fault>>;

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn ask(world: &Arc<World>, key: &'static str, span: Duration) -> JoinHandle<Answer> {
    let world = world.clone();
    tokio::spawn(async move { world.load_in(key, span).await })
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_cost_one_load_and_who_leaves_cancels_nothing() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60))));
    let mut asked: Vec<_> = (0..1_000).map(|_| ask(&world, "a", millis(100))).collect();
    sleep(millis(10)).await;
    // The leader, and some of those who wait.
    asked.drain(..500).for_each(|task| task.abort());
    for task in asked {
        assert_eq!(task.await.expect("no panic").map(|value| *value).ok(), Some(1));
    }
    assert_eq!((world.loads("a"), world.stats().collapsed), (1, 500));
    let alone = ask(&world, "b", millis(100));
    sleep(millis(10)).await;
    alone.abort();
    sleep(millis(200)).await;
    assert_eq!(world.cached.get("b").await.as_deref(), Some(&1), "it was kept though nobody waited");
}

#[tokio::test(start_paused = true)]
async fn a_failed_load_is_the_error_of_all_who_waited_for_it_at_once() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60))));
    let begun = Instant::now();
    let asked: Vec<_> = (0..40).map(|_| ask(&world, "fails", millis(10))).collect();
    let mut errors = Vec::new();
    for task in asked {
        match task.await.expect("no panic") {
            Err(LoadError::Failed(error)) => errors.push(error),
            other => panic!("{other:?}"),
        }
    }
    assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])), "one error");
    assert!(begun.elapsed() < millis(20), "{:?}", begun.elapsed());
    assert_eq!((world.loads("fails"), world.stats().errors, world.stats().misses), (1, 1, 40));
    // The next caller loads.
    assert!(ask(&world, "fails", millis(10)).await.expect("no panic").is_err());
    assert_eq!((world.loads("fails"), world.stats().fetches_in_flight), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_load_of_another_error_type_is_not_answered_by_a_foreign_error() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60))));
    let fails = ask(&world, "fails", millis(10));
    tokio::task::yield_now().await;
    let load = || async { Err::<u64, _>("another type") };
    let error = world.cached.get_or_load("fails", load).await.expect_err("its own");
    assert_eq!(error.into_inner().as_deref(), Some(&"another type"));
    assert!(matches!(fails.await.expect("no panic"), Err(LoadError::Failed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_load_that_never_returns_does_not_hold_its_key() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    for hard in [None, Some(millis(500))] {
        let world = Arc::new(World::new(|space| {
            let space = space.ttl(seconds(60)).wait(seconds(3));
            match hard {
                Some(hard) => space.hard_timeout(hard),
                None => space,
            }
        }));
        let dropped = Arc::new(AtomicBool::new(false));
        let (guard, stuck) = (Dropped(dropped.clone()), world.clone());
        let first = tokio::spawn(async move {
            let load = || async move {
                let _guard = guard;
                std::future::pending::<Result<u64, Fault>>().await
            };
            stuck.cached.get_or_load("a", load).await
        });
        tokio::task::yield_now().await;
        let begun = Instant::now();
        // Callers that come once a second: one of them loads as soon as the wait is over.
        let answered = loop {
            let asked = ask(&world, "a", millis(10));
            if let Ok(value) = asked.await.expect("no panic") {
                break *value;
            }
            sleep(seconds(1)).await;
        };
        assert_eq!(answered, 1);
        assert!(begun.elapsed() <= seconds(5), "{hard:?}: {:?}", begun.elapsed());
        assert_eq!(*ask(&world, "a", millis(10)).await.expect("no panic").expect("a hit"), 1);
        match hard {
            Some(_) => {
                assert!(matches!(first.await.expect("no panic"), Err(LoadError::TimedOut)));
                assert!(dropped.load(Ordering::SeqCst), "the stuck load is gone");
                assert_eq!(world.stats().fetches_in_flight, 0);
            }
            None => first.abort(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_its_callers_and_the_others_load() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60))));
    let panics = {
        let world = world.clone();
        tokio::spawn(async move {
            let load = || async {
                sleep(millis(10)).await;
                panic!("a bug of the load")
            };
            world.cached.get_or_load::<_, _, _, u64, Fault>("a", load).await
        })
    };
    tokio::task::yield_now().await;
    let waits = ask(&world, "a", Duration::ZERO);
    assert!(panics.await.expect_err("a panic").is_panic());
    assert_eq!(*waits.await.expect("no panic").expect("loaded"), 1);
    assert_eq!((world.stats().errors, world.stats().fetches_in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stale_value_stands_in_for_errors_inside_its_window_and_not_after() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60)).stale_if_error(seconds(30))));
    let fail = async || world.cached.get_or_load("a", || async { Err::<u64, _>(Fault) }).await;
    world.cached.put("a", 7_u64).await.expect("kept");
    world.clock.advance(seconds(61));
    assert_eq!(fail().await.as_deref().ok(), Some(&7));
    world.clock.advance(seconds(28));
    assert_eq!(fail().await.as_deref().ok(), Some(&7));
    world.clock.advance(seconds(1));
    assert!(fail().await.is_err(), "past its window");
    assert_eq!((world.stats().stale, world.stats().errors), (2, 3));
    // Taken back, it stands in for nothing.
    world.cached.put("a", 7_u64).await.expect("kept");
    world.clock.advance(seconds(61));
    world.cached.invalidate().key("a").await.expect("here");
    assert!(fail().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn it_is_refreshed_once_behind_its_callers_backs() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60)).stale_while_revalidate(seconds(30))));
    world.load("a").await.expect("loaded");
    world.clock.advance(seconds(61));
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(*world.load_in("a", millis(100)).await.expect("stale"), 1);
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits");
    sleep(millis(200)).await;
    assert_eq!((*world.load("a").await.expect("fresh"), world.loads("a")), (2, 2));
    world.clock.advance(seconds(60 + 30));
    assert_eq!(*world.load("a").await.expect("loaded"), 3, "past its window somebody waits");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_never_returns_is_given_up() {
    let world = World::new(|space| space.ttl(seconds(10)).stale_while_revalidate(seconds(3_600)));
    let value = world.load("a").await.expect("loaded");
    world.clock.advance(seconds(11));
    let hangs = || std::future::pending::<Result<u64, Fault>>();
    assert_eq!(world.cached.get_or_load("a", hangs).await.expect("stale"), value);
    tokio::task::yield_now().await;
    assert_eq!(world.stats().fetches_in_flight, 1);
    sleep(seconds(301)).await;
    assert_eq!(world.stats().fetches_in_flight, 0, "nobody waits for it");
    world.clock.advance(seconds(2));
    assert_eq!(world.load("a").await.expect("stale"), value);
    sleep(millis(1)).await;
    assert_eq!(*world.load("a").await.expect("refreshed"), 2, "the next refresh is not held up");
}

#[tokio::test(start_paused = true)]
async fn it_is_refreshed_ahead_of_its_end() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(100)).refresh_ahead(0.9)));
    world.load("a").await.expect("loaded");
    for (turn, loads) in [(89, 1), (1, 2)] {
        world.clock.advance(seconds(turn));
        assert_eq!(*world.load("a").await.expect("there"), 1);
        world.quiet().await;
        assert_eq!(world.loads("a"), loads);
    }
    world.clock.advance(seconds(50));
    assert_eq!(*world.load("a").await.expect("there"), 2);
}

#[tokio::test(start_paused = true)]
async fn after_the_soft_time_out_a_stale_value_is_served_and_the_load_goes_on() {
    let set = |space: tollgate::cache::CachedBuilder<u64>| {
        space.ttl(seconds(60)).stale_if_error(seconds(600)).soft_timeout(millis(50)).hard_timeout(millis(500))
    };
    let world = Arc::new(World::new(set));
    world.load("a").await.expect("loaded");
    world.clock.advance(seconds(61));
    let begun = Instant::now();
    // The leader, and one who waits for it.
    let both = [ask(&world, "a", millis(200)), ask(&world, "a", millis(200))];
    for task in both {
        assert_eq!(*task.await.expect("no panic").expect("stale"), 1);
    }
    assert!(begun.elapsed() < millis(60), "{:?}", begun.elapsed());
    sleep(millis(200)).await;
    assert_eq!((*world.load("a").await.expect("fresh"), world.loads("a")), (2, 2));
    // With nothing to stand in the soft time-out means nothing.
    let begun = Instant::now();
    assert_eq!(*world.load_in("b", millis(200)).await.expect("loaded"), 1);
    assert!(begun.elapsed() >= millis(200));
}

#[tokio::test(start_paused = true)]
async fn after_the_hard_time_out_there_is_an_error_and_the_load_is_kept() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60)).hard_timeout(millis(100))));
    let both = [ask(&world, "a", millis(250)), ask(&world, "a", millis(250))];
    let begun = Instant::now();
    for task in both {
        assert!(matches!(task.await.expect("no panic"), Err(LoadError::TimedOut)));
    }
    assert!(begun.elapsed() < millis(110), "{:?}", begun.elapsed());
    sleep(millis(200)).await;
    assert_eq!(world.cached.get("a").await.as_deref(), Some(&1));
    assert_eq!((world.loads("a"), world.stats().timed_out), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_another_longer_than_the_deadline_and_then_a_few_load_at_a_time() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60)).wait(seconds(3))));
    let begun = Instant::now();
    let _slow = ask(&world, "a", seconds(60));
    tokio::task::yield_now().await;
    let asked: Vec<_> = (0..20).map(|_| ask(&world, "a", millis(100))).collect();
    for task in asked {
        task.await.expect("no panic").expect("loaded");
    }
    let took = begun.elapsed();
    assert!(took >= seconds(3) && took < millis(3_500), "{took:?}");
    // Eight found nothing and loaded; those behind them found what these had kept.
    assert!(world.loads("a") <= 1 + 8, "{}", world.loads("a"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_load_brings_back_nothing_that_was_taken_back() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60)).tag("all")));
    type Take = fn(Arc<World>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
    let ways: [Take; 5] = [
        |world| Box::pin(async move { world.cached.invalidate().tag("all").await.expect("here") }),
        |world| Box::pin(async move { world.cached.invalidate().key("a").await.expect("here") }),
        |world| Box::pin(async move { world.cached.invalidate().prefix("a").await.expect("here") }),
        |world| Box::pin(async move { world.cached.invalidate().all().await.expect("here") }),
        |world| Box::pin(async move { world.cached.remove("a").await.expect("here") }),
    ];
    for (n, take_back) in (0..).zip(ways) {
        let before = ask(&world, "a", millis(100));
        sleep(millis(10)).await;
        take_back(world.clone()).await;
        // Whoever comes now does not wait for what began before.
        let (after, came) = (ask(&world, "a", millis(10)), Instant::now());
        assert_eq!(*after.await.expect("no panic").expect("loaded"), 2 * n + 2);
        assert!(came.elapsed() < millis(20), "{:?}", came.elapsed());
        assert_eq!(*before.await.expect("no panic").expect("loaded"), 2 * n + 1, "its own caller gets it");
        assert_eq!(world.cached.get("a").await.as_deref(), Some(&(2 * n + 2)), "and it is not kept");
        world.cached.invalidate().all().await.expect("here");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tag_that_the_load_decides_binds_those_who_wait_for_it() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60))));
    let slow = |value: u64| {
        let world = world.clone();
        tokio::spawn(async move {
            let load = move || async move {
                sleep(millis(100)).await;
                Ok::<_, Fault>(Loaded::new(value).tag("decided"))
            };
            world.cached.get_or_load("a", load).await.map(|value| *value)
        })
    };
    let (leads, waits) = (slow(1), slow(2));
    sleep(millis(10)).await;
    world.cached.invalidate().tag("decided").await.expect("here");
    assert_eq!(leads.await.expect("no panic").ok(), Some(1));
    assert_eq!(waits.await.expect("no panic").ok(), Some(2), "it loads anew");
    assert_eq!(world.cached.get("a").await.as_deref(), Some(&2));
}

#[tokio::test(start_paused = true)]
async fn what_was_put_is_not_undone_by_a_load_under_way() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60))));
    let slow = ask(&world, "a", millis(100));
    sleep(millis(10)).await;
    world.cached.put("a", 77_u64).await.expect("kept");
    assert_eq!(*slow.await.expect("no panic").expect("loaded"), 1);
    assert_eq!(world.cached.get("a").await.as_deref(), Some(&77));
}

#[tokio::test(start_paused = true)]
async fn what_was_put_is_not_undone_by_a_load_that_nobody_shares() {
    let world = Arc::new(World::new(|space| space.ttl(seconds(60)).wait(seconds(3))));
    let stuck = world.clone();
    let hangs = || std::future::pending::<Result<u64, Fault>>();
    let first = tokio::spawn(async move { stuck.cached.get_or_load("a", hangs).await.map(drop) });
    tokio::task::yield_now().await;
    let alone = [ask(&world, "a", millis(100)), ask(&world, "a", millis(150))];
    sleep(millis(3_010)).await;
    world.cached.put("a", 77_u64).await.expect("kept");
    for one in alone {
        assert!(*one.await.expect("no panic").expect("loaded") < 3, "both have waited in vain, and load by themselves");
    }
    assert_eq!(world.cached.get("a").await.as_deref(), Some(&77));
    first.abort();
}

/// A store that takes ten milliseconds to find anything.
struct Slow(MemoryCache);

impl CacheStore for Slow {
    fn get(&self, key: &CacheKey, now: Timestamp) -> tollgate::MaybeReady<Result<Option<Stored>, Error>> {
        let found = self.0.get(key, now);
        tollgate::MaybeReady::Pending(Box::pin(async move {
            sleep(millis(10)).await;
            found.await
        }))
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> tollgate::MaybeReady<Result<(), Error>> {
        self.0.put(key, stored, now)
    }

    fn remove(&self, key: &CacheKey) -> tollgate::MaybeReady<Result<(), Error>> {
        self.0.remove(key)
    }

    fn stats(&self) -> Vec<LevelStats> {
        self.0.stats()
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_put_is_not_undone_by_a_load_that_is_being_kept() {
    let clock = Clock::Manual(ManualClock::new());
    let data = DataCache::builder().store(Arc::new(Slow(MemoryCache::new(1 << 20)))).clock(clock).build();
    let cached: Cached<u64> = data.cached("slow").build().expect("a namespace");
    let loads = {
        let cached = cached.clone();
        tokio::spawn(async move { cached.get_or_load("a", || async { Ok::<_, Fault>(1) }).await })
    };
    // It has found nothing, has loaded, and looks whether something newer lies there.
    sleep(millis(15)).await;
    cached.put("a", 77_u64).await.expect("kept");
    assert_eq!(*loads.await.expect("no panic").expect("loaded"), 1);
    assert_ne!(cached.get("a").await.as_deref(), Some(&1));
}
