//! Nobody gets another's answer: what a credential is, and how answers are shared on purpose.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/cache_world.rs"]
mod world;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tollgate::cache::{CacheLayer, Profile, Rule, Rules};
use tollgate::identity::{Identity, Key, KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Limit, Quota};
use tollgate::{RequestHead, Tollgate, TollgateBuilder};
use tower::{Layer, ServiceExt, service_fn};
use world::{World, get, reply};

const MINUTE: Duration = Duration::from_secs(60);

/// A service that answers with the credentials it was shown, and is cached by every rule; and how often it was called.
struct Echo {
    gate: Tollgate,
    calls: Arc<AtomicUsize>,
}

impl Echo {
    fn behind(gate: TollgateBuilder) -> Self {
        Self { gate: gate.build().expect("a gate"), calls: Arc::default() }
    }

    /// What is answered to these fields.
    async fn ask(&self, path: &str, fields: &[(&str, &str)]) -> String {
        self.send(get(path, fields)).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> String {
        let calls = self.calls.clone();
        let service = service_fn(move |request: Request<Full<Bytes>>| {
            calls.fetch_add(1, Ordering::SeqCst);
            let shown = format!("{:?} {:?}", request.headers(), request.extensions().get::<User>().map(|user| user.0));
            async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(shown)))) }
        });
        let response = self.gate.layer().layer(service).oneshot(request).await.expect("infallible");
        String::from_utf8(response.into_body().collect().await.expect("a body").to_bytes().to_vec()).expect("text")
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn bypassed(&self, reason: &str) -> u64 {
        self.gate.stats().routes.values().filter_map(|route| route.bypassed.get(reason)).sum()
    }
}

#[derive(Clone)]
struct User(u64);

impl Identity for User {
    fn key(&self) -> Key<'_> {
        Key::number("user", self.0)
    }
}

fn me() -> Rules {
    Rules::new().route("/me", Rule::ttl(MINUTE))
}

#[tokio::test]
async fn users_identified_by_an_api_key_never_get_one_anothers_page() {
    let echo = Echo::behind(
        Tollgate::builder().identify(by::header("x-key").or(by::client_ip(TrustedProxies::none()))).cache(me()),
    );
    for _ in 0..2 {
        for key in ["alice", "bob"] {
            assert!(echo.ask("/me", &[("x-key", key)]).await.contains(key));
        }
    }
    assert_eq!((echo.calls(), echo.bypassed("identity")), (4, 4));
    for _ in 0..2 {
        echo.ask("/me", &[]).await;
    }
    assert_eq!(echo.calls(), 5, "requests without a credential share");
}

#[tokio::test]
async fn a_credential_is_carried_even_where_it_identifies_no_one() {
    let echo = Echo::behind(Tollgate::builder().identify(by::header("x-key")).cache(me()));
    echo.ask("/me", &[]).await;
    for fields in [&[("x-key", "a"), ("x-key", "b")][..], &[("x-key", "")]] {
        assert!(echo.ask("/me", fields).await.contains("x-key"), "{fields:?} reaches the service");
    }
    let echo = Echo::behind(Tollgate::builder().identify(by::bearer()).cache(me()));
    echo.ask("/me", &[]).await;
    assert!(echo.ask("/me", &[("authorization", "Basic eDp5")]).await.contains("Basic"));
}

#[tokio::test]
async fn an_extension_left_by_an_auth_layer_is_a_credential() {
    for identify in [true, false] {
        let gate = Tollgate::builder().cache(me());
        let gate = match identify {
            true => gate.identify(by::extension::<User>()),
            false => gate.identify(by::extension_with(|user: &User| Some(Key::number("user", user.0)))),
        };
        let echo = Echo::behind(gate);
        for user in [1, 2, 1] {
            let mut request = get("/me", &[]);
            request.extensions_mut().insert(User(user));
            assert!(echo.send(request).await.ends_with(&format!("Some({user})")));
        }
        assert!(echo.send(get("/me", &[])).await.ends_with("None"));
    }
}

