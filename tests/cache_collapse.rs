//! One fetch for many, and its stream: bodies reach everybody as they arrive.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/cache_world.rs"]
mod world;

use std::sync::Mutex;
use std::time::Duration;

use http_body_util::BodyExt;
use tower::Service;
use world::{Asked, Origin, World, data, fed, get, got, reply};

const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60")];
/// A body of thirteen bytes, and no more than promised.
const THIRTEEN: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("content-length", "13")];

type Feed = tokio::sync::mpsc::UnboundedSender<Result<http_body::Frame<bytes::Bytes>, world::Fault>>;

/// A world whose first answer is fed by hand, with these fields; later ones are what `then` says.
fn fed_world(
    set: impl FnOnce(tollgate::cache::CacheBuilder) -> tollgate::cache::CacheBuilder,
    fields: &'static [(&'static str, &'static str)],
    then: fn(Asked) -> world::Reply,
) -> (Feed, World) {
    let (feed, body) = fed();
    let body = Mutex::new(Some(body));
    let world = World::with(set, move |asked| {
        let body = body.lock().expect("not poisoned").take();
        async move {
            let Some(body) = body else { return Ok(then(asked)) };
            let mut response = reply(fields, "");
            *response.body_mut() = body;
            Ok(response)
        }
    });
    (feed, world)
}

fn alone(asked: Asked) -> world::Reply {
    reply(&[("cache-control", "no-store")], format!("own {}", asked.call))
}

async fn next(body: &mut tollgate::Body<world::OriginBody>) -> String {
    let frame = body.frame().await.expect("a frame").expect("no error");
    String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")
}

/// A service's future may be polled long after the call: HTTP/2 servers spawn it.
#[tokio::test]
async fn a_flight_that_landed_between_the_call_and_its_first_poll_is_not_flown_again() {
    let world = World::with(|b| b, |asked| async move { Ok(reply(MINUTE, format!("call {}", asked.call))) });
    let mut service = world.service();
    let (first, second) = (service.call(get("/a", &[])), service.call(get("/a", &[])));
    let bodies = [got(first.await.expect("an answer")).await.body, got(second.await.expect("an answer")).await.body];
    assert_eq!(bodies, ["call 0", "call 0"]);
    assert_eq!(world.calls(), 1);

    const RENEWED: &[(&str, &str)] = &[("cache-control", "max-age=1, stale-while-revalidate=60")];
    let world = World::with(|b| b, |asked| async move { Ok(reply(RENEWED, format!("call {}", asked.call))) });
    got(world.send(get("/a", &[])).await).await;
    world.advance(2);
    let mut service = world.service();
    let (first, second) = (service.call(get("/a", &[])), service.call(get("/a", &[])));
    got(first.await.expect("an answer")).await;
    assert!(world.is_quiet().await);
    got(second.await.expect("an answer")).await;
    assert!(world.is_quiet().await);
    assert_eq!(world.calls(), 2, "refreshed once");
}

#[tokio::test]
async fn followers_read_along_and_a_slow_one_holds_nobody_back() {
    let (feed, world) = fed_world(|b| b, THIRTEEN, alone);
    let mut leader = world.send(get("/a", &[])).await.into_body();
    feed.send(data("one ")).expect("a reader");
    let mut quick = world.send(get("/a", &[])).await;
    assert_eq!(quick.headers()["cache-status"], "Tollgate; fwd=uri-miss; ttl=60; collapsed");
    let slow = world.send(get("/a", &[])).await;
    assert_eq!(next(&mut leader).await, "one ");
    assert_eq!(next(quick.body_mut()).await, "one ");
    feed.send(data("two ")).expect("a reader");
    assert_eq!(next(&mut leader).await, "two ");
    assert_eq!(next(quick.body_mut()).await, "two ");
    feed.send(data("three")).expect("a reader");
    drop(feed);
    assert_eq!(got(quick).await.body, "three");
    assert!(
        world.is_quiet().await || world.stats().fetches_in_flight == 0,
        "stored while a slow reader has read nothing"
    );
    assert!(world.get("/a").await.is_hit());
    assert_eq!(got(slow).await.body, "one two three");
    drop(leader);
    assert!(world.is_quiet().await);
    assert_eq!(world.calls(), 1);
}

#[tokio::test]
async fn an_answer_that_grew_stale_while_its_body_flows_is_not_shared() {
    let fields = &[("cache-control", "max-age=5"), ("content-length", "3")];
    let (feed, world) = fed_world(|b| b, fields, |_| reply(MINUTE, "new"));
    let leader = world.send(get("/a", &[])).await;
    feed.send(data("o")).expect("a reader");
    world.advance(4);
    let fresh = world.send(get("/a", &[])).await;
    world.advance(2);
    assert_eq!(world.get("/a").await.body, "new");
    feed.send(data("ld")).expect("a reader");
    drop(feed);
    assert_eq!((got(leader).await.body.as_str(), got(fresh).await.body.as_str()), ("old", "old"));
    assert!(world.is_quiet().await);
    assert!(world.get("/a").await.is_hit(), "what began earlier does not replace what came later");
}

