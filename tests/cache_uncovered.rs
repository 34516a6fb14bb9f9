//! A GET that no rule covers goes straight to the service, until its route sends something storable.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/cache_world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tollgate::cache::{CacheBuilder, CacheLayer, Profile, Rule, Rules};
use tower::{Service, ServiceExt};
use world::{Asked, Reply, World, data, fed, get, got, reply, request};

const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60")];

/// One rule, for other requests than those of these tests.
fn uncovered(builder: CacheBuilder) -> CacheBuilder {
    builder.rules(Rules::new().route("/covered", Rule::from_headers()))
}

/// A world without a rule for its requests, whose origin answers the number of the call.
fn numbered(fields: &'static [(&'static str, &'static str)]) -> World {
    World::with(uncovered, move |asked| async move { Ok(reply(fields, asked.call.to_string())) })
}

/// A world whose origin answers the number of the call, with these fields, when a permit is added.
fn gated(
    set: fn(CacheBuilder) -> CacheBuilder,
    fields: &'static [(&'static str, &'static str)],
) -> (Arc<Semaphore>, World) {
    let gate = Arc::new(Semaphore::new(0));
    let permits = gate.clone();
    let world = World::with(set, move |asked: Asked| {
        let permits = permits.clone();
        async move {
            permits.acquire().await.expect("open").forget();
            Ok(reply(fields, asked.call.to_string()))
        }
    });
    (gate, world)
}

tokio::task_local! {
    static CALLER: u32;
}

#[tokio::test]
async fn it_is_not_coalesced_and_runs_in_the_task_of_its_client() {
    let world = World::with(uncovered, |asked: Asked| async move {
        let caller = CALLER.try_with(|caller| *caller).map_or("none".to_owned(), |caller| caller.to_string());
        tokio::task::yield_now().await;
        let later = CALLER.try_with(|caller| *caller).map_or("none".to_owned(), |caller| caller.to_string());
        Ok(reply(&[], format!("{} {caller} {later}", asked.call)))
    });
    let (first, second) = tokio::join!(CALLER.scope(1, world.get("/a")), CALLER.scope(2, world.get("/a")));
    assert_eq!((&*first.body, &*second.body), ("0 1 1", "1 2 2"));
    assert_eq!(first.status_line(), "fwd=uri-miss; detail=no-freshness");
    assert_eq!(world.stats().fetches_in_flight, 0);
    let route = &world.stats().routes["unmatched"];
    assert_eq!(
        (route.misses, route.collapsed, route.bypassed["no-freshness"]),
        (0, 0, 2),
        "no miss: nothing could be cached"
    );
    assert_eq!(world.stats().inner_calls, 2);
}

/// Counts futures that are alive.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_call() {
    let alive = Arc::new(AtomicUsize::new(0));
    let counter = alive.clone();
    let world = World::with(uncovered, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        let guard = Alive(counter.clone());
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok(reply(MINUTE, ""))
        }
    });
    let mut pending = Box::pin(world.send(get("/a", &[])));
    assert!(futures_util::future::poll_immediate(&mut pending).await.is_none());
    assert_eq!(alive.load(Ordering::SeqCst), 1);
    drop(pending);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert!(world.is_quiet().await);
}

#[tokio::test]
async fn a_storable_response_is_stored_and_then_the_route_is_coalesced() {
    let (gate, world) = gated(uncovered, MINUTE);
    gate.add_permits(1);
    assert_eq!(world.get("/a").await.status_line(), "fwd=uri-miss; stored");
    let hit = world.get("/a").await;
    assert!(hit.is_hit() && hit.body == "0");
    world.advance(61);
    let (first, second, ()) = tokio::join!(world.get("/a"), world.get("/a"), async { gate.add_permits(1) });
    assert_eq!((&*first.body, &*second.body), ("1", "1"), "one call for both");
    // After ten minutes without a storable response it is fetched by each client again.
    world.advance(700);
    world.layer.invalidate().all().await.expect("in process");
    let (first, second, ()) = tokio::join!(world.get("/a"), world.get("/a"), async { gate.add_permits(2) });
    assert_ne!(first.body, second.body);
}

#[tokio::test]
async fn routes_that_share_a_name_are_remembered_by_key() {
    let (gate, world) = gated(uncovered, MINUTE);
    gate.add_permits(1);
    world.get("/a").await;
    let (first, second, ()) = tokio::join!(world.get("/b"), world.get("/b"), async { gate.add_permits(2) });
    assert_ne!(first.body, second.body, "nothing is known of this key");
}