#[tokio::test]
async fn what_a_limit_of_its_own_counts_by_is_a_credential_too() {
    let limit = || Limit::by(by::header("x-tenant"), Quota::per_minute(100));
    for gate in [
        Tollgate::builder().limit(limit()).cache(me()),
        Tollgate::builder().limits_with(|limits| limits.identify(by::header("x-tenant"))).cache(me()),
        Tollgate::builder().cache(me()).cache_with(|cache| cache.identity(by::bearer())).limit(limit()),
    ] {
        let echo = Echo::behind(gate);
        for tenant in ["red", "blue"] {
            assert!(echo.ask("/me", &[("x-tenant", tenant)]).await.contains(tenant));
        }
    }
}

#[tokio::test]
async fn a_closure_declares_which_requests_carry_its_credential() {
    let tenant =
        || by::func(|head: &RequestHead<'_>| Some(Key::bytes("tenant", head.header("x-tenant")?.as_bytes().to_vec())));
    let undeclared = Echo::behind(Tollgate::builder().identify(tenant()).cache(me()));
    undeclared.ask("/me", &[]).await;
    undeclared.ask("/me", &[]).await;
    assert_eq!(undeclared.calls(), 2, "undeclared: every request carries one");
    let declared = tenant().carried_where(|head| head.headers().contains_key("x-tenant"));
    let echo = Echo::behind(Tollgate::builder().identify(declared).cache(me()));
    echo.ask("/me", &[]).await;
    echo.ask("/me", &[]).await;
    assert_eq!(echo.calls(), 1);
    assert!(echo.ask("/me", &[("x-tenant", "red")]).await.contains("red"));
    // A third party's extractor that does not say carries always.
    struct Silent;
    impl KeyExtractor for Silent {
        fn extract<'a>(&self, _head: &RequestHead<'a>) -> Option<Key<'a>> {
            None
        }
    }
    let echo = Echo::behind(Tollgate::builder().identify(Silent).cache(me()));
    echo.ask("/me", &[]).await;
    echo.ask("/me", &[]).await;
    assert_eq!(echo.calls(), 2);
}

#[tokio::test]
async fn per_identity_keeps_one_answer_for_each_and_bypasses_what_is_unclear() {
    let rules = || Rules::new().route("/me", Rule::ttl(MINUTE).per_identity());
    let who = || by::header("x-key").or(by::bearer()).or(by::client_ip(TrustedProxies::none()));
    let echo = Echo::behind(Tollgate::builder().identify(who()).cache(rules()));
    for round in 0..3 {
        for (name, value) in [("x-key", "alice"), ("x-key", "bob"), ("authorization", "Bearer alice")] {
            assert!(echo.ask("/me", &[(name, value)]).await.contains(value));
        }
        assert_eq!(echo.calls(), 3, "round {round}");
    }
    let unclear: [&[(&str, &str)]; 5] = [
        &[("x-key", "alice"), ("x-key", "bob")],
        &[("x-key", "alice"), ("authorization", "Bearer bob")],
        &[("authorization", "Basic alice")],
        &[("cookie", "session=1")],
        &[],
    ];
    for fields in unclear {
        let before = echo.calls();
        echo.ask("/me", fields).await;
        echo.ask("/me", fields).await;
        assert_eq!(echo.calls(), before + 2, "{fields:?}: no identity, so neither kept nor served");
    }
    assert!(echo.bypassed("identity") >= 6 && echo.bypassed("cookie") == 2);
}

