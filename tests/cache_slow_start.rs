//! What becomes of those who shared a fetch in vain: a few fetch at once, soon all of them, and the key is not shared for a
//! while; refreshes that fail pause; what was purged is fetched by a bounded number at a time.
#![expect(clippy::disallowed_methods, reason = "the clock is the paused one")]

#[path = "support/cache_world.rs"]
mod world;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tollgate::cache::{Cached, DataCache, Rule, Rules};
use tollgate::{Clock, ManualClock};
use world::{Asked, Fault, Got, Reply, World, fed, reply};

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Calls under way, and the most there ever were.
#[derive(Clone, Default)]
struct Gauge(Arc<(AtomicUsize, AtomicUsize)>);

impl Gauge {
    fn enter(&self) -> Entered {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
        Entered(self.clone())
    }

    fn now(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

struct Entered(Gauge);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn herd(world: &World, path: &'static str, clients: usize) -> Vec<JoinHandle<Result<Got, Fault>>> {
    let ask = |_| {
        let service = world.service();
        tokio::spawn(async move {
            let response = tower::ServiceExt::oneshot(service, world::get(path, &[])).await?;
            Ok(world::got(response).await)
        })
    };
    (0..clients).map(ask).collect()
}

/// An origin whose first call ends as told after 100 ms, and whose later ones take 10 s and are not storable.
fn failing(first: fn() -> Result<Reply, Fault>) -> (World, Gauge) {
    let gauge = Gauge::default();
    let counted = gauge.clone();
    let world = World::new(move |asked: Asked| {
        let gauge = counted.clone();
        async move {
            if asked.call == 0 {
                sleep(millis(100)).await;
                return first();
            }
            let _entered = gauge.enter();
            sleep(millis(10_000)).await;
            Ok(reply(&[("cache-control", "no-store")], "its own"))
        }
    });
    (world, gauge)
}

#[tokio::test(start_paused = true)]
async fn followers_of_a_failure_fetch_eight_at_once_and_twice_as_many_every_quarter_of_a_second() {
    let failures: [fn() -> Result<Reply, Fault>; 2] =
        [|| Err(Fault("down")), || Ok(reply(&[(":status", "503")], "down"))];
    for failure in failures {
        let (world, gauge) = failing(failure);
        let clients = herd(&world, "/a", 1_000);
        for (after, most) in [(150, 8), (200, 8), (150, 16), (250, 32), (250, 64), (500, 256)] {
            sleep(millis(after)).await;
            assert_eq!(gauge.now(), most, "{after} ms later");
        }
        let began = Instant::now();
        let mut answered = 0;
        for client in clients {
            answered += usize::from(client.await.expect("no panic").is_ok_and(|got| got.body == "its own"));
        }
        assert_eq!(answered, 999, "none is refused, and each has its own answer");
        assert!(began.elapsed() < millis(10_000 + 1_000), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_waiters_of_a_stalled_leader_do_not_fall_on_the_service_at_once() {
    let gauge = Gauge::default();
    let counted = gauge.clone();
    let world = World::new(move |asked: Asked| {
        let gauge = counted.clone();
        async move {
            if asked.call == 0 {
                pending::<()>().await;
            }
            let _entered = gauge.enter();
            sleep(millis(50)).await;
            Ok(reply(&[("cache-control", "max-age=60")], "fetched alone"))
        }
    });
    let clients = herd(&world, "/a", 10_000);
    sleep(millis(3_300)).await;
    assert!(clients[1..].iter().all(JoinHandle::is_finished), "the first to fetch alone served the others");
    assert_eq!(gauge.most(), 8);
}

/// One who fetches for long keeps the slow start of a former failure in use, which admits everyone by then.
#[tokio::test(start_paused = true)]
async fn followers_of_a_later_failure_start_as_slowly() {
    let gauge = Gauge::default();
    let counted = gauge.clone();
    let world = World::new(move |_| {
        let gauge = counted.clone();
        async move {
            let _entered = gauge.enter();
            sleep(millis(20_000)).await;
            Ok(reply(&[("cache-control", "no-store")], "its own"))
        }
    });
    let first = herd(&world, "/a", 20);
    sleep(millis(14_000)).await;
    assert_eq!(gauge.now(), 20, "all but the first fetch by themselves since 3 s");
    let later = herd(&world, "/a", 1_000);
    for (after, most) in [(3_050, 1 + 8), (200, 1 + 8), (250, 1 + 16)] {
        sleep(millis(after)).await;
        assert_eq!(gauge.now(), 20 + most, "{after} ms later");
    }
    for client in first.into_iter().chain(later) {
        assert_eq!(client.await.expect("no panic").expect("an answer").body, "its own");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_took_too_long_is_not_shared_for_ten_seconds() {
    let world = World::with(
        |builder| builder.wait(millis(500)),
        |asked: Asked| async move {
            sleep(millis(2_000)).await;
            Ok(reply(&[("cache-control", "no-store")], asked.call.to_string()))
        },
    );
    let follower = herd(&world, "/a", 2).pop().expect("two");
    sleep(millis(600)).await;
    let began = Instant::now();
    let late = herd(&world, "/a", 2);
    for client in late {
        client.await.expect("no panic").expect("an answer");
    }
    assert!(began.elapsed() < millis(2_050), "nobody waits for another: {:?}", began.elapsed());
    assert!(follower.await.expect("no panic").is_ok());
    sleep(millis(10_000)).await;
    // The uncacheable answers have marked the key; that has passed too.
    world.advance(11);
    let calls = world.calls();
    let shared = herd(&world, "/a", 5);
    sleep(millis(100)).await;
    assert_eq!(world.calls() - calls, 1, "shared again");
    drop(shared);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_pauses_for_a_second_and_then_twice_as_long_up_to_thirty() {
    let fields = "max-age=1, stale-while-revalidate=86400, stale-if-error=86400";
    let failures: [fn() -> Result<Reply, Fault>; 4] = [
        || Err(Fault("down")),
        || Ok(reply(&[(":status", "500")], "down")),
        || Ok(reply(&[("cache-control", "max-age=1"), ("content-length", "1000")], "cut short")),
        || {
            let (feed, body) = fed();
            feed.send(Err(Fault("broken"))).expect("a reader");
            Ok(reply(&[("cache-control", "max-age=1")], "").map(|_| body))
        },
    ];
    for failure in failures {
        let world = World::new(move |asked: Asked| async move {
            if (1..10).contains(&asked.call) { failure() } else { Ok(reply(&[("cache-control", fields)], "value")) }
        });
        world.get("/a").await;
        world.advance(2);
        let mut seen = Vec::new();
        for second in 0..200 {
            let calls = world.calls();
            assert_eq!(world.get("/a").await.body, "value");
            tokio::task::yield_now().await;
            if world.calls() > calls {
                seen.push(second);
            }
            world.advance(1);
        }
        assert_eq!(seen[..9], [0, 1, 3, 7, 15, 31, 61, 91, 121], "seconds of refreshes");
        // The tenth call succeeds: the next refresh is due when the value is stale again.
        assert!(seen[9..].windows(2).all(|two| two[1] - two[0] <= 2), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_purged_is_fetched_by_sixty_four_at_a_time() {
    let gauge = Gauge::default();
    let counted = gauge.clone();
    let world = World::with(
        |builder| builder.rules(Rules::new().otherwise(Rule::ttl(Duration::from_secs(60)).tag("all"))),
        move |_| {
            let gauge = counted.clone();
            async move {
                let _entered = gauge.enter();
                sleep(millis(100)).await;
                Ok(reply(&[], "value"))
            }
        },
    );
    let fill = |world: World| async move {
        let all: Vec<_> = (0..300).map(|n| world.clone().get_owned(format!("/{n}"))).map(tokio::spawn).collect();
        for one in all {
            one.await.expect("no panic");
        }
    };
    fill(world.clone()).await;
    assert_eq!(gauge.most(), 300, "what was never stored is fetched at once");
    gauge.0.1.store(0, Ordering::SeqCst);
    world.layer.invalidate().tag("all").await.expect("here");
    fill(world.clone()).await;
    assert_eq!(gauge.most(), 64);
}

/// The leaders waited for their turn as long as their followers for them: each key was then fetched nine times, all at once.
#[tokio::test(start_paused = true)]
async fn those_who_wait_for_what_was_purged_share_the_fetch_when_its_turn_comes_late() {
    const KEYS: usize = 3_000;
    let world = World::new(move |_| async move {
        sleep(millis(100)).await;
        Ok(reply(&[("cache-control", "max-age=3600")], "value"))
    });
    let ask = |copies: usize| {
        let ask = |n| tokio::spawn(world.clone().get_owned(format!("/{}", n % KEYS)));
        (0..KEYS * copies).map(ask).collect::<Vec<_>>()
    };
    futures_util::future::join_all(ask(1)).await;
    assert_eq!(world.calls(), KEYS);
    world.layer.invalidate().all().await.expect("here");
    let began = Instant::now();
    futures_util::future::join_all(ask(4)).await;
    assert_eq!(world.calls(), 2 * KEYS, "each is fetched once");
    assert!(began.elapsed() < millis(3_000 + 200), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn purged_values_share_that_bound_and_their_refreshes_pause_too() {
    let clock = ManualClock::new();
    let data = DataCache::builder().clock(Clock::Manual(clock.clone())).build();
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    let values: Cached<u64> =
        data.cached("values").ttl(second * 60).stale_while_revalidate(day).tag("all").build().expect("a namespace");
    let gauge = Gauge::default();
    let fill = || async {
        let load = |n: u64| {
            let (values, gauge) = (values.clone(), gauge.clone());
            tokio::spawn(async move {
                let load = move || async move {
                    let _entered = gauge.enter();
                    sleep(millis(100)).await;
                    Ok::<_, Fault>(n)
                };
                values.get_or_load(n, load).await.expect("loaded");
            })
        };
        for one in (0..300).map(load).collect::<Vec<_>>() {
            one.await.expect("no panic");
        }
    };
    fill().await;
    assert_eq!(gauge.most(), 300);
    gauge.0.1.store(0, Ordering::SeqCst);
    values.invalidate().tag("all").await.expect("here");
    fill().await;
    assert_eq!(gauge.most(), 64);
    clock.advance(second * 61);
    let (mut refreshes, calls) = (Vec::new(), Arc::new(AtomicUsize::new(0)));
    for now in 0..40 {
        let (before, counted) = (calls.load(Ordering::SeqCst), calls.clone());
        let load = move || async move {
            counted.fetch_add(1, Ordering::SeqCst);
            Err::<u64, _>(Fault("down"))
        };
        assert_eq!(*values.get_or_load(1, load).await.expect("stale"), 1);
        tokio::task::yield_now().await;
        if calls.load(Ordering::SeqCst) > before {
            refreshes.push(now);
        }
        clock.advance(second);
    }
    assert_eq!(refreshes, [0, 1, 3, 7, 15, 31]);
}