#[tokio::test]
async fn a_varying_response_is_stored_under_the_fields_of_its_request() {
    const VARYING: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("vary", "x-v")];
    let world = World::with(uncovered, |asked: Asked| async move {
        let fields = if asked.path == "/late" && asked.call < 2 { &[][..] } else { VARYING };
        Ok(reply(fields, asked.header("x-v").unwrap_or("none").to_owned()))
    });
    world.get_with("/late", &[("x-v", "1")]).await;
    assert_eq!(world.get_with("/late", &[("x-v", "1")]).await.status_line(), "fwd=uri-miss; detail=no-freshness");
    // The fields of a request are not copied while responses are not storable: the second storable one is stored.
    assert_eq!(world.get_with("/late", &[("x-v", "1")]).await.status_line(), "fwd=uri-miss; detail=hit-for-miss");
    assert_eq!(world.get_with("/late", &[("x-v", "1")]).await.status_line(), "fwd=uri-miss; stored");
    assert!(world.get_with("/late", &[("x-v", "1")]).await.is_hit());
    for v in ["1", "2"] {
        assert_eq!(world.get_with("/a", &[("x-v", v)]).await.body, v);
        let again = world.get_with("/a", &[("x-v", v)]).await;
        assert!(again.is_hit() && again.body == v);
    }
}

#[tokio::test]
async fn what_is_invalidated_during_the_call_is_not_stored_as_valid() {
    let (gate, world) = gated(uncovered, MINUTE);
    for unsafe_request in [true, false] {
        let mut pending = Box::pin(world.get("/a"));
        assert!(futures_util::future::poll_immediate(&mut pending).await.is_none());
        match unsafe_request {
            true => {
                // Its own answer takes the first permit that the pending GET does not.
                let deleted = tokio::spawn({
                    let world = world.clone();
                    async move { world.ask(request("DELETE", "/a", &[])).await }
                });
                tokio::task::yield_now().await;
                gate.add_permits(2);
                let first = pending.await;
                assert_eq!(deleted.await.expect("no panic").status, 200);
                assert_eq!(first.status, 200);
                // Stored before or void after: it is not served either way.
            }
            false => {
                world.layer.invalidate().prefix("/a").await.expect("in process");
                gate.add_permits(1);
                assert_eq!(pending.await.status, 200);
            }
        }
        gate.add_permits(1);
        assert!(!world.get("/a").await.is_hit(), "unsafe request: {unsafe_request}");
        world.layer.invalidate().all().await.expect("in process");
    }
}

#[tokio::test]
async fn bodies_stream_through_and_are_stored_when_complete() {
    for fields in [&[][..], MINUTE] {
        let (feed, body) = fed();
        let body = std::sync::Mutex::new(Some(body));
        let world = World::with(uncovered, move |_| {
            let body = body.lock().expect("not poisoned").take();
            async move {
                let mut response = reply(fields, "again");
                if let Some(body) = body {
                    *response.body_mut() = body;
                }
                Ok::<Reply, _>(response)
            }
        });
        let mut body = world.send(get("/a", &[])).await.into_body();
        for text in ["one ", "two"] {
            feed.send(data(text)).expect("a reader");
            let frame = body.frame().await.expect("a frame").expect("no error");
            assert_eq!(frame.into_data().expect("data"), text);
        }
        drop(feed);
        assert!(body.frame().await.is_none());
        drop(body);
        assert!(world.is_quiet().await);
        let again = world.get("/a").await;
        assert_eq!(
            (again.is_hit(), &*again.body),
            if fields.is_empty() { (false, "again") } else { (true, "one two") }
        );
    }
}