#[tokio::test]
async fn two_users_behind_one_address_do_not_meet_in_the_fallback_identity() {
    let rules = Rules::new().route("/me", Rule::ttl(MINUTE).per_identity());
    let who = by::header("x-key").or(by::client_ip(TrustedProxies::none()));
    let echo = Echo::behind(Tollgate::builder().identify(who).cache(rules));
    let from_one_address = |fields: &[(&str, &str)]| {
        let mut request = get("/me", fields);
        request.extensions_mut().insert(tollgate::PeerAddr("192.0.2.1:1".parse().expect("an address")));
        request
    };
    let doubled = |user: &'static str| from_one_address(&[("x-key", user), ("x-key", user)]);
    assert!(echo.send(doubled("alice")).await.contains("alice"));
    assert!(echo.send(doubled("bob")).await.contains("bob"));
    let session = |user: &'static str| from_one_address(&[("cookie", user)]);
    assert!(echo.send(session("session=alice")).await.contains("alice"));
    assert!(echo.send(session("session=bob")).await.contains("bob"));
}

#[tokio::test]
async fn same_for_everyone_shares_on_purpose() {
    let rules = Rules::new().route("/prices", Rule::ttl(MINUTE).same_for_everyone());
    let echo = Echo::behind(Tollgate::builder().identify(by::header("x-key")).cache(rules));
    echo.ask("/prices", &[]).await;
    for fields in [&[("x-key", "alice")][..], &[("x-key", "a"), ("x-key", "b")], &[("authorization", "Bearer x")]] {
        echo.ask("/prices", fields).await;
    }
    assert_eq!(echo.calls(), 1);
}

#[tokio::test]
async fn fields_that_usually_hold_a_credential_are_never_shared_over_even_without_identify() {
    for name in ["x-api-key", "X-Auth-Token", "cf-access-jwt-assertion", "x-forwarded-user"] {
        let world = World::with(
            |b| b,
            |asked| async move { Ok(reply(&[("cache-control", "max-age=60")], format!("{:?}", asked.headers))) },
        );
        for user in ["alice", "bob", "alice"] {
            assert!(world.get_with("/me", &[(name, user)]).await.body.contains(user), "{name}");
        }
        assert_eq!(world.stats().routes["unmatched"].bypassed["identity"], 3);
    }
}

#[tokio::test]
async fn in_shared_what_users_are_identified_by_counts_as_authorization_does() {
    let shared = |fields: &'static [(&'static str, &'static str)]| {
        World::with(
            |b| b.profile(Profile::Shared).identity(by::header("x-key")),
            move |asked| async move { Ok(reply(fields, asked.header("x-key").unwrap_or("nobody").to_owned())) },
        )
    };
    let world = shared(&[("cache-control", "max-age=60")]);
    for user in ["alice", "bob"] {
        assert_eq!(world.get_with("/me", &[("x-key", user)]).await.body, user);
    }
    let world = shared(&[("cache-control", "public, max-age=60")]);
    assert_eq!(world.get_with("/a", &[("x-key", "alice")]).await.body, "alice");
    assert_eq!(world.get_with("/a", &[("x-key", "bob")]).await.body, "alice", "RFC 9111 §3.5: public");
}

#[tokio::test]
async fn a_stored_401_does_not_lock_out_who_logs_in() {
    let world = World::shared(|asked| async move {
        let known = asked.header("authorization").is_some() || asked.header("cookie").is_some();
        Ok(match known {
            true => reply(&[("cache-control", "private")], "welcome"),
            false => reply(&[(":status", "401"), ("cache-control", "max-age=600")], "who are you"),
        })
    });
    for _ in 0..2 {
        assert_eq!(world.get("/a").await.status, 401);
    }
    assert_eq!(world.calls(), 1, "for those without a login it is stored");
    for login in [("authorization", "Bearer a"), ("cookie", "session=a")] {
        assert_eq!(world.get_with("/a", &[login]).await.body, "welcome");
    }
    assert_eq!(world.get("/a").await.status, 401);
}

