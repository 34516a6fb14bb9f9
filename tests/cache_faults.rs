//! What happens when fetches are slow, endless, broken, cancelled or panic: nobody waits too long, nothing is left behind.
#![allow(clippy::disallowed_methods, reason = "tests of deadlines read the paused clock")]

#[path = "support/cache_world.rs"]
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use tollgate::cache::{Rule, Rules};
use world::{Fault, World, data, fed, full, get, got, reply, request};

const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60")];

/// Asks twice and tells whether the second answer came from the cache.
async fn is_cached(world: &World, path: &str, fields: &[(&str, &str)]) -> bool {
    world.get_with(path, fields).await;
    world.get_with(path, fields).await.is_hit()
}

/// A world whose origin answers these fields, and nothing else.
fn answers(fields: &'static [(&'static str, &'static str)]) -> World {
    World::numbered(fields)
}

#[tokio::test(start_paused = true)]
async fn a_slow_fetch_cannot_bring_back_what_was_invalidated() {
    let (feed, gate) = tokio::sync::watch::channel(false);
    let world = World::new(move |asked| {
        let mut gate = gate.clone();
        async move {
            if asked.call == 0 {
                gate.wait_for(|open| *open).await.expect("open");
            }
            Ok(reply(MINUTE, asked.call.to_string()))
        }
    });
    let slow = tokio::spawn({
        let world = world.clone();
        async move { world.get("/a").await.body }
    });
    tokio::task::yield_now().await;
    world.ask(request("POST", "/a", &[])).await;
    let begin = tokio::time::Instant::now();
    let fresh = world.get("/a").await.body;
    assert!(begin.elapsed().is_zero(), "it is not even waited for");
    assert_eq!(fresh, "2", "nor may it be waited for");
    feed.send(true).expect("a listener");
    assert_eq!(slow.await.expect("an answer"), "0");
    assert_eq!(world.get("/a").await.body, "2");
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn an_event_stream_flows_at_once_and_is_never_stored() {
    let (feed, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let rules = Rules::new().otherwise(Rule::ttl(Duration::from_secs(60)));
    let world = World::with(
        |b| b.rules(rules),
        move |_| {
            let body = body.lock().expect("not poisoned").take().expect("one call");
            async move {
                let mut response = reply(&[("content-type", "text/event-stream")], "");
                *response.body_mut() = body;
                Ok(response)
            }
        },
    );
    let response = world.send(get("/events", &[])).await;
    assert!(response.headers()["cache-status"].to_str().expect("text").contains("event-stream"));
    let mut body = response.into_body();
    feed.send(data("one")).expect("a reader");
    assert_eq!(body.frame().await.expect("a frame").expect("no error").into_data().expect("data"), "one");
    drop(feed);
    assert!(body.frame().await.is_none());
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn a_body_beyond_the_bound_flows_on_in_constant_memory() {
    const CHUNK: usize = 64 * 1024;
    let world = World::with(
        |b| b.max_entry(1 << 20),
        |_| async {
            let chunks = futures_util::stream::iter(
                (0..1000).map(|_| Ok::<_, Fault>(http_body::Frame::data(Bytes::from(vec![7; CHUNK])))),
            );
            let mut response = reply(MINUTE, "");
            *response.body_mut() = BodyExt::boxed_unsync(http_body_util::StreamBody::new(chunks));
            Ok(response)
        },
    );
    let mut body = world.send(get("/big", &[])).await.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.expect("never an error").into_data().expect("data").len();
        assert!(world.stats().in_flight_bytes <= (1 << 20) + CHUNK as u64);
    }
    assert_eq!(length, 1000 * CHUNK);
    assert!(!world.get("/big").await.is_hit());
    assert_eq!(world.stats().levels[0].entries, 0);
    let route = &world.stats().routes["unmatched"];
    assert_eq!((route.bypassed["too-large"], route.bypassed["hit-for-miss"]), (2, 1));
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn a_promised_length_beyond_the_bound_is_not_even_begun() {
    let world = World::with(
        |b| b.max_entry(10),
        |_| async { Ok(reply(&[MINUTE[0], ("content-length", "11")], "12345678901")) },
    );
    assert_eq!(world.get("/a").await.status_line(), "fwd=uri-miss; detail=too-large");
}

#[tokio::test]
async fn a_truncated_or_broken_body_is_not_stored() {
    let world = answers(&[("cache-control", "max-age=60"), ("content-length", "5")]);
    assert!(!is_cached(&world, "/a", &[]).await);
    let world = World::new(|_| async {
        let (feed, body) = fed();
        for frame in [data("a"), data("b"), data("c"), Err(Fault("broken"))] {
            feed.send(frame).expect("a reader");
        }
        let mut response = reply(MINUTE, "");
        *response.body_mut() = body;
        Ok(response)
    });
    for _ in 0..2 {
        let error = world.send(get("/a", &[])).await.into_body().collect().await.expect_err("the inner error");
        assert_eq!(error.into_inner().to_string(), "broken");
    }
    assert_eq!((world.calls(), world.stats().levels[0].entries), (2, 0));
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn a_body_with_trailers_passes_whole_and_is_not_stored() {
    let world = World::new(|_| async {
        let (feed, body) = fed();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("7"));
        feed.send(data("a")).expect("a reader");
        feed.send(Ok(http_body::Frame::trailers(trailers))).expect("a reader");
        let mut response = reply(MINUTE, "");
        *response.body_mut() = body;
        Ok(response)
    });
    for _ in 0..2 {
        let all = world.send(get("/a", &[])).await.into_body().collect().await.expect("a body");
        assert_eq!(all.trailers().expect("trailers")["x-sum"], "7");
    }
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn a_thousand_misses_at_once_are_one_call() {
    let world = World::new(|asked| async move {
        tokio::task::yield_now().await;
        Ok(reply(MINUTE, asked.call.to_string()))
    });
    let clients: Vec<_> = (0..1000)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.get("/a").await.body })
        })
        .collect();
    for client in clients {
        assert_eq!(client.await.expect("an answer"), "0");
    }
    assert_eq!(world.calls(), 1);
    assert_eq!(world.stats().routes["unmatched"].collapsed, 999);
    assert!(world.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn an_uncacheable_answer_is_its_own_clients_and_the_others_go_at_once_in_parallel() {
    let world = World::new(|asked| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(reply(&[("cache-control", "no-store")], asked.call.to_string()))
    });
    let begin = tokio::time::Instant::now();
    let clients: Vec<_> = (0..30)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.get("/a").await.body })
        })
        .collect();
    let mut bodies = Vec::new();
    for client in clients {
        bodies.push(client.await.expect("an answer").parse::<u32>().expect("a number"));
    }
    bodies.sort_unstable();
    assert_eq!(bodies, (0..30).collect::<Vec<_>>(), "each has its own");
    assert!(begin.elapsed() <= Duration::from_millis(210), "{:?}", begin.elapsed());
    let begin = tokio::time::Instant::now();
    tokio::join!(world.get("/a"), world.get("/a"), world.get("/a"));
    assert!(begin.elapsed() <= Duration::from_millis(105), "nobody waits for a key known to be uncacheable");
    assert!(world.is_quiet().await);
}

