//! Nobody's answer is broken by others: stalled, slow, long and failing bodies.
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail; the clock is the paused one")]

#[path = "support/cache_world.rs"]
mod world;

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{Instant, sleep, timeout};
use tollgate::cache::{CacheBuilder, Profile};
use world::{Asked, Fault, World, data, fed, get, got, reply};

type Feed = tokio::sync::mpsc::UnboundedSender<Result<Frame<Bytes>, Fault>>;

const HOUR: (&str, &str) = ("cache-control", "max-age=3600");
const THOUSAND: (&str, &str) = ("content-length", "1000");

/// A world whose first answers are fed by hand; later ones are whole.
fn fed_first(
    set: impl FnOnce(CacheBuilder) -> CacheBuilder,
    bodies: usize,
    fields: &'static [(&'static str, &'static str)],
) -> (Vec<Feed>, World) {
    let (feeds, bodies): (Vec<_>, Vec<_>) = (0..bodies).map(|_| fed()).unzip();
    let bodies = Mutex::new(bodies.into_iter());
    let world = World::with(set, move |asked| {
        let body = bodies.lock().expect("not poisoned").next();
        async move {
            let Some(body) = body else { return Ok(reply(&[HOUR], format!("own {}", asked.call))) };
            let mut response = reply(fields, "");
            *response.body_mut() = body;
            Ok(response)
        }
    });
    (feeds, world)
}

fn spawn(world: &World, path: &'static str) -> tokio::task::JoinHandle<String> {
    let world = world.clone();
    tokio::spawn(async move { world.get(path).await.body })
}

