//! What the layers of one gate share about a request, and that no other request can see it.
#![expect(clippy::expect_used, reason = "a test may fail")]

mod support;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use support::field;
use tollgate::cache::{CacheLayer, Rule, Rules};
use tollgate::identity::{Identity, Key, KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Limit, Quota, RateLimitLayer, Tiers};
use tollgate::testing::FakePeer;
use tollgate::timing::TimingLayer;
use tollgate::{Body, Clock, ManualClock, RequestHead, Tollgate, TollgateBuilder};
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Req = Request<Full<Bytes>>;
type Res = Response<Body<Full<Bytes>>>;
type Gated = BoxCloneSyncService<Req, Res, Infallible>;

const MINUTE: Duration = Duration::from_secs(60);

/// A verified user, as an authentication layer leaves it behind.
#[derive(Clone)]
struct User(String);

impl Identity for User {
    fn key(&self) -> Key<'_> {
        Key::text("user", self.0.as_str())
    }
}

fn request(path: &str, user: &str) -> Req {
    let request = Request::get(path).header("host", "example.com").header("x-user", user).body(Full::default());
    FakePeer::at("192.0.2.1").mark(request.expect("a request"))
}

/// A rule under which each identity has an answer of its own.
fn rules() -> Rules {
    Rules::new().route("/me/{page}", Rule::ttl(MINUTE).per_identity())
}

/// Answers with the user that the service was shown.
fn page_of(request: &Req) -> Response<Full<Bytes>> {
    let shown = request.headers().get("x-user").map(|user| user.to_str().expect("text").to_owned());
    let verified = request.extensions().get::<User>().map(|user| user.0.clone());
    Response::new(Full::from(verified.or(shown).unwrap_or_default()))
}

async fn body(response: Res) -> String {
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// The user of a field, counted each time it is asked for.
fn counted(name: &'static str, asked: &Arc<AtomicUsize>) -> impl KeyExtractor {
    let asked = asked.clone();
    by::func(move |head| {
        asked.fetch_add(1, Ordering::SeqCst);
        Some(Key::bytes("user", head.header(name)?.as_bytes()))
    })
    .carried_where(move |head| head.headers().contains_key(name))
}

/// The same as a type of its own.
struct Counted(Arc<AtomicUsize>);

impl KeyExtractor for Counted {
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Some(Key::bytes("user", head.header("x-user")?.as_bytes()))
    }
}

fn gated(gate: TollgateBuilder) -> (Tollgate, Gated) {
    let gate = gate.build().expect("a gate");
    let service = service_fn(async |request: Req| Ok::<_, Infallible>(page_of(&request)));
    (gate.clone(), BoxCloneSyncService::new(gate.layer().layer(service)))
}

async fn ask(service: &Gated, request: Req) -> Res {
    service.clone().oneshot(request).await.expect("infallible")
}

fn plenty() -> Quota {
    Quota::per_minute(1_000)
}

#[tokio::test]
async fn an_identity_is_extracted_once_for_all_limits_tiers_and_the_cache() {
    let asked = Arc::<AtomicUsize>::default();
    let address = || by::client_ip(TrustedProxies::none());
    let identities: [fn(TollgateBuilder, &Arc<AtomicUsize>) -> TollgateBuilder; 3] = [
        |gate, asked| gate.identify(counted("x-user", asked)),
        |gate, asked| gate.identify(counted("x-user", asked).or(by::client_ip(TrustedProxies::none()))),
        |gate, asked| gate.identify(Counted(asked.clone())),
    ];
    for identify in identities {
        let gate = identify(Tollgate::builder(), &asked)
            .limit(Limit::per_user(plenty()).named("one"))
            .limit(Limit::per_user(Quota::per_hour(5_000)).named("another"))
            .limit(Limit::per_user(plenty()).on("/me/{page}").named("page"))
            .limit(Limit::by(address(), plenty()).named("address"))
            .limit(Tiers::default().assign(|_| Some("pro")))
            .cache(rules());
        let (gate, service) = gated(gate);
        // The second is longer than what is kept in place.
        for user in ["alice", "a-user-whose-name-is-longer-than-forty-characters", "bob"] {
            for time in ["a miss", "a hit"] {
                asked.store(0, Ordering::SeqCst);
                let response = ask(&service, request("/me/1", user)).await;
                assert_eq!(response.headers().contains_key("age"), time == "a hit");
                assert_eq!(body(response).await, user);
                assert_eq!(asked.load(Ordering::SeqCst), 1, "{user} {time}");
            }
        }
        assert_eq!(gate.stats().inner_calls_avoided, 3);
    }
}

