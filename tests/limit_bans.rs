//! The deny list, and bans after repeated refusals.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{Req, World, field, from, text};
use tollgate::identity::{Key, KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Limit, RateLimitBuilder, RateLimitLayer};
use tollgate::{Clock, Event, Mode};

const IP: &str = "192.0.2.1";

fn world(builder: RateLimitBuilder) -> (World, RateLimitLayer) {
    let mut built = None;
    let world = World::new(|clock| built.insert(builder.clock(clock).build().expect("a layer")).clone());
    (world, built.expect("a layer"))
}

fn user(name: &str, ip: &str) -> Req {
    let mut request = from(ip, "/");
    request.headers_mut().insert("x-user", name.parse().expect("a value"));
    request
}

fn who() -> impl KeyExtractor {
    by::header("x-user").or(by::client_ip(TrustedProxies::none()))
}

#[tokio::test]
async fn addresses_networks_and_identities_are_denied() {
    let alice = by::header("x-user");
    let request = user("alice", IP);
    let key = alice.extract(&tollgate::RequestHead::of(&request)).expect("a key");
    let (world, layer) = world(
        RateLimitLayer::builder()
            .identify(who())
            .limit(Limit::per_user("100/min"))
            .deny_ips(["203.0.113.0/24", "2001:db8::7"])
            .deny_keys([key]),
    );
    for denied in [from("203.0.113.9", "/"), from("2001:db8::7", "/"), user("alice", IP), user("bob", "203.0.113.9")] {
        let refused = world.send(denied).await;
        assert_eq!((refused.status().as_u16(), field(&refused, "retry-after")), (403, ""));
        let body: serde_json::Value = serde_json::from_str(&text(refused).await).expect("JSON");
        assert_eq!((&body["status"], body["title"].as_str()), (&403.into(), Some("Forbidden")));
        assert!(layer.refusal(body["reference"].as_str().expect("a reference")).is_some());
    }
    for admitted in [from(IP, "/"), from("2001:db8::8", "/"), user("bob", IP)] {
        assert_eq!(world.status(admitted).await, 200);
    }
    let mut call = from("203.0.113.9", "/");
    call.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
    assert_eq!(field(&world.send(call).await, "grpc-status"), "7");
    assert_eq!((layer.stats().denied, layer.stats().refused), (5, 5));
    layer.set_mode(Mode::Shadow);
    assert_eq!(world.status(user("alice", IP)).await, 200);
    assert!(RateLimitLayer::builder().limit(Limit::per_ip("1/s")).deny_ips(["x"]).build().is_err());
}

#[tokio::test]
async fn a_limit_bans_after_so_many_refusals_from_all_routes_until_the_end() {
    let seen: Arc<Mutex<u32>> = Arc::default();
    let sink = seen.clone();
    let logins = Limit::per_ip("2/min").on("/login").named("logins").ban_after(3, Duration::from_secs(600));
    let (world, layer) = world(RateLimitLayer::builder().limit(logins).hook(move |event| {
        if let Event::Banned { limit: "logins", span, .. } = event {
            assert_eq!(*span, Duration::from_secs(600));
            *sink.lock().expect("not poisoned") += 1;
        }
    }));
    let login = || from(IP, "/login");
    assert_eq!(world.admitted(4, login).await, 2, "refused twice");
    assert_eq!(world.status(from(IP, "/")).await, 200, "not banned yet");
    assert_eq!(world.status(login()).await, 429);
    let banned = world.send(from(IP, "/")).await;
    assert_eq!((banned.status().as_u16(), field(&banned, "retry-after")), (403, "600"));
    assert_eq!(world.admitted(5, login).await, 0);
    assert_eq!(world.status(from("192.0.2.2", "/login")).await, 200, "others are not");
    world.advance(599.5);
    let banned = world.send(from(IP, "/")).await;
    assert_eq!((banned.status().as_u16(), field(&banned, "retry-after")), (403, "1"));
    world.advance(0.5);
    assert_eq!(world.status(from(IP, "/")).await, 200);
    assert_eq!(world.admitted(4, login).await, 2, "it begins anew");
    assert_eq!(world.status(from(IP, "/")).await, 200);
    assert_eq!((*seen.lock().expect("not poisoned"), layer.stats().denied), (1, 7));
}

#[tokio::test]
async fn refusals_of_an_earlier_period_do_not_count() {
    let limit = Limit::per_ip("1/min").ban_after(3, Duration::from_secs(600));
    let (world, _) = world(RateLimitLayer::builder().limit(limit));
    for _ in 0..5 {
        assert_eq!(world.admitted(3, || from(IP, "/")).await, 1);
        world.advance(61.0);
    }
}

#[tokio::test]
async fn an_operator_bans_and_a_reset_lifts_every_ban() {
    let limit = Limit::per_ip("1/min").ban_after(1, Duration::from_secs(600));
    let (world, layer) = world(RateLimitLayer::builder().identify(who()).limit(limit));
    let until = Clock::Manual(world.hand.clone()).wall() + Duration::from_secs(60);
    let client = layer.subject(Key::ip(IP.parse().expect("an address")));
    client.ban(until).await.expect("a ban");
    assert_eq!(world.status(from(IP, "/")).await, 403);
    assert_eq!(world.status(user("alice", IP)).await, 403, "whoever sends from there");
    client.reset().await.expect("in process");
    assert_eq!(world.admitted(2, || from(IP, "/")).await, 1);
    assert_eq!(world.status(from(IP, "/")).await, 403, "banned by the limit");
    client.reset().await.expect("in process");
    assert_eq!(world.status(from(IP, "/")).await, 200);
    client.ban(until).await.expect("a ban");
    world.advance(60.0);
    assert_eq!(world.status(from(IP, "/")).await, 200, "it has ended");
}

#[test]
fn impossible_bans_fail_when_the_layer_is_built() {
    let minute = Duration::from_secs(60);
    for limit in [
        Limit::per_ip("1/min").ban_after(0, minute),
        Limit::per_ip("1/min").ban_after(3, Duration::ZERO),
        Limit::per_ip("1/min").per_route().ban_after(3, minute),
        Limit::global("1/min").ban_after(3, minute),
    ] {
        assert!(RateLimitLayer::builder().limit(limit).build().expect_err("a mistake").is_config());
    }
}
