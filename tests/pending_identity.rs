//! Identities that take time to find: `by::resolve`.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail, and so may what it attacks")]

mod support;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use support::field;
use tokio::time::{sleep, timeout};
use tollgate::cache::{CacheLayer, Rule, Rules};
use tollgate::identity::{Key, KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Limit, Quota, RateLimitLayer};
use tollgate::testing::FakePeer;
use tollgate::{Body, Event, MaybeReady, RequestHead, Tollgate, TollgateBuilder};
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceExt, service_fn};

type Req = Request<Full<Bytes>>;
type Res = Response<Body<Full<Bytes>>>;
type Gated = BoxCloneService<Req, Res, Infallible>;

const MINUTE: Duration = Duration::from_secs(60);

fn request(user: &str) -> Req {
    let request = Request::get("/me/1").header("host", "example.com").header("x-user", user).body(Full::default());
    FakePeer::at("192.0.2.1").mark(request.expect("a request"))
}

fn rules() -> Rules {
    Rules::new().route("/me/{page}", Rule::ttl(MINUTE).per_identity())
}

async fn page(request: Req) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from(request.headers()["x-user"].to_str().expect("text").to_owned())))
}

async fn body(response: Res) -> String {
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

async fn ask(service: &Gated, user: &str) -> Res {
    service.clone().oneshot(request(user)).await.expect("infallible")
}

/// A session store. What it does depends on the user.
#[derive(Clone, Default)]
struct Sessions {
    asked: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

impl Sessions {
    fn resolve(&self) -> impl KeyExtractor {
        let sessions = self.clone();
        let resolve = move |head: &RequestHead<'_>| sessions.user(head.header("x-user")?.to_str().ok()?.to_owned());
        by::resolve(move |head| resolve(head).unwrap_or(MaybeReady::Ready(None)))
            .deadline(Duration::from_millis(50))
            .carried_where(|head| head.headers().contains_key("x-user"))
    }

    fn user(&self, user: String) -> Option<MaybeReady<Option<Key<'static>>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let dropped = OnDrop(self.dropped.clone());
        Some(match &*user {
            "ready" => MaybeReady::Ready(Some(Key::text("user", user))),
            "panics" => panic!("at once"),
            _ => MaybeReady::Pending(Box::pin(async move {
                let _dropped = dropped;
                match &*user {
                    "late" => sleep(MINUTE).await,
                    "panics later" => panic!("later"),
                    "nobody" => return None,
                    _ => sleep(Duration::from_millis(10 + user.len() as u64)).await,
                }
                Some(Key::text("user", user))
            })),
        })
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }
}

struct OnDrop(Arc<AtomicUsize>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn gated(gate: TollgateBuilder) -> (Tollgate, Gated) {
    let gate = gate.build().expect("a gate");
    (gate.clone(), BoxCloneService::new(gate.layer().layer(service_fn(page))))
}

fn limited(sessions: &Sessions) -> TollgateBuilder {
    let identify = sessions.resolve().or(by::client_ip(TrustedProxies::none()));
    Tollgate::builder().identify(identify).limit(Limit::per_user(Quota::per_minute(5)))
}

#[tokio::test(start_paused = true)]
async fn a_pending_identity_is_waited_for_once_by_limits_and_cache() {
    let sessions = Sessions::default();
    let gate = limited(&sessions).limit(Limit::per_user(Quota::per_hour(90)).named("hourly")).cache(rules());
    let (_, service) = gated(gate);
    for round in 0..2 {
        let users = ["alice", "bob", "ready", "carol"];
        let asked = users.map(|user| ask(&service, user));
        for (user, response) in users.into_iter().zip(join_all(asked).await) {
            assert_eq!(field(&response, "x-ratelimit-remaining"), (4 - round).to_string(), "{user}");
            assert_eq!(response.headers().contains_key("age"), round > 0, "{user}");
            assert_eq!(body(response).await, user);
        }
        assert_eq!(sessions.asked(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_ready_identity_is_decided_at_once() {
    let sessions = Sessions::default();
    let (_, service) = gated(limited(&sessions).cache(rules()));
    body(ask(&service, "ready").await).await;
    let mut service = service;
    let hit = service.ready().await.expect("infallible").call(request("ready")).now_or_never();
    assert!(hit.expect("at once").expect("infallible").headers().contains_key("age"));
    assert!(service.ready().await.expect("infallible").call(request("alice")).now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_come_is_counted_by_the_next_alternative_and_bypasses_the_cache() {
    for user in ["late", "panics", "panics later", "nobody"] {
        let warnings = Arc::<Mutex<Vec<String>>>::default();
        let sessions = Sessions::default();
        let hook = {
            let warnings = warnings.clone();
            move |event: &Event<'_>| {
                if let Event::Warning { code, .. } = event {
                    warnings.lock().expect("no panic").push((*code).to_owned());
                }
            }
        };
        let (gate, service) = gated(limited(&sessions).cache(rules()).hook(hook));
        for n in 0..3 {
            let response = timeout(Duration::from_millis(52), ask(&service, user)).await.expect("by the deadline");
            assert_eq!(field(&response, "x-ratelimit-remaining"), (4 - n).to_string(), "{user}: counted by address");
            assert!(!response.headers().contains_key("age"), "{user}");
            assert_eq!(body(response).await, user);
        }
        // One that panics at once has nothing to wait for, and is asked by each layer.
        assert_eq!(sessions.asked(), if user == "panics" { 6 } else { 3 }, "{user}");
        let bypassed: u64 = gate.stats().routes.values().filter_map(|route| route.bypassed.get("identity")).sum();
        assert_eq!(bypassed, 3, "{user}");
        let warned = warnings.lock().expect("no panic").iter().filter(|code| *code == "unresolved-identity").count();
        assert_eq!(warned, if user == "late" || user == "panics later" { 1 } else { 0 }, "{user}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_resolved_that_no_layer_asks_for() {
    let sessions = Sessions::default();
    let identify = sessions.resolve().or(by::client_ip(TrustedProxies::none()));
    let public = Rules::new().route("/me/{page}", Rule::ttl(MINUTE).same_for_everyone());
    let gate = Tollgate::builder().identify(identify).limit(Limit::per_ip(Quota::per_minute(9))).cache(public);
    let (gate, service) = gated(gate.routes(["/me/{page}"]));
    for _ in 0..2 {
        ask(&service, "late").await;
    }
    assert_eq!((sessions.asked(), gate.stats().inner_calls_avoided), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_layer_used_alone_waits_too() {
    let sessions = Sessions::default();
    let limits = RateLimitLayer::builder().identify(sessions.resolve()).limit(Limit::per_user(Quota::per_minute(5)));
    let limits = BoxCloneService::new(limits.build().expect("a layer").layer(service_fn(page)));
    let cache = CacheLayer::builder().rules(rules()).identity(sessions.resolve()).build().expect("a layer");
    let stats = cache.clone();
    let cache = BoxCloneService::new(cache.layer(service_fn(page)));
    for (n, user) in ["alice", "bob", "alice", "bob"].into_iter().enumerate() {
        let response = ask(&limits, user).await;
        assert_eq!(field(&response, "x-ratelimit-remaining"), if n < 2 { "4" } else { "3" });
        let response = ask(&cache, user).await;
        assert_eq!(response.headers().contains_key("age"), n > 1);
        assert_eq!(body(response).await, user);
    }
    assert_eq!(sessions.asked(), 8);
    let route = &stats.stats().routes["/me/{page}"];
    assert_eq!((route.misses, route.hits), (2, 2), "each request is counted once");
}

#[tokio::test(start_paused = true)]
async fn both_identities_may_be_pending_one_after_the_other() {
    let (user, tenant) = (Sessions::default(), Sessions::default());
    let both = user.resolve().and(tenant.resolve());
    let gate = Tollgate::builder().identify(both).limit(Limit::per_user(Quota::per_minute(5))).cache(rules());
    let (_, service) = gated(gate);
    for n in 0..2 {
        let response = ask(&service, "alice").await;
        assert_eq!(field(&response, "x-ratelimit-remaining"), (4 - n).to_string());
        assert_eq!(response.headers().contains_key("age"), n == 1);
        assert_eq!((user.asked(), tenant.asked()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_what_was_asked_for_it() {
    let sessions = Sessions::default();
    let (gate, service) = gated(limited(&sessions).cache(rules()));
    let left = timeout(Duration::from_millis(5), ask(&service, "alice")).await;
    assert!(left.is_err());
    assert_eq!(sessions.dropped.load(Ordering::SeqCst), 1);
    assert_eq!(field(&ask(&service, "alice").await, "x-ratelimit-remaining"), "4", "it was not charged");
    assert_eq!(gate.stats().inner_calls, 1);
}

#[tokio::test(start_paused = true)]
async fn many_that_are_pending_at_once_keep_to_their_users() {
    let sessions = Sessions::default();
    let (gate, service) = gated(limited(&sessions).cache(rules()));
    let users: Vec<String> = (0..40).map(|n| format!("user-{}{}", "x".repeat(n % 7), n)).collect();
    for round in 0..2 {
        let asked = join_all(users.iter().rev().map(|user| ask(&service, user))).await;
        for (user, response) in users.iter().rev().zip(asked) {
            assert_eq!(field(&response, "x-ratelimit-remaining"), (4 - round).to_string());
            assert_eq!(&body(response).await, user);
        }
    }
    assert_eq!((sessions.asked(), gate.stats().inner_calls_avoided), (80, 40));
}

#[test]
fn a_deadline_of_zero_is_refused() {
    let never = by::resolve(|_| MaybeReady::Ready(None)).deadline(Duration::ZERO);
    let error = Tollgate::builder().identify(never).limit(Limit::per_user(Quota::per_minute(5))).build();
    assert!(error.expect_err("no deadline").to_string().contains("deadline"));
}