#[tokio::test]
async fn extractors_of_single_limits_run_once_too_and_stay_apart() {
    let (user, tenant) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let gate = Tollgate::builder()
        .identify(counted("x-user", &user))
        .limit(Limit::per_user(plenty()))
        .limit(Limit::by(counted("x-tenant", &tenant), plenty()))
        .cache(rules());
    let (_, service) = gated(gate);
    let of = |who: &str, of: &str| {
        let mut request = request("/me/1", who);
        request.headers_mut().insert("x-tenant", of.parse().expect("a value"));
        request
    };
    for (who, tenancy) in [("alice", "acme"), ("acme", "alice"), ("alice", "other")] {
        user.store(0, Ordering::SeqCst);
        tenant.store(0, Ordering::SeqCst);
        let response = ask(&service, of(who, tenancy)).await;
        assert!(!response.headers().contains_key("age"), "{who} of {tenancy} has an answer of their own");
        assert_eq!(body(response).await, who);
        assert_eq!((user.load(Ordering::SeqCst), tenant.load(Ordering::SeqCst)), (1, 1));
    }
}

#[tokio::test]
async fn an_identity_that_was_not_found_is_asked_for_again() {
    let asked = Arc::<AtomicUsize>::default();
    let gate = Tollgate::builder().identify(counted("x-session", &asked)).limit(Limit::per_user(Quota::per_minute(2)));
    let (gate, service) = gated(gate.limit(Limit::per_user(plenty()).named("another")).cache(rules()));
    let mut anonymous = request("/me/1", "nobody");
    anonymous.headers_mut().remove("x-user");
    let response = ask(&service, anonymous).await;
    assert_eq!(field(&response, "x-ratelimit-remaining"), "1", "all of them share a bucket");
    assert_eq!(asked.load(Ordering::SeqCst), 3, "by each limit, and by the cache");
    assert_eq!(gate.stats().routes["/me/{page}"].bypassed["identity"], 1);
}

#[tokio::test]
async fn layers_used_apart_share_nothing_of_a_request() {
    let asked = Arc::<AtomicUsize>::default();
    let identify = || {
        let asked = asked.clone();
        by::func(move |head| {
            asked.fetch_add(1, Ordering::SeqCst);
            let verified = head.extension::<User>().map(|user| user.0.clone());
            Some(Key::text("user", verified.unwrap_or_else(|| "anybody".to_owned())))
        })
    };
    let limits = RateLimitLayer::builder().identify(identify()).limit(Limit::per_user(Quota::per_minute(6)));
    let authenticate = tower::layer::layer_fn(|inner: Gated| {
        inner.map_request(|mut request: Req| {
            let user = request.headers()["x-user"].to_str().expect("text").to_owned();
            request.extensions_mut().insert(User(user));
            request
        })
    });
    let service = service_fn(async |request: Req| Ok::<_, Infallible>(page_of(&request)));
    let cached = CacheLayer::builder().rules(rules()).identity(identify()).build().expect("a layer").layer(service);
    let limited = limits.build().expect("a layer").layer(authenticate.layer(BoxCloneSyncService::new(cached)));
    let mut service = TimingLayer::new().layer(limited);
    for (n, user) in ["alice", "bob", "alice", "bob"].into_iter().enumerate() {
        let response = service.ready().await.expect("infallible").call(request("/me/1", user)).await;
        let response = response.expect("infallible");
        assert_eq!(field(&response, "x-ratelimit-remaining"), (5 - n).to_string(), "the limit stands outside");
        assert_eq!(response.headers().contains_key("age"), n > 1);
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(bytes, user.as_bytes());
        assert_eq!(asked.load(Ordering::SeqCst), 2 * (n + 1), "each layer asks for itself");
    }
}