#[tokio::test]
async fn a_body_is_stored_though_its_client_leaves() {
    let (feed, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let world = World::with(uncovered, move |_| {
        let body = body.lock().expect("not poisoned").take();
        async move {
            let mut response = reply(MINUTE, "");
            *response.body_mut() = body.expect("one call");
            Ok::<Reply, _>(response)
        }
    });
    drop(world.send(get("/a", &[])).await);
    tokio::task::yield_now().await;
    feed.send(data("whole")).expect("a reader");
    drop(feed);
    assert!(world.is_quiet().await);
    assert_eq!(world.get("/a").await.body, "whole");
}

#[tokio::test]
async fn its_errors_and_bypasses_are_as_before() {
    let world = numbered(MINUTE);
    let bypass = world.get_with("/a", &[("authorization", "x")]).await;
    assert_eq!(bypass.status_line(), "fwd=bypass; detail=authorization");
    assert_eq!(world.ask(request("HEAD", "/a", &[])).await.status_line(), "fwd=uri-miss");
    assert_eq!(world.get("/a").await.body, "2", "neither was stored");
    // A condition reaches the service, and a response to it is compared with it.
    let world = numbered(&[("cache-control", "max-age=60"), ("etag", "\"a\"")]);
    let conditional = world.get_with("/a", &[("if-none-match", "\"a\"")]).await;
    assert_eq!((conditional.status, world.asked()[0].header("if-none-match")), (304, Some("\"a\"")));
    assert!(world.get("/a").await.is_hit(), "the service sent the whole");

    let world = World::with(uncovered, |_| async move { Err::<Reply, _>(world::Fault("down")) });
    assert!(world.service().call(get("/a", &[])).await.is_err());
    assert_eq!((world.stats().routes["unmatched"].misses, world.stats().inner_calls), (0, 1));
}

#[tokio::test]
async fn only_what_could_be_cached_is_a_miss() {
    let world = World::with(uncovered, |asked: Asked| async move {
        let fields: &[(&str, &str)] = match asked.path.as_str() {
            "/storable" => &[("cache-control", "max-age=60")],
            "/mixed" if asked.call == 0 => &[("cache-control", "max-age=1")],
            _ => &[],
        };
        Ok(reply(fields, asked.call.to_string()))
    });
    let route = |world: &World| world.stats().routes["unmatched"].clone();
    // Its route has sent something storable, so that the second is shared like a covered one.
    world.get("/mixed").await;
    world.advance(2);
    world.get("/mixed").await;
    assert_eq!((route(&world).misses, route(&world).bypassed["no-freshness"]), (1, 1));
    world.get("/storable").await;
    assert!(world.get("/storable").await.is_hit());
    assert_eq!((route(&world).misses, route(&world).hits), (2, 1));
    // What a rule covers is meant to be cached: each of its fetches is a miss.
    let covered = World::with(
        |builder| builder.rules(Rules::new().otherwise(Rule::from_headers())),
        |asked: Asked| async move { Ok(reply(&[], asked.call.to_string())) },
    );
    covered.get("/a").await;
    assert_eq!(covered.stats().routes["unmatched"].misses, 1);
}

#[tokio::test]
async fn with_a_rule_for_the_rest_or_in_profile_shared_it_is_coalesced_at_once() {
    for set in [
        (|b: CacheBuilder| b.rules(Rules::new().otherwise(Rule::from_headers()))) as fn(CacheBuilder) -> CacheBuilder,
        |b| b.profile(Profile::Shared).rules(Rules::new()),
        |b| b.rules(Rules::new().otherwise(Rule::ttl(Duration::from_secs(9)))),
    ] {
        let (gate, world) = gated(set, MINUTE);
        gate.add_permits(1);
        let (first, second) = tokio::join!(world.get("/a"), world.get("/a"));
        assert_eq!((&*first.body, &*second.body), ("0", "0"));
    }
    let (gate, world) = gated(uncovered, MINUTE);
    gate.add_permits(2);
    let mut service = world.service();
    let (first, second) = tokio::join!(service.call(get("/covered", &[])), world.send(get("/covered", &[])));
    assert_eq!(got(first.expect("an answer")).await.body, got(second).await.body);
}

#[tokio::test]
async fn a_matched_route_is_remembered_for_all_its_keys() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let handler = move || {
        let counted = counted.clone();
        async move {
            let call = counted.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            ([("cache-control", "max-age=60")], call.to_string())
        }
    };
    let layer = uncovered(CacheLayer::builder()).build().expect("a layer");
    let app = axum::Router::new().route("/items/{id}", axum::routing::get(handler)).layer(layer.clone());
    let ask = |path: &str| {
        let request = http::Request::get(path).header("host", "h").body(axum::body::Body::empty()).expect("a request");
        let app = app.clone();
        async move {
            let response = app.oneshot(request).await.expect("infallible");
            response.into_body().collect().await.expect("a body").to_bytes()
        }
    };
    let (first, second) = tokio::join!(ask("/items/1"), ask("/items/1"));
    assert_ne!(first, second, "nothing is known of the route");
    let (first, second) = tokio::join!(ask("/items/2"), ask("/items/2"));
    assert_eq!(first, second);
    assert_eq!((calls.load(Ordering::SeqCst), layer.stats().routes["/items/{id}"].collapsed), (3, 1));
}
