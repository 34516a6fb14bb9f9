//! Credentials that are verified once, and authentication that is an axum extractor.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail, and so may what it attacks; it measures"
)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use futures_util::future::join_all;
use http::StatusCode;
use support::{field, text};
use tollgate::cache::{Rule, Rules};
use tollgate::identity::{Identity, Key, KeyExtractor, TrustedProxies, by};
use tollgate::limit::{ConcurrencyLimit, Count, Limit, Tiers};
use tollgate::testing::FakePeer;
use tollgate::{Event, Tollgate, TollgateBuilder};
use tower::ServiceExt;

#[derive(Clone, Debug, PartialEq)]
struct User {
    id: u64,
    plan: &'static str,
}

impl Identity for User {
    fn key(&self) -> Key<'_> {
        Key::number("user", self.id)
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// A database of tokens that counts its queries.
#[derive(Clone, Default)]
struct Users(Arc<AtomicUsize>);

impl Users {
    async fn verify(self, token: String) -> Result<Option<User>, &'static str> {
        self.0.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        match &*token {
            "pro" => Ok(Some(User { id: 7, plan: "pro" })),
            "free" => Ok(Some(User { id: 8, plan: "free" })),
            "broken" => Err("the database is away"),
            "panics" => panic!("as the test asks"),
            "slow" => {
                tokio::time::sleep(Duration::from_secs(3)).await;
                Ok(Some(User { id: 9, plan: "pro" }))
            }
            _ => Ok(None),
        }
    }