#[tokio::test]
async fn futures_of_one_service_polled_in_turns_keep_to_their_users() {
    let asked = Arc::<AtomicUsize>::default();
    let gate = Tollgate::builder().identify(counted("x-user", &asked)).limit(Limit::per_user(Quota::per_minute(9)));
    let (_, mut service) = gated(gate.cache(rules()));
    for round in 0..3 {
        // All are called before any is polled; then each is polled a little at a time.
        let users: Vec<String> = (0..20).map(|n| format!("user-{n}")).collect();
        let mut calls = Vec::new();
        for user in &users {
            calls.push(service.ready().await.expect("infallible").call(request("/me/1", user)));
        }
        for (user, response) in users.iter().zip(join_all(calls).await) {
            let response = response.expect("infallible");
            assert_eq!(field(&response, "x-ratelimit-remaining"), (8 - round).to_string(), "{user}");
            assert_eq!(response.headers().contains_key("age"), round > 0);
            assert_eq!(&body(response).await, user);
        }
    }
    assert_eq!(asked.load(Ordering::SeqCst), 60);
}

#[tokio::test]
async fn buffers_around_and_inside_a_gate_mix_up_no_users() {
    let asked = Arc::<AtomicUsize>::default();
    let gate = Tollgate::builder().identify(counted("x-user", &asked)).limit(Limit::per_user(Quota::per_minute(9)));
    let gate = gate.cache(rules()).build().expect("a gate");
    let service = service_fn(async |request: Req| {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(page_of(&request))
    });
    let inside = ServiceBuilder::new().buffer(4).service(service);
    let service = ServiceBuilder::new().buffer(4).layer(gate.layer()).service(inside);
    for _ in 0..3 {
        let ask = |n: usize| {
            let (service, user) = (service.clone(), format!("user-{}", n % 8));
            async move {
                let response = service.oneshot(request("/me/1", &user)).await.expect("an answer");
                let bytes = response.into_body().collect().await.expect("a body").to_bytes();
                assert_eq!(bytes, user.as_bytes());
            }
        };
        join_all((0..8).map(|n| tokio::spawn(ask(n)))).await.into_iter().for_each(|task| task.expect("no leak"));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 24);
}

#[tokio::test]
async fn requests_that_a_handler_sends_through_gates_have_identities_of_their_own() {
    let asked = Arc::<AtomicUsize>::default();
    let gate = |asked: &Arc<AtomicUsize>| {
        let identify = counted("x-user", asked).or(by::client_ip(TrustedProxies::none()));
        let gate = Tollgate::builder().identify(identify).limit(Limit::per_user(Quota::per_minute(50)));
        gate.cache(rules()).build().expect("a gate")
    };
    let (own, other) = (gate(&asked), gate(&asked));
    let again = Arc::<OnceLock<[Gated; 2]>>::default();
    let handler = {
        let again = again.clone();
        service_fn(move |outer: Req| {
            let again = again.clone();
            async move {
                let mut page = page_of(&outer);
                if outer.uri().path().starts_with("/me/all") {
                    let mut text = body(Response::new(Body::new(page.into_body()))).await;
                    for service in again.get().expect("set") {
                        for user in ["bob", "carol"] {
                            let inner = ask(service, request("/me/1", user)).await;
                            text = format!("{text} {}", body(inner).await);
                        }
                    }
                    page = Response::new(Full::from(text));
                }
                Ok::<_, Infallible>(page)
            }
        })
    };
    let plain = service_fn(async |request: Req| Ok::<_, Infallible>(page_of(&request)));
    let service: Gated = BoxCloneSyncService::new(own.layer().layer(handler));
    let nested = [service.clone(), BoxCloneSyncService::new(other.layer().layer(plain))];
    assert!(again.set(nested).is_ok());
    for user in ["alice", "bob"] {
        for _ in 0..2 {
            let response = ask(&service, request("/me/all", user)).await;
            assert_eq!(body(response).await, format!("{user} bob carol bob carol"));
        }
    }
    assert_eq!(body(ask(&service, request("/me/1", "dave")).await).await, "dave");
}