#[tokio::test]
async fn who_logs_in_does_not_wait_for_a_401_that_is_on_its_way_to_another() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let world = World::shared(move |asked| {
        let mut gate = gate.clone();
        async move {
            if asked.header("authorization").is_some() {
                return Ok(reply(&[("cache-control", "private")], "welcome"));
            }
            gate.wait_for(|open| *open).await.expect("open");
            Ok(reply(&[(":status", "403"), ("cache-control", "max-age=600")], "no"))
        }
    });
    let refused = tokio::spawn({
        let world = world.clone();
        async move { world.get("/a").await.status }
    });
    tokio::task::yield_now().await;
    let welcome = tokio::spawn({
        let world = world.clone();
        async move { world.get_with("/a", &[("authorization", "Bearer a")]).await.body }
    });
    tokio::task::yield_now().await;
    open.send(true).expect("a listener");
    assert_eq!(refused.await.expect("an answer"), 403);
    assert_eq!(welcome.await.expect("an answer"), "welcome");
}

#[test]
fn a_rule_that_cannot_know_who_asks_is_refused() {
    let rules = || Rules::new().route("/me", Rule::ttl(MINUTE).per_identity());
    for error in [
        Tollgate::builder().cache(rules()).build().map(drop),
        Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(1))).cache(rules()).build().map(drop),
        CacheLayer::builder().rules(rules()).build().map(drop),
        CacheLayer::in_memory(1 << 20).set_rules(rules()),
    ] {
        let error = error.expect_err("refused").to_string();
        assert!(error.contains("\"/me\"") && error.contains("identify"), "{error}");
    }
}

/// A service that knows its users by API keys, in a field of its own: every route, by two users and a stranger, in random
/// order, beside the same service without a cache.
#[tokio::test]
async fn a_service_with_api_keys_answers_as_without_a_cache() {
    use axum::Router;
    use axum::extract::{Path, Request};
    use axum::routing::get as route;

    async fn user(request: Request) -> String {
        let mut keys = request.headers().get_all("x-shop-key").iter();
        // This service believes the last of several.
        keys.next_back().map_or("nobody".to_owned(), |key| format!("{key:?}"))
    }
    let routes = || {
        Router::new()
            .route("/users/{name}", route(async |Path(name): Path<String>| format!("profile of {name}")))
            .route("/users/me", route(user))
            .route("/mine", route(user))
            .route("/news", route(user))
            .route("/kept", route(async |request: Request| ([("cache-control", "max-age=60")], user(request).await)))
            .fallback(user)
    };
    let rules = Rules::new()
        .route("/users/{name}", Rule::ttl(MINUTE).same_for_everyone())
        .route("/mine", Rule::ttl(MINUTE).per_identity())
        .route("/news", Rule::ttl(MINUTE))
        .otherwise(Rule::ttl(MINUTE).negative_ttl(MINUTE));
    let gate = Tollgate::builder().identify(by::header("x-shop-key")).cache(rules).build().expect("a gate");
    let (cached, plain) = (routes().layer(gate.layer()), routes());
    let shown: [&[(&str, &str)]; 6] = [
        &[],
        &[("x-shop-key", "alice")],
        &[("x-shop-key", "bob")],
        &[("x-shop-key", "alice"), ("x-shop-key", "bob")],
        &[("x-shop-key", "bob"), ("x-shop-key", "alice")],
        &[("x-shop-key", "")],
    ];
    let paths = ["/users/carol", "/users/dave", "/users/me", "/mine", "/news", "/kept", "/elsewhere"];
    let mut dice = 7_u64;
    let mut roll = move |sides: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % sides
    };
    for turn in 0..3_000 {
        let (fields, path) = (shown[roll(shown.len())], paths[roll(paths.len())]);
        let ask = || get(path, fields).map(axum::body::Body::new);
        let mine = cached.clone().oneshot(ask()).await.expect("infallible");
        let theirs = plain.clone().oneshot(ask()).await.expect("infallible");
        let read = async |answer: Response<axum::body::Body>| {
            (answer.status(), answer.into_body().collect().await.expect("a body").to_bytes())
        };
        assert_eq!(read(mine).await, read(theirs).await, "turn {turn}: {path} {fields:?}");
    }
    assert!(gate.stats().routes.values().map(|route| route.hits).sum::<u64>() > 500);
}
