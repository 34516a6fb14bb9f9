//! Limits without a request: look at, charge, reset and grant.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::time::Duration;

use support::{Req, World, from};
use tollgate::identity::{Key, KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Limit, RateLimitBuilder, RateLimitLayer, Tiers};
use tollgate::{Clock, Mode};

const IP: &str = "192.0.2.1";

fn world(builder: RateLimitBuilder) -> (World, RateLimitLayer) {
    let mut built = None;
    let world = World::new(|clock| {
        let layer = builder.clock(clock).build().expect("a layer");
        built.insert(layer).clone()
    });
    (world, built.expect("a layer"))
}

fn client() -> Key<'static> {
    Key::ip(IP.parse().expect("an address"))
}

#[tokio::test]
async fn a_request_and_a_check_have_one_count() {
    let (world, layer) = world(RateLimitLayer::builder().limit(Limit::per_ip("10/min")));
    assert_eq!(world.admitted(4, || from(IP, "/")).await, 4);
    let client = layer.subject(client());
    assert_eq!(client.peek().await.limits()[0].verdict().remaining(), 6);
    assert!(client.check(5).await.admits());
    let refused = client.check(2).await;
    assert!(!refused.admits() && refused.retry_after() == Some(Duration::from_secs(60)), "{refused:?}");
    assert_eq!(world.admitted(9, || from(IP, "/")).await, 1, "a refused check costs nothing");
    let stats = layer.stats();
    assert_eq!((stats.admitted, stats.refused), (6, 9), "checks are counted, looks are not");
    client.reset().await.expect("in process");
    assert_eq!(world.admitted(20, || from(IP, "/")).await, 10);
}

#[tokio::test]
async fn an_ipv6_address_is_counted_by_its_prefix() {
    let (world, layer) = world(RateLimitLayer::builder().limit(Limit::per_ip("2/min")));
    assert_eq!(world.admitted(9, || from("2001:db8::1", "/")).await, 2);
    let neighbour = layer.subject(Key::ip("2001:db8::ffff".parse().expect("an address")));
    assert!(!neighbour.check(1).await.admits());
}

#[tokio::test]
async fn tiers_routes_and_limits_with_extractors_of_their_own_are_named() {
    let who = by::header("x-user").or(by::client_ip(TrustedProxies::none()));
    let builder = RateLimitLayer::builder()
        .identify(who)
        .limit(Tiers::new("2/min").tier("pro", "5/min"))
        .limit(Limit::per_user("1/min").on("POST /ws").named("ws"))
        .limit(Limit::per_ip("9/min").named("address"))
        .limit(Limit::by(by::extension::<u64>(), "3/min").named("tenant"))
        .limit(Limit::global("100/min").named("all"));
    let (_, layer) = world(builder);
    let user = layer.subject(Key::text("user", "alice"));
    let names = |decision: tollgate::limit::Decision| {
        decision.limits().iter().map(|limit| limit.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(user.peek().await), ["anonymous", "all"]);
    assert_eq!(names(user.clone().tier("pro").route("POST /ws").peek().await), ["pro", "ws", "all"]);
    assert_eq!(names(user.clone().route("/ws").peek().await), ["anonymous", "ws", "all"], "any method");
    assert_eq!(names(user.clone().route("GET /ws").peek().await), ["anonymous", "all"]);
    assert_eq!(names(layer.subject(client()).peek().await), ["anonymous", "address", "all"]);
    let tenant = layer.subject(Key::number("tenant", 7)).limit("tenant");
    assert_eq!(names(tenant.peek().await), ["tenant"]);
    assert!(tenant.check(3).await.admits() && !tenant.check(1).await.admits());
    assert!(user.clone().route("POST /ws").check(1).await.admits());
    let refused = user.clone().route("POST /ws").check(1).await;
    assert_eq!(refused.violated().map(|limit| limit.name()).collect::<Vec<_>>(), ["ws"]);
    assert_eq!(user.limit("all").peek().await.limits()[0].verdict().remaining(), 99, "all or none");
}

#[tokio::test]
async fn a_grant_holds_until_its_end_and_never_admits_more() {
    let (world, layer) = world(RateLimitLayer::builder().limit(Limit::per_ip("2/min").named("ip")));
    let until = Clock::Manual(world.hand.clone()).wall() + Duration::from_secs(600);
    let request = || from(IP, "/");
    assert_eq!(world.admitted(9, request).await, 2);
    layer.subject(client()).grant("ip", "10/min", until).await.expect("a grant");
    assert_eq!(world.admitted(20, request).await, 0, "the used share is kept");
    world.advance(60.0);
    assert_eq!(world.admitted(20, request).await, 10);
    assert_eq!(world.admitted(9, || from("192.0.2.2", "/")).await, 2, "others have none");
    world.advance(539.0);
    assert_eq!(world.admitted(20, request).await, 10);
    world.advance(1.0);
    assert_eq!(world.admitted(20, request).await, 0, "it has ended, and the share was used");
    world.advance(60.0);
    assert_eq!(world.admitted(20, request).await, 2);
    let tighter = Clock::Manual(world.hand.clone()).wall() + Duration::from_secs(60);
    layer.subject(client()).grant("ip", "1/min", tighter).await.expect("a grant");
    world.advance(59.0);
    assert_eq!(world.admitted(20, request).await, 0);
}

#[tokio::test]
async fn impossible_grants_are_refused_and_disabled_layers_admit() {
    let (world, layer) = world(
        RateLimitLayer::builder()
            .limit(Limit::per_ip("2/min").cost(2).named("ip"))
            .limit(Limit::global("9/min").named("all")),
    );
    let until = Clock::Manual(world.hand.clone()).wall() + Duration::from_secs(600);
    let subject = layer.subject(client());
    for (limit, quota) in [("ip", "1/min"), ("ip", "x"), ("other", "5/min"), ("all", "5/min")] {
        assert!(subject.grant(limit, quota, until).await.expect_err(limit).is_config(), "{limit} {quota}");
    }
    let user = layer.subject(Key::number("user", 1));
    assert!(user.grant("ip", "5/min", until).await.is_err(), "no address");
    layer.set_mode(Mode::Off);
    assert!(subject.check(100).await.admits());
    let disabled = RateLimitLayer::builder().limit(Limit::per_ip("1/min")).enabled(false).build().expect("a layer");
    assert!(disabled.subject(client()).check(100).await.admits());
    let _: Req = from(IP, "/");
}