    fn asked(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

struct Service {
    users: Users,
    app: Router,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn new(configure: impl FnOnce(TollgateBuilder) -> TollgateBuilder) -> Self {
        let (users, warnings) = (Users::default(), Arc::new(Mutex::new(Vec::new())));
        let (asked, warned) = (users.clone(), warnings.clone());
        let user = by::verify(by::bearer(), move |token: String| asked.clone().verify(token));
        let builder = Tollgate::builder().identify(user.or(by::client_ip(TrustedProxies::none())));
        let gate = configure(builder.hook(move |event: &Event<'_>| {
            if let Event::Warning { code, .. } = event {
                warned.lock().expect("not poisoned").push((*code).to_owned());
            }
        }));
        let me = async |user: Option<Extension<User>>| user.map_or("nobody".to_owned(), |user| user.id.to_string());
        let app =
            Router::new().route("/me", get(me)).route("/free", get(me)).layer(gate.build().expect("a gate").layer());
        Self { users, app, warnings }
    }

    async fn send(&self, path: &str, token: &str) -> Response {
        let request = Request::get(path).header("host", "example.com");
        let request =
            if token.is_empty() { request } else { request.header("authorization", format!("Bearer {token}")) };
        let request = FakePeer::at("192.0.2.1").mark(request.body(Body::empty()).expect("a request"));
        self.app.clone().oneshot(request).await.expect("infallible").map(Body::new)
    }

    /// Sends a request; returns its limit, and the user that the handler saw.
    async fn me(&self, token: &str) -> (String, String) {
        let response = self.send("/me", token).await;
        (field(&response, "x-ratelimit-limit").to_owned(), text(response).await)
    }
}

fn tiers() -> Limit {
    Limit::from(Tiers::default().assign(|head| head.extension::<User>().map(|user| user.plan)))
}

fn owned(limit: &str, user: &str) -> (String, String) {
    (limit.to_owned(), user.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_token_is_verified_once_and_its_user_is_left_for_tiers_and_handlers() {
    let service = Service::new(|gate| gate.limit(tiers()));
    let all = join_all((0..20).map(|_| service.me("pro"))).await;
    assert!(all.iter().all(|seen| *seen == owned("1000", "7")), "{all:?}");
    assert_eq!(service.users.asked(), 1, "those that arrive meanwhile wait for the same run");
    assert_eq!(service.me("free").await, owned("100", "8"));
    assert_eq!(service.me("pro").await, owned("1000", "7"));
    assert_eq!(service.users.asked(), 1);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(service.me("pro").await, owned("1000", "7"));
    assert_eq!(service.users.asked(), 1, "verified again after a minute");
    assert_eq!(service.me("").await, owned("20", "nobody"));
    assert_eq!(service.users.asked(), 0, "no token");
}

#[tokio::test(start_paused = true)]
async fn an_invalid_token_is_remembered_for_a_short_time_and_an_error_is_not() {
    let service = Service::new(|gate| gate.limit(tiers()));
    for _ in 0..3 {
        assert_eq!(service.me("invented").await, owned("20", "nobody"));
    }
    assert_eq!(service.users.asked(), 1);
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(service.me("invented").await, owned("20", "nobody"));
    assert_eq!(service.users.asked(), 1);
    assert!(service.warnings.lock().expect("not poisoned").is_empty());
    for token in ["broken", "panics"] {
        for _ in 0..3 {
            assert_eq!(service.me(token).await, owned("20", "nobody"));
        }
        assert_eq!(service.users.asked(), 3, "{token}");
    }
    assert_eq!(*service.warnings.lock().expect("not poisoned"), ["unresolved-identity"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_verification_is_bounded_and_goes_on_with_the_next_request() {
    let service = Service::new(|gate| gate.limit(tiers()));
    let before = tokio::time::Instant::now();
    assert_eq!(service.me("slow").await, owned("20", "nobody"));
    assert!(before.elapsed() < Duration::from_millis(1_010), "{:?}", before.elapsed());
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(service.me("slow").await, owned("1000", "9"));
    assert_eq!(service.users.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_serves_limits_and_cache_together_also_on_routes_without_a_limit() {
    let rules = Rules::new().route("/me", Rule::ttl(Duration::from_secs(60)).per_identity());
    let service = Service::new(|gate| gate.limit(Limit::per_user("100/min").on("/me")).cache(rules));
    for _ in 0..2 {
        assert_eq!(service.me("pro").await.1, "7");
        assert_eq!(service.me("free").await.1, "8");
    }
    assert_eq!(text(service.send("/free", "pro").await).await, "7");
    assert_eq!(service.users.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_gate_without_limits_leaves_the_user_for_handlers_too() {
    let rules = || Rules::new().route("/me", Rule::ttl(Duration::from_secs(60)).per_identity());
    let only_timing = Service::new(|gate| gate);
    let only_cache = Service::new(|gate| gate.cache(rules()));
    let disabled = Service::new(|gate| gate.limit(Limit::per_user("1/h")).limits_with(|limits| limits.enabled(false)));
    for service in [only_timing, only_cache, disabled] {
        for _ in 0..2 {
            assert_eq!(text(service.send("/free", "pro").await).await, "7");
            assert_eq!(service.me("pro").await, owned("", "7"), "no limit: no fields");
            assert_eq!(service.me("free").await, owned("", "8"));
            assert_eq!(service.me("invented").await.1, "nobody");
        }
        assert_eq!(service.users.asked(), 3, "once a token");
        assert_eq!(service.me("broken").await.1, "nobody");
        assert_eq!(*service.warnings.lock().expect("not poisoned"), ["unresolved-identity"]);
    }
    let limits = by::verify(by::bearer(), |token: String| Users::default().verify(token));
    let gate = Tollgate::builder().identify(limits).build().expect("a gate");
    let stats = gate.stats();
    assert!(stats.limits.is_empty() && stats.concurrency.is_empty(), "there is no limit");
    gate.set_limits_mode(tollgate::Mode::On);
    assert!(gate.set_quota("all-per-day", "1/h").is_err());
}

type Configure = fn(TollgateBuilder) -> TollgateBuilder;

/// The first request waits for the verification, and is decided like the others.
#[tokio::test(start_paused = true)]
async fn a_verified_user_is_subject_to_every_kind_of_limit() {
    let two: Configure = |gate| gate.limit(Limit::per_user("2/min"));
    let kinds: [(&str, Configure, [u16; 4]); 9] = [
        ("rate", two, [200, 200, 429, 429]),
        ("each route", |gate| gate.limit(Limit::per_user("2/min").per_route()), [200, 200, 429, 429]),
        ("cost", |gate| gate.limit(Limit::per_user("5/min").cost(2)), [200, 200, 429, 429]),
        ("outcome", |gate| gate.limit(Limit::per_user("2/min").count(Count::successes())), [200, 200, 429, 429]),
        ("other outcome", |gate| gate.limit(Limit::per_user("2/min").count(Count::failures())), [200; 4]),
        ("ban", |gate| gate.limit(Limit::per_user("2/min").ban_after(1, MINUTE)), [200, 200, 429, 403]),
        ("in progress", |gate| gate.limit(ConcurrencyLimit::per_user(2).queue(1, MINUTE / 60)), [200, 200, 429, 429]),
        (
            "deny list",
            |gate| gate.limit(tiers()).limits_with(|limits| limits.deny_keys([Key::number("user", 7)])),
            [403; 4],
        ),
        (
            "exempt",
            |gate| {
                gate.limit(Limit::per_user("1/min"))
                    .limits_with(|l| l.exempt(|head| head.extension::<User>().is_some()))
            },
            [200; 4],
        ),
    ];
    for (kind, configure, expected) in kinds {
        let service = Service::new(configure);
        let mut held = Vec::new();
        for status in expected {
            held.push(service.send("/me", "pro").await);
            assert_eq!(held.last().map(|response| response.status().as_u16()), Some(status), "{kind}");
        }
        assert_eq!(service.send("/me", "free").await.status(), 200, "{kind}: another user");
        assert_eq!(service.users.asked(), 2, "{kind}: once a token");
    }
}

#[test]
fn a_deadline_of_zero_and_a_capacity_of_zero_fail_when_the_layer_is_built() {
    let users = || by::verify(by::bearer(), |token: String| Users::default().verify(token));
    for who in [users().deadline(Duration::ZERO), users().capacity(0)] {
        assert!(Tollgate::builder().identify(who).limit(tiers()).build().expect_err("a mistake").is_config());
    }
}

/// The recipe of the guide on identity: authentication is an extractor, and runs once a request.
#[derive(Clone)]
struct Authenticated(Result<User, StatusCode>);

impl FromRequestParts<Users> for User {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, users: &Users) -> Result<Self, StatusCode> {
        if let Some(Authenticated(known)) = parts.extensions.get() {
            return known.clone();
        }
        let token = parts.headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let user = users.clone().verify(token.unwrap_or_default().to_owned()).await;
        user.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?.ok_or(StatusCode::UNAUTHORIZED)
    }
}

async fn authenticate(State(users): State<Users>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let user = User::from_request_parts(&mut parts, &users).await;
    parts.extensions.insert(Authenticated(user));
    next.run(Request::from_parts(parts, body)).await
}

#[tokio::test(start_paused = true)]
async fn an_extractor_that_authenticates_runs_once_before_the_limits() {
    let user = by::extension_with(|found: &Authenticated| Some(found.0.as_ref().ok()?.key_of()));
    let gate = Tollgate::builder()
        .identify(user.or(by::client_ip(TrustedProxies::none())))
        .limit(Limit::per_user("2/min"))
        .build()
        .expect("a gate");
    let users = Users::default();
    let app: Router = Router::new()
        .route("/me", get(async |user: User| user.id.to_string()))
        .layer(gate.layer())
        .layer(middleware::from_fn_with_state(users.clone(), authenticate))
        .with_state(users.clone());
    let send = async |token: &str| {
        let request = Request::get("/me").header("authorization", format!("Bearer {token}"));
        let request = FakePeer::at("192.0.2.1").mark(request.body(Body::empty()).expect("a request"));
        app.clone().oneshot(request).await.expect("infallible").status().as_u16()
    };
    for (token, statuses) in [("pro", [200, 200, 429]), ("free", [200, 200, 429]), ("invented", [401, 401, 429])] {
        for status in statuses {
            assert_eq!(send(token).await, status, "{token}");
            assert_eq!(users.asked(), 1, "{token}: once a request");
        }
    }
    assert_eq!(send("broken").await, 429, "the address has used its share");
}

impl User {
    fn key_of(&self) -> Key<'static> {
        Key::number("user", self.id)
    }
}