/// The first call hangs for ever; the others answer.
fn hanging() -> World {
    World::new(|asked| async move {
        if asked.call == 0 {
            std::future::pending::<()>().await;
        }
        Ok(reply(MINUTE, asked.call.to_string()))
    })
}

#[tokio::test(start_paused = true)]
async fn waiters_of_a_hung_leader_leave_at_their_deadline() {
    let world = hanging();
    let leader = tokio::spawn({
        let world = world.clone();
        async move { world.get("/a").await }
    });
    tokio::task::yield_now().await;
    let begin = tokio::time::Instant::now();
    let waiters = futures_util::future::join_all((0..20).map(|_| world.get("/a"))).await;
    assert!(begin.elapsed() >= Duration::from_secs(3) && begin.elapsed() <= Duration::from_millis(3010));
    assert!(waiters.iter().all(|got| got.body != "0"));
    assert!(world.calls() <= 9, "a few at a time, the others find what those stored: {}", world.calls());
    leader.abort();
}

#[tokio::test]
async fn a_client_that_leaves_cancels_nothing() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let world = World::new(move |asked| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.expect("open");
            Ok(reply(MINUTE, asked.call.to_string()))
        }
    });
    let leader = tokio::spawn({
        let world = world.clone();
        async move { world.get("/a").await }
    });
    let waiter = tokio::spawn({
        let world = world.clone();
        async move { world.get("/a").await.body }
    });
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    leader.abort();
    let left = tokio::spawn({
        let world = world.clone();
        async move { world.get("/a").await.body }
    });
    tokio::task::yield_now().await;
    left.abort();
    open.send(true).expect("a listener");
    assert_eq!(waiter.await.expect("an answer"), "0");
    assert_eq!(world.calls(), 1);
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn a_client_that_leaves_inside_the_body_cancels_nothing() {
    let (feed, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let world = World::new(move |_| {
        let body = body.lock().expect("not poisoned").take().expect("one call");
        async move {
            let mut response = reply(&[("cache-control", "max-age=60"), ("content-length", "4")], "");
            *response.body_mut() = body;
            Ok(response)
        }
    });
    let leader = world.send(get("/a", &[])).await;
    feed.send(data("ab")).expect("a reader");
    drop(leader);
    let waiter = world.send(get("/a", &[])).await;
    feed.send(data("cd")).expect("still read");
    drop(feed);
    assert_eq!(got(waiter).await.body, "abcd");
    assert!(world.is_quiet().await);
    assert!(world.get("/a").await.is_hit());
}

#[tokio::test]
async fn a_panic_goes_to_the_leaders_client_and_frees_everybody_else() {
    let world = World::new(|asked| async move {
        tokio::task::yield_now().await;
        assert_ne!(asked.call, 0, "the handler's own panic");
        Ok(reply(MINUTE, asked.call.to_string()))
    });
    let leader = tokio::spawn({
        let world = world.clone();
        async move { world.get("/a").await }
    });
    tokio::task::yield_now().await;
    let waiters = futures_util::future::join_all((0..20).map(|_| world.get("/a"))).await;
    let panic = leader.await.expect_err("the panic").into_panic();
    assert!(panic.downcast_ref::<String>().expect("a message").contains("the handler's own panic"));
    assert!(waiters.iter().all(|got| got.status == 200));
    assert!(world.calls() <= 9, "{}", world.calls());
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn a_panic_inside_the_body_ends_it_in_an_error() {
    let world = World::new(|asked| async move {
        let stream = futures_util::stream::poll_fn(move |cx| {
            if asked.call == 0 {
                static TURNS: AtomicUsize = AtomicUsize::new(0);
                assert!(TURNS.fetch_add(1, Ordering::SeqCst) == 0, "the body's own panic");
                cx.waker().wake_by_ref();
                return std::task::Poll::Pending;
            }
            std::task::Poll::Ready(None::<Result<http_body::Frame<Bytes>, Fault>>)
        });
        let mut response = reply(MINUTE, "");
        *response.body_mut() = BodyExt::boxed_unsync(http_body_util::StreamBody::new(stream));
        Ok(response)
    });
    assert!(world.send(get("/a", &[])).await.into_body().collect().await.is_err());
    assert!(world.is_quiet().await);
    assert!(!world.get("/a").await.is_hit());
}

#[tokio::test]
async fn an_error_goes_to_the_leader_and_stale_stands_in_only_within_its_window() {
    let world = World::new(|asked| async move {
        match asked.call {
            0 => Ok(reply(&[("cache-control", "max-age=10, stale-if-error=20")], "good")),
            n if n % 2 == 0 => Ok(reply(&[(":status", "503")], "bad")),
            _ => Err(Fault("refused")),
        }
    });
    world.get("/a").await;
    world.advance(15);
    for _ in 0..2 {
        let stale = world.get("/a").await;
        assert_eq!((stale.body.as_str(), stale.header("age")), ("good", Some("15")));
        assert!(stale.status_line().starts_with("fwd=stale;") && stale.status_line().ends_with("; ttl=-5"));
    }
    world.advance(16);
    let error = tower::ServiceExt::oneshot(world.service(), get("/a", &[])).await.expect_err("the error itself");
    assert_eq!(error.to_string(), "refused");
    assert_eq!(world.get("/a").await.status, 503);
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn an_entry_that_is_invalidated_during_a_fetch_does_not_stand_in_for_its_failure() {
    let (answers, fed) = tokio::sync::mpsc::unbounded_channel::<()>();
    let fed = std::sync::Arc::new(tokio::sync::Mutex::new(fed));
    let world = World::new(move |asked| {
        let fed = fed.clone();
        async move {
            match asked.call {
                0 => Ok(reply(&[("cache-control", "max-age=10, stale-if-error=100")], "private no more")),
                _ => {
                    fed.lock().await.recv().await;
                    Ok(reply(&[(":status", "503")], "down"))
                }
            }
        }
    });
    world.get("/a").await;
    world.advance(15);
    let asked = world.clone();
    let fetch = tokio::spawn(async move { asked.get("/a").await });
    while world.calls() < 2 {
        tokio::task::yield_now().await;
    }
    world.layer.invalidate().all().await.expect("in process");
    answers.send(()).expect("it waits");
    assert_eq!(fetch.await.expect("no panic").body, "down");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_costs_the_soft_time_out_while_a_stale_response_may_stand_in() {
    let rule = Rule::ttl(Duration::from_secs(10)).stale_if_error(Duration::from_secs(100));
    let rule = rule.soft_timeout(Duration::from_millis(200));
    let world = World::with(
        |b| b.rules(Rules::new().otherwise(rule)),
        |asked| async move {
            let span = Duration::from_secs(if asked.call == 0 { 0 } else { 2 });
            tokio::time::sleep(span).await;
            Ok(reply(&[], format!("answer {}", asked.call)))
        },
    );
    assert_eq!(world.get("/a").await.body, "answer 0");
    world.advance(15);
    // The leader, and those who would wait for it.
    let begun = tokio::time::Instant::now();
    let asked = futures_util::future::join_all((0..10).map(|_| world.get("/a"))).await;
    for got in asked {
        assert_eq!(got.body, "answer 0");
        assert!(got.status_line().contains("detail=soft-timeout"), "{}", got.status_line());
    }
    assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let fresh = world.get("/a").await;
    assert!(fresh.is_hit() && fresh.body == "answer 1", "the fetch went on: {}", fresh.body);
    assert_eq!(world.calls(), 2);
    // Beyond its window, or invalidated, nothing stands in.
    world.advance(200);
    assert_eq!(world.get("/a").await.body, "answer 2");
    world.advance(15);
    world.layer.invalidate().all().await.expect("in process");
    assert_eq!(world.get("/a").await.body, "answer 3");
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn a_thousand_cycles_of_every_fault_leave_nothing_behind() {
    let world = World::new(|asked| async move {
        tokio::task::yield_now().await;
        match asked.call % 5 {
            0 => Err(Fault("refused")),
            1 => Ok(reply(&[(":status", "500")], "")),
            2 => Ok(reply(&[MINUTE[0], ("content-length", "9")], "short")),
            3 => {
                let mut response = reply(&[("cache-control", "no-store")], "");
                *response.body_mut() = full("x");
                Ok(response)
            }
            _ => Ok(reply(MINUTE, "good")),
        }
    });
    for n in 0..1000 {
        let path = format!("/{n}");
        let one = tower::ServiceExt::oneshot(world.service(), get(&path, &[]));
        let two = tower::ServiceExt::oneshot(world.service(), get(&path, &[]));
        let _ = futures_util::future::poll_immediate(std::pin::pin!(two)).await;
        let _ = one.await;
    }
    assert!(world.is_quiet().await, "{:?}", world.stats());
}

#[tokio::test]
async fn a_write_whose_answer_nobody_saw_invalidates_to_be_safe() {
    for profile in [tollgate::cache::Profile::App, tollgate::cache::Profile::Shared] {
        let world = World::with(
            |b| b.profile(profile),
            |asked| async move {
                match asked.method.as_str() {
                    "POST" if asked.header("x-hang").is_some() => std::future::pending().await,
                    "POST" => Err(Fault("after the write")),
                    _ => Ok(reply(MINUTE, asked.call.to_string())),
                }
            },
        );
        let store = async |expected: bool| assert_eq!(world.get("/a").await.is_hit(), expected);
        store(false).await;
        store(true).await;
        let failed = tower::ServiceExt::oneshot(world.service(), world::request("POST", "/a", &[])).await;
        assert_eq!(failed.expect_err("the error itself").to_string(), "after the write");
        store(false).await;
        store(true).await;
        let left = tower::ServiceExt::oneshot(world.service(), world::request("POST", "/a", &[("x-hang", "1")]));
        assert!(futures_util::future::poll_immediate(std::pin::pin!(left)).await.is_none());
        store(false).await;
        assert!(world.is_quiet().await);
    }
}