#[tokio::test]
async fn a_broken_body_is_an_error_to_everybody_and_never_a_clean_end() {
    let (feed, world) = fed_world(|b| b, THIRTEEN, alone);
    let leader = world.send(get("/a", &[])).await.into_body();
    feed.send(data("half")).expect("a reader");
    let waiter = world.send(get("/a", &[])).await.into_body();
    feed.send(Err(world::Fault("cut"))).expect("a reader");
    assert_eq!(leader.collect().await.expect_err("an error").into_inner().to_string(), "cut");
    assert!(waiter.collect().await.is_err());
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn a_body_shorter_than_promised_is_cut_short_for_those_who_share_it() {
    let (feed, world) = fed_world(|b| b, &[("cache-control", "max-age=60"), ("content-length", "10")], alone);
    let _leader = world.send(get("/a", &[])).await;
    feed.send(data("half")).expect("a reader");
    let waiter = world.send(get("/a", &[])).await.into_body();
    drop(feed);
    assert!(waiter.collect().await.is_err());
    assert_eq!(world.get("/a").await.body, "own 1");
}

#[tokio::test(start_paused = true)]
async fn trailers_after_a_body_of_promised_length_reach_those_who_share_it() {
    let trailers = || http::HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("7"))]);
    for ends in ["with trailers", "without", "never"] {
        let (feed, world) = fed_world(|b| b, &[("cache-control", "max-age=60"), ("content-length", "4")], alone);
        let leader = world.send(get("/a", &[])).await.into_body();
        feed.send(data("body")).expect("a reader");
        let follower = world.send(get("/a", &[])).await.into_body();
        let reads = tokio::spawn(follower.collect());
        tokio::task::yield_now().await;
        match ends {
            "with trailers" => feed.send(Ok(http_body::Frame::trailers(trailers()))).expect("a reader"),
            "without" => drop(feed),
            // Kept open: the declared length has been sent.
            _ => std::mem::forget(feed),
        }
        let got = reads.await.expect("no panic").expect("a whole body");
        let expected = (ends == "with trailers").then(trailers);
        assert_eq!(got.trailers(), expected.as_ref(), "{ends}");
        assert_eq!(got.to_bytes(), "body");
        drop(leader);
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_reaches_followers_whole() {
    let (feed, world) = fed_world(|b| b, MINUTE, alone);
    let leader = world.send(get("/a", &[])).await;
    feed.send(data("one ")).expect("a reader");
    let follower = tokio::spawn({
        let world = world.clone();
        async move { world.get("/a").await }
    });
    tokio::task::yield_now().await;
    feed.send(data("two ")).expect("a reader");
    assert!(!follower.is_finished(), "it waits for the rest");
    feed.send(data("three")).expect("a reader");
    drop(feed);
    let follower = follower.await.expect("an answer");
    assert_eq!((follower.body.as_str(), follower.status_line()), ("one two three", "fwd=uri-miss; ttl=60; collapsed"));
    assert_eq!(got(leader).await.body, "one two three");
    assert!(world.is_quiet().await);
    assert_eq!(world.calls(), 1);
}

#[tokio::test]
async fn beyond_the_bound_the_leader_reads_on_and_followers_fetch_for_themselves() {
    let (feed, world) = fed_world(|b| b.max_entry(8), MINUTE, alone);
    let leader = world.send(get("/a", &[])).await;
    let followers: Vec<_> = (0..3)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.get("/a").await.body })
        })
        .collect();
    tokio::task::yield_now().await;
    for text in ["ABCD", "EFGH", "IJKL", "MNOP"] {
        feed.send(data(text)).expect("a reader");
    }
    for follower in followers {
        assert!(follower.await.expect("an answer").starts_with("own "), "at once, while the leader reads on");
    }
    drop(feed);
    assert_eq!(got(leader).await.body, "ABCDEFGHIJKLMNOP");
    assert!(world.is_quiet().await);
    assert_eq!(world.calls(), 4);
}