#[tokio::test(start_paused = true)]
async fn a_stalled_body_holds_up_no_later_client() {
    for profile in [Profile::App, Profile::Shared] {
        let (feeds, world) = fed_first(|b| b.profile(profile), 1, &[HOUR, THOUSAND]);
        let leader = world.send(get("/a", &[])).await;
        feeds[0].send(data("0123456789")).expect("a reader");
        sleep(Duration::from_secs(2)).await;
        let began = Instant::now();
        assert_eq!(world.get("/a").await.body, "own 1");
        assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
        assert!(world.get("/a").await.is_hit(), "and what it fetched is stored");
        drop(leader);
        sleep(Duration::from_secs(31)).await;
        assert!(world.is_quiet().await, "dropped at the idle deadline: {:?}", world.stats());
        assert!(feeds[0].is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn followers_that_wait_for_a_body_that_stalls_go_on_together() {
    for fields in [&[HOUR, THOUSAND][..], &[HOUR]] {
        let fields: &'static [(&str, &str)] = Box::leak(fields.to_vec().into_boxed_slice());
        let (_feeds, world) = fed_first(|b| b, 1, fields);
        let _leader = world.send(get("/a", &[])).await;
        let began = Instant::now();
        let followers: Vec<_> = (0..20).map(|_| spawn(&world, "/a")).collect();
        for follower in followers {
            assert_eq!(follower.await.expect("an answer"), "own 1", "one fetch for all of them");
        }
        assert!(began.elapsed() <= Duration::from_millis(1600), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn stalled_bodies_whose_clients_left_are_not_held() {
    let world = World::new(|_| async {
        let mut response = reply(&[HOUR, THOUSAND], "");
        *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(stream::pending()));
        Ok(response)
    });
    for n in 0..5000 {
        drop(world.send(get(&format!("/{n}"), &[])).await);
        tokio::task::yield_now().await;
    }
    assert!(
        world.stats().fetches_in_flight <= 256 && world.stats().background_fetches <= 256,
        "{:?}",
        world.stats().fetches_in_flight
    );
    sleep(Duration::from_secs(32)).await;
    assert!(world.is_quiet().await, "{:?}", world.stats());
}

#[tokio::test(start_paused = true)]
async fn heads_that_do_not_come_are_given_up_when_their_clients_have_left() {
    let world = World::new(|_| std::future::pending());
    for n in 0..1000 {
        let path = format!("/{n}");
        let asked = timeout(Duration::from_millis(1), world.send(get(&path, &[])));
        assert!(asked.await.is_err());
    }
    tokio::task::yield_now().await;
    assert!(world.stats().fetches_in_flight <= 256, "{}", world.stats().fetches_in_flight);
    sleep(Duration::from_secs(31)).await;
    assert!(world.is_quiet().await, "{:?}", world.stats());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_hangs_is_given_up() {
    let world = World::new(|asked: Asked| async move {
        if asked.call == 1 {
            std::future::pending::<()>().await;
        }
        Ok(reply(&[("cache-control", "max-age=1, stale-while-revalidate=600")], asked.call.to_string()))
    });
    world.get("/a").await;
    world.advance(2);
    assert_eq!(world.get("/a").await.body, "0");
    sleep(Duration::from_secs(31)).await;
    assert!(world.is_quiet().await);
    assert_eq!(world.get("/a").await.body, "0");
    tokio::task::yield_now().await;
    assert_eq!(world.get("/a").await.body, "0", "a second passes before the next refresh");
    world.advance(1);
    assert_eq!(world.get("/a").await.body, "0");
    tokio::task::yield_now().await;
    assert_eq!(world.get("/a").await.body, "2", "the next refresh is not held up");
}

/// The refresh kept its own response unread: its body seemed to have a client for ever.
#[tokio::test(start_paused = true)]
async fn a_refresh_whose_body_stalls_is_given_up() {
    for fields in [&[THOUSAND][..], &[]] {
        let (feed, body) = fed();
        let body = Mutex::new(Some(body));
        let world = World::new(move |asked: Asked| {
            let stalls = if asked.call == 1 { body.lock().expect("not poisoned").take() } else { None };
            async move {
                let refreshed = [&[("cache-control", "max-age=1, stale-while-revalidate=600")], fields].concat();
                let Some(body) = stalls else { return Ok(reply(&refreshed[..1], asked.call.to_string())) };
                let mut response = reply(&refreshed, "");
                *response.body_mut() = body;
                Ok(response)
            }
        });
        world.get("/a").await;
        feed.send(data("the beginning")).expect("a reader");
        world.advance(2);
        assert_eq!(world.get("/a").await.body, "0");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.stats().background_fetches, 1, "the refresh is under way, and counted once");
        sleep(Duration::from_secs(32)).await;
        assert!(world.is_quiet().await, "{:?}", world.stats());
        world.advance(2);
        assert_eq!(world.get("/a").await.body, "0");
        tokio::task::yield_now().await;
        assert_eq!(world.get("/a").await.body, "2", "the next refresh is not held up");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_reads_its_own_slow_body_to_the_end_however_long_it_pauses() {
    for fields in [&[HOUR, ("content-length", "6")][..], &[HOUR]] {
        let fields: &'static [(&str, &str)] = Box::leak(fields.to_vec().into_boxed_slice());
        let (feeds, world) = fed_first(|b| b, 1, fields);
        let leader = world.send(get("/a", &[])).await;
        feeds[0].send(data("one")).expect("a reader");
        sleep(Duration::from_secs(600)).await;
        feeds[0].send(data("two")).expect("still read");
        drop(feeds);
        assert_eq!(got(leader).await.body, "onetwo");
        assert!(world.get("/a").await.is_hit());
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_of_a_stalled_body_continues_by_a_range_request_of_its_own() {
    let (feeds, world) = {
        let (feed, body) = fed();
        let body = Mutex::new(Some(body));
        let world = World::new(move |asked: Asked| {
            let body = body.lock().expect("not poisoned").take();
            async move {
                let fields = [HOUR, ("etag", "\"a\""), ("content-length", "8")];
                if let Some(body) = body {
                    let mut response = reply(&fields, "");
                    *response.body_mut() = body;
                    return Ok(response);
                }
                assert_eq!((asked.header("range"), asked.header("if-range")), (Some("bytes=4-"), Some("\"a\"")));
                Ok(reply(&[(":status", "206"), ("etag", "\"a\""), ("content-range", "bytes 4-7/8")], "EFGH"))
            }
        });
        (feed, world)
    };
    let leader = world.send(get("/a", &[])).await;
    feeds.send(data("ABCD")).expect("a reader");
    let follower = world.send(get("/a", &[])).await;
    assert_eq!(got(follower).await.body, "ABCDEFGH");
    feeds.send(data("EFGH")).expect("a reader");
    drop(feeds);
    assert_eq!(got(leader).await.body, "ABCDEFGH");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_cannot_continue_waits_until_the_idle_deadline_and_never_ends_cleanly_before_the_end() {
    let (feeds, world) = fed_first(|b| b.idle_timeout(Duration::from_secs(5)), 1, &[HOUR, ("content-length", "8")]);
    let _leader = world.send(get("/a", &[])).await;
    feeds[0].send(data("ABCD")).expect("a reader");
    let (patient, cut) = (world.send(get("/a", &[])).await, world.send(get("/a", &[])).await);
    sleep(Duration::from_secs(3)).await;
    let patient = tokio::spawn(async move { got(patient).await.body });
    let began = Instant::now();
    assert!(cut.into_body().collect().await.is_err());
    assert!(began.elapsed() <= Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(patient.await.is_err(), "so does every other");
}

#[tokio::test(start_paused = true)]
async fn slow_readers_take_no_memory_that_others_were_promised() {
    const MIB: usize = 1 << 20;
    for profile in [Profile::App, Profile::Shared] {
        let world = World::with(
            |b| b.profile(profile),
            |asked| async move {
                sleep(Duration::from_millis(5)).await;
                let small = asked.path.ends_with("small");
                Ok(reply(&[HOUR], vec![7; if small { 1000 } else { MIB - 100 }]))
            },
        );
        // A hundred MiB that no one reads, against a bound of 64.
        let mut unread = Vec::new();
        for n in 0..100 {
            unread.push(world.send(get(&format!("/{n}"), &[])).await);
        }
        let clients: Vec<_> = (0..10).map(|_| spawn(&world, "/small")).collect();
        for client in clients {
            assert_eq!(client.await.expect("an answer").len(), 1000);
        }
        assert_eq!(world.stats().routes["unmatched"].collapsed, 9, "a quarter is kept for small bodies");
        assert!(world.stats().in_flight_bytes <= 64 << 20, "{}", world.stats().in_flight_bytes);
        for answer in unread {
            assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes().len(), MIB - 100);
        }
        assert!(world.is_quiet().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunked_body_beyond_the_bound_reaches_all_who_ask_at_once() {
    const CHUNK: usize = 19_000;
    for profile in [Profile::App, Profile::Shared] {
        let world = World::with(
            |b| b.profile(profile),
            |_| async {
                let frames = stream::unfold(0, |n| async move {
                    tokio::task::yield_now().await;
                    (n < 100).then(|| (Ok(Frame::data(Bytes::from(vec![n as u8; CHUNK]))), n + 1))
                });
                let mut response = reply(&[HOUR], "");
                *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(frames));
                Ok(response)
            },
        );
        let clients: Vec<_> = (0..3).map(|_| spawn(&world, "/long")).collect();
        for client in clients {
            assert_eq!(client.await.expect("whole").len(), 100 * CHUNK);
        }
        assert!(world.is_quiet().await);
    }
}

#[tokio::test(start_paused = true)]
async fn followers_wait_for_a_body_of_unknown_length_as_long_as_its_route_usually_takes() {
    let world = World::new(|asked: Asked| async move {
        let slow = asked.path.ends_with("slow") && asked.call == 20;
        let frames = stream::once(async move {
            if slow {
                for _ in 0..40 {
                    sleep(Duration::from_millis(500)).await;
                }
            }
            Ok(Frame::data(Bytes::from(asked.call.to_string())))
        });
        let mut response = reply(&[HOUR], "");
        *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(frames));
        Ok(response)
    });
    for n in 0..20 {
        world.get(&format!("/{n}")).await;
    }
    let leader = world.send(get("/slow", &[])).await;
    let began = Instant::now();
    assert_eq!(world.get("/slow").await.body, "21");
    assert!(began.elapsed() <= Duration::from_millis(60), "{:?}", began.elapsed());
    assert_eq!(got(leader).await.body, "20");
}

#[tokio::test]
async fn one_byte_chunks_and_overlapping_ranges_take_what_they_weigh() {
    let world = World::shared(|asked: Asked| async move {
        let size = 600_000_usize;
        let Some(range) = asked.header("range").and_then(|range| range.strip_prefix("bytes=")) else {
            return Ok(reply(&[HOUR, ("etag", "\"a\"")], vec![1; size]));
        };
        let (from, to) = range.split_once('-').expect("a range");
        let (from, to): (usize, usize) = (from.parse().expect("a number"), to.parse().expect("a number"));
        let described = format!("bytes {from}-{to}/{size}");
        Ok(reply(&[(":status", "206"), HOUR, ("etag", "\"a\""), ("content-range", &described)], vec![1; to - from + 1]))
    });
    for n in 0..300_usize {
        let range = format!("bytes={}-{}", n * 100, n * 100 + 99_999);
        assert_eq!(world.get_with("/a", &[("range", &range)]).await.body.len(), 100_000);
    }
    assert!(world.is_quiet().await, "no part keeps the blocks of another alive: {:?}", world.stats());
    let all = world.get_with("/a", &[("range", "bytes=0-129899")]).await;
    assert!(all.is_hit() && all.body.len() == 129_900, "joined: {:?}", all.headers);

    let (feeds, world) = fed_first(|b| b, 1, &[HOUR]);
    let leader = world.send(get("/a", &[])).await;
    for _ in 0..100_000 {
        feeds[0].send(data("x")).expect("a reader");
    }
    while world.stats().in_flight_bytes < 100_000 {
        tokio::task::yield_now().await;
    }
    assert!(world.stats().in_flight_bytes < 300_000, "{}", world.stats().in_flight_bytes);
    drop(feeds);
    assert_eq!(got(leader).await.body.len(), 100_000);
}