#[tokio::test]
async fn a_clone_of_a_request_is_a_request_of_its_own() {
    let asked = Arc::<AtomicUsize>::default();
    let verified = {
        let asked = asked.clone();
        by::extension_with(move |user: &User| {
            asked.fetch_add(1, Ordering::SeqCst);
            Some(Key::text("user", user.0.clone()))
        })
    };
    // A service inside the gate keeps the first request with all its extensions, and it is sent again for another user.
    let kept = Arc::<OnceLock<Req>>::default();
    let service = {
        let kept = kept.clone();
        service_fn(move |request: Req| {
            drop(kept.set(request.clone()));
            async move { Ok::<_, Infallible>(page_of(&request)) }
        })
    };
    let gate = Tollgate::builder().identify(verified).limit(Limit::per_user(Quota::per_minute(9))).cache(rules());
    let service: Gated = BoxCloneSyncService::new(gate.build().expect("a gate").layer().layer(service));
    let mut first = request("/me/1", "whoever");
    first.extensions_mut().insert(User("alice".to_owned()));
    assert_eq!(body(ask(&service, first.clone()).await).await, "alice");
    let mut again = kept.get().expect("it was kept").clone();
    again.extensions_mut().insert(User("bob".to_owned()));
    let response = ask(&service, again).await;
    assert_eq!(field(&response, "x-ratelimit-remaining"), "8", "the first of another user");
    assert_eq!(body(response).await, "bob");
    assert_eq!(body(ask(&service, first).await).await, "alice");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_extractor_that_makes_extractors_is_asked_as_it_is() {
    /// Makes an extractor for each request: the next one may lie where the last one did.
    struct Maker;
    impl KeyExtractor for Maker {
        fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
            let find = |name: &'static str| {
                by::func(move |head: &RequestHead<'_>| {
                    Some(Key::text(name, head.header(name)?.to_str().ok()?.to_owned()))
                })
                .or(by::func(|_| Some(Key::text("none", ""))))
                .extract(head)
            };
            Some(find("x-user")?.pair(find("x-tenant")?))
        }
    }
    let (_, service) = gated(Tollgate::builder().identify(Maker).limit(Limit::per_user(plenty())).cache(rules()));
    for (user, tenant) in [("a", "b"), ("b", "a"), ("a", "a")] {
        let mut request = request("/me/1", user);
        request.headers_mut().insert("x-tenant", tenant.parse().expect("a value"));
        assert!(!ask(&service, request).await.headers().contains_key("age"), "{user} {tenant}");
    }
}

#[tokio::test]
async fn layers_with_clocks_of_their_own_keep_to_them() {
    let (hand, of_limits) = (ManualClock::new(), ManualClock::new());
    let gate = Tollgate::builder().limit(Limit::per_ip(Quota::per_minute(1))).cache(Rules::new());
    let clock = Clock::Manual(of_limits.clone());
    let (_, service) = gated(gate.clock(Clock::Manual(hand.clone())).limits_with(|limits| limits.clock(clock)));
    let status = || ask(&service, request("/other", "alice")).map(|response| response.status().as_u16());
    assert_eq!((status().await, status().await), (200, 429));
    hand.advance(2 * MINUTE);
    assert_eq!(status().await, 429, "the limits' clock stands still");
    of_limits.advance(2 * MINUTE);
    assert_eq!(status().await, 200);
}

#[tokio::test]
async fn routes_that_one_layer_declares_alone_are_its_own() {
    let limit = Limit::per_ip(Quota::per_minute(1)).on("/login");
    let rules = Rules::new().route("/prices", Rule::ttl(MINUTE)).route("/me/{page}", Rule::ttl(MINUTE));
    let gate = Tollgate::builder().limit(limit).cache(rules);
    let (gate, service) = gated(gate.timing_with(|timing| timing.routes(["/me/{page}"])));
    for path in ["/login", "/login", "/prices", "/prices", "/me/1", "/me/1"] {
        let mut request = request(path, "");
        request.headers_mut().remove("x-user");
        drop(ask(&service, request).await);
    }
    let routes = gate.stats().routes;
    assert_eq!((routes["/login"].limited, routes["/prices"].hits), (1, 1));
    assert_eq!((routes["/me/{page}"].requests, routes["/me/{page}"].hits), (2, 1));
}
