//! References, events, and the user's own responses to refusals.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use support::{Req, World, field, from, text};
use tollgate::identity::{Key, by};
use tollgate::limit::{Limit, RateLimitBuilder, RateLimitLayer, Rejection, Tiers};
use tollgate::{Clock, Event};

const IP: &str = "192.0.2.1";

fn world(builder: RateLimitBuilder) -> (World, RateLimitLayer) {
    let mut built = None;
    let world = World::new(|clock| built.insert(builder.clock(clock).build().expect("a layer")).clone());
    (world, built.expect("a layer"))
}

fn user(name: &str) -> Req {
    let mut request = from(IP, "/articles/7");
    request.headers_mut().insert("x-user", name.parse().expect("a value"));
    request
}

#[tokio::test]
async fn the_reference_in_the_body_and_in_the_event_finds_the_decision() {
    let seen: Arc<Mutex<Vec<(String, String, u64)>>> = Arc::default();
    let sink = seen.clone();
    let tiers = Tiers::new("1/min").tier("pro", "2/min").assign(|_| Some("pro"));
    let builder = RateLimitLayer::builder()
        .identify(by::header("x-user"))
        .routes(["/articles/{id}"])
        .limit(Limit::from(tiers).named("plan").per_route())
        .hook(move |event| {
            if let Event::Refused { route, limit, tier, key, reference, .. } = event {
                assert_eq!((*route, *limit, *tier), ("/articles/{id}", "plan-pro", "pro"));
                let key = key.expect("a subject");
                sink.lock().expect("not poisoned").push(((*reference).to_owned(), (*limit).to_owned(), key));
            }
        });
    let (world, layer) = world(builder);
    assert_eq!(world.admitted(2, || user("alice")).await, 2);
    let refused = world.send(user("alice")).await;
    let body: serde_json::Value = serde_json::from_str(&text(refused).await).expect("JSON");
    let reference = body["reference"].as_str().expect("a reference");
    let (of_event, _, key) = seen.lock().expect("not poisoned")[0].clone();
    assert_eq!(of_event, reference);
    world.advance(5.0);
    let refusal = layer.refusal(&reference.to_lowercase()).expect("found again");
    assert_eq!((refusal.route.as_str(), refusal.tier.as_str()), ("/articles/{id}", "pro"));
    assert_eq!((refusal.limits, refusal.key), (vec!["plan-pro".to_owned()], format!("{key:016x}")));
    assert_eq!(refusal.retry_after, Duration::from_secs(60));
    assert_eq!(Clock::Manual(world.hand.clone()).wall(), refusal.at + Duration::from_secs(5));
    assert!(layer.refusal("000000000000").is_none());
}

#[tokio::test]
async fn the_last_twenty_refusals_of_a_subject_are_kept() {
    let (world, layer) = world(RateLimitLayer::builder().limit(Limit::per_ip("1/min").named("ip")));
    world.admitted(31, || from(IP, "/")).await;
    world.admitted(5, || from("192.0.2.2", "/")).await;
    let refusals = |ip: &str| layer.subject(Key::ip(ip.parse().expect("an address"))).refusals();
    assert_eq!(refusals(IP).len(), 20);
    assert_eq!(refusals("192.0.2.2").len(), 4);
    assert_eq!(refusals("192.0.2.3"), []);
    let found = refusals(IP).iter().all(|refusal| layer.refusal(&refusal.reference).as_ref() == Some(refusal));
    assert!(found);
    let stats = layer.stats();
    assert_eq!((stats.limits[0].admitted, stats.limits[0].refused), (2, 34));
}

#[tokio::test]
async fn per_limit_admitted_refused_and_shadowed_are_counted() {
    let (world, layer) = world(
        RateLimitLayer::builder()
            .limit(Limit::per_ip("2/min").named("ip"))
            .limit(Limit::global("1/min").named("all").shadow()),
    );
    world.admitted(5, || from(IP, "/")).await;
    let limits = layer.stats().limits;
    assert_eq!((limits[0].admitted, limits[0].refused, limits[0].would_refuse), (2, 3, 0));
    assert_eq!((limits[1].admitted, limits[1].refused), (1, 0));
    assert!(limits[1].would_refuse >= 1);
}

#[tokio::test]
async fn a_response_of_the_user_leaves_grpc_clients_theirs() {
    let (world, _) =
        world(RateLimitLayer::builder().limit(Limit::per_ip("1/min")).on_reject(|rejection: &Rejection<'_>| {
            let kind = rejection.head().header("content-type").map(|kind| kind.as_bytes());
            let body = format!("{{\"reference\":\"{}\"}}", rejection.reference());
            (kind != Some(b"application/grpc"))
                .then(|| Response::builder().status(429).body(Bytes::from(body)).expect("a response"))
        }));
    world.send(from(IP, "/")).await;
    let own = world.send(from(IP, "/")).await;
    assert_eq!((own.status().as_u16(), field(&own, "retry-after")), (429, "60"));
    assert!(text(own).await.starts_with("{\"reference\":\""));
    let mut call = from(IP, "/");
    call.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
    let grpc = world.send(call).await;
    assert_eq!((grpc.status().as_u16(), field(&grpc, "grpc-status")), (200, "8"));
    assert!(field(&grpc, "grpc-message").starts_with("rate limit exceeded; reference "));
}