#[tokio::test]
async fn bodies_in_flight_share_one_bound() {
    let (feed, world) = fed_world(|b| b.memory(4096).max_entry(4096), MINUTE, |_| reply(MINUTE, vec![7; 3000]));
    let first = world.send(get("/a", &[])).await;
    feed.send(Ok(http_body::Frame::data(vec![1; 2000].into()))).expect("a reader");
    tokio::task::yield_now().await;
    assert_eq!(world.get("/b").await.body.len(), 3000, "never an error");
    drop(feed);
    assert_eq!(got(first).await.body.len(), 2000);
    assert_eq!(world.stats().routes["unmatched"].bypassed.get("no-room"), Some(&1));
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn waiters_of_another_variant_share_a_fetch_of_their_own() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let world = World::new(move |asked| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.expect("open");
            let lang = asked.header("x-lang").unwrap_or("none").to_owned();
            Ok(reply(&[("cache-control", "max-age=60"), ("vary", "x-lang")], lang))
        }
    });
    let clients: Vec<_> = (0..30)
        .map(|n| {
            let (world, lang) = (world.clone(), ["de", "en", "fr"][n % 3]);
            tokio::spawn(async move { (lang, world.get_with("/a", &[("x-lang", lang)]).await.body) })
        })
        .collect();
    tokio::task::yield_now().await;
    open.send(true).expect("a listener");
    for client in clients {
        let (lang, body) = client.await.expect("an answer");
        assert_eq!(body, lang);
    }
    assert_eq!(world.calls(), 3);
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn no_cache_storms_are_one_fetch_in_shared() {
    let world = World::shared(|asked| async move {
        tokio::task::yield_now().await;
        Ok(reply(&[("cache-control", "max-age=60"), ("etag", "\"a\"")], asked.call.to_string()))
    });
    world.get("/a").await;
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.get_with("/a", &[("cache-control", "no-cache")]).await.body })
        })
        .collect();
    for client in clients {
        assert_eq!(client.await.expect("an answer"), "1");
    }
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn revalidations_are_collapsed_too() {
    let world = World::new(|asked| async move {
        tokio::task::yield_now().await;
        Ok(match asked.header("if-none-match") {
            Some(_) => reply(&[(":status", "304"), ("cache-control", "max-age=60")], ""),
            None => reply(&[("cache-control", "max-age=60"), ("etag", "\"a\"")], "body"),
        })
    });
    world.get("/a").await;
    world.advance(61);
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.get("/a").await.body })
        })
        .collect();
    for client in clients {
        assert_eq!(client.await.expect("an answer"), "body");
    }
    assert_eq!(world.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn waiters_of_a_slow_revalidation_get_stale_at_their_deadline_where_they_may() {
    let world = World::new(|asked| async move {
        if asked.call > 0 {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        Ok(reply(&[("cache-control", "max-age=10, stale-if-error=1000")], "good"))
    });
    world.get("/a").await;
    world.advance(20);
    let leader = tokio::spawn({
        let world = world.clone();
        async move { world.get("/a").await }
    });
    tokio::task::yield_now().await;
    let waiter = world.get("/a").await;
    assert_eq!(waiter.status_line(), "fwd=stale; ttl=-10; detail=waited-too-long");
    leader.await.expect("an answer");
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn thousands_of_requests_in_a_row_leave_nothing_behind() {
    let origin = Origin::new(|asked: Asked| async move {
        tokio::task::yield_now().await;
        let n = asked.path.rsplit('/').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        let fields: &[_] = match n % 4 {
            0 => &[("cache-control", "no-store")],
            1 => &[("cache-control", "max-age=1, stale-while-revalidate=5")],
            2 => &[("cache-control", "max-age=5"), ("vary", "x-v"), ("etag", "\"a\"")],
            _ => MINUTE,
        };
        Ok(reply(fields, n.to_string()))
    });
    let world = World { origin, ..World::new(|_| async { Ok(reply(&[], "")) }) };
    let mut clients = Vec::new();
    for n in 0..5000_usize {
        let client = world.clone();
        clients.push(tokio::spawn(async move {
            let path = format!("/{}", n % 40);
            let got = client.get_with(&path, &[("x-v", &(n % 3).to_string())]).await;
            assert_eq!(got.body, (n % 40).to_string());
        }));
        if n % 50 == 0 {
            tokio::task::yield_now().await;
            world.advance(1);
        }
    }
    for client in clients {
        client.await.expect("an answer");
    }
    assert!(world.is_quiet().await, "{:?}", world.stats());
}

/// Readers, writers and invalidations on four threads: nobody is ever shown a state older than a write that was answered
/// before they asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_a_state_older_than_a_write_that_was_answered() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let state = Arc::new(AtomicUsize::new(0));
    let origin = state.clone();
    let world = World::new(move |asked| {
        let state = origin.clone();
        async move {
            if asked.method == "POST" {
                tokio::task::yield_now().await;
                return Ok(reply(&[], (state.fetch_add(1, Ordering::SeqCst) + 1).to_string()));
            }
            let seen = state.load(Ordering::SeqCst);
            for _ in 0..asked.call % 7 {
                tokio::task::yield_now().await;
            }
            Ok(reply(
                &[("cache-control", "max-age=1000, stale-while-revalidate=1000"), ("cache-tag", "t")],
                seen.to_string(),
            ))
        }
    });
    let answered = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for n in 0..8 {
        let (world, answered) = (world.clone(), answered.clone());
        tasks.push(tokio::spawn(async move {
            for turn in 0..500 {
                if n == 0 && turn % 5 == 0 {
                    let written: usize =
                        world.ask(world::request("POST", "/a", &[])).await.body.parse().expect("a number");
                    answered.fetch_max(written, Ordering::SeqCst);
                }
                if n == 1 && turn % 9 == 0 {
                    world.layer.invalidate().tag("t").await.expect("a tag");
                }
                let least = answered.load(Ordering::SeqCst);
                let seen: usize = world.get("/a").await.body.parse().expect("a number");
                assert!(seen >= least, "{seen} after {least}");
            }
        }));
    }
    for task in tasks {
        task.await.expect("no state was older");
    }
    assert!(world.is_quiet().await);
    let stats = world.stats();
    assert!(stats.inner_calls_avoided > 1000, "{stats:?}");
}
