//! Which route governs a request: axum's, verbatim, wherever the layer stands; else a declared one.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::get;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Limit, Quota};
use tollgate::{Event, Tollgate, TollgateBuilder};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

/// Public profiles are cached for all and limited to three; one's own page is neither.
fn gate() -> TollgateBuilder {
    Tollgate::builder()
        .cache(Rules::new().route("/users/{name}", Rule::ttl(Duration::from_secs(60)).same_for_everyone()))
        .limit(Limit::global(Quota::per_minute(3)).on("/users/{name}").named("profiles"))
}

/// Answers with the user it is shown.
async fn page(request: Request) -> String {
    request.headers().get("x-who").map_or("nobody", |user| user.to_str().expect("text")).to_owned()
}

fn routes() -> Router {
    Router::new().route("/users/{name}", get(page)).route("/users/me", get(page))
}

async fn ask<S, B>(service: &S, path: &str, user: &str) -> (StatusCode, String)
where
    S: Service<Request, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let request = Request::get(path).header("host", "h").header("x-who", user).body(Body::empty()).expect("a request");
    let (head, body) = service.clone().oneshot(request).await.expect("an answer").into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    (head.status, String::from_utf8(bytes.to_vec()).expect("text"))
}

/// One's own page is one's own, and free; whether profiles are cached.
async fn own_page_is_own<S, B>(service: S, prefix: &str) -> bool
where
    S: Service<Request, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    for user in ["alice", "bob", "alice", "bob", "carol"] {
        assert_eq!(ask(&service, &format!("{prefix}/users/me"), user).await, (StatusCode::OK, user.to_owned()));
    }
    let first = ask(&service, &format!("{prefix}/users/dave"), "alice").await;
    let second = ask(&service, &format!("{prefix}/users/dave"), "bob").await;
    assert_eq!((first.0, second.0), (StatusCode::OK, StatusCode::OK));
    second.1 == "alice"
}

#[tokio::test]
async fn a_layer_on_an_axum_router_obeys_its_routes_verbatim() {
    let layer = || gate().build().expect("a gate").layer();
    assert!(own_page_is_own(routes().layer(layer()), "").await, "Router::layer");
    assert!(own_page_is_own(routes().route_layer(layer()), "").await, "Router::route_layer");
    let shared = layer();
    let one = Router::new().route("/users/{name}", get(page)).layer(shared.clone());
    let other = Router::new().route("/users/me", get(page)).layer(shared);
    assert!(own_page_is_own(one.merge(other), "").await, "Router::merge");
    let fallback = Router::new().route("/users/{name}", get(page)).fallback(page).layer(layer());
    assert!(own_page_is_own(fallback.route("/users/me", get(page)), "").await, "Router::fallback");
}

#[tokio::test]
async fn a_nested_routers_rules_name_the_whole_route() {
    let nested =
        gate().cache(Rules::new().route("/v1/users/{id}", Rule::ttl(Duration::from_secs(60)).same_for_everyone()));
    let nested = nested.build().expect("a gate").layer();
    let app = Router::new().nest("/v1", routes().layer(nested.clone()));
    assert!(own_page_is_own(app, "/v1").await, "nest, the layer inside");
    let nested =
        gate().cache(Rules::new().route("/v2/users/{id}", Rule::ttl(Duration::from_secs(60)).same_for_everyone()));
    let app = Router::new().nest("/v2", routes()).layer(nested.build().expect("a gate").layer());
    assert!(own_page_is_own(app, "/v2").await, "nest, the layer outside");
}

#[tokio::test]
async fn where_no_router_matched_declared_routes_decide_as_it_would() {
    let layer = || gate().routes(["/users/{name}", "/users/me"]).build().expect("a gate").layer();
    let around = ServiceBuilder::new().layer(layer()).service(routes());
    assert!(own_page_is_own(around, "").await, "around the Router");
    let nested = gate()
        .routes(["/api/users/{name}", "/api/users/me"])
        .cache(Rules::new().route("/api/users/{name}", Rule::ttl(Duration::from_secs(60)).same_for_everyone()));
    let nested = ServiceBuilder::new().layer(nested.build().expect("a gate").layer()).service(routes());
    let service = Router::new().nest_service("/api", nested);
    assert!(own_page_is_own(service, "/api").await, "nest_service");
    let fallback = Router::new().route("/other", get(page)).fallback_service(routes()).layer(layer());
    assert!(own_page_is_own(fallback, "").await, "a fallback");
    let bare = layer().layer(tower::service_fn(|request: Request| async move {
        Ok::<_, std::convert::Infallible>(Response::new(page(request).await))
    }));
    assert!(own_page_is_own(bare, "").await, "a bare service");
}

#[tokio::test]
async fn without_declared_routes_a_rule_with_parameters_shares_nothing_and_says_why_once() {
    let warnings = Arc::<Mutex<Vec<String>>>::default();
    let heard = warnings.clone();
    let builder = Tollgate::builder().cache(gate_rules()).hook(move |event: &Event<'_>| {
        if let Event::Warning { code, message } = event {
            heard.lock().expect("not poisoned").push(format!("{code}: {message}"));
        }
    });
    let gate = builder.build().expect("a gate");
    let around = gate.layer().layer(routes());
    assert!(!own_page_is_own(around.clone(), "").await, "nothing is shared");
    assert_eq!(ask(&around, "/about", "x").await.0, StatusCode::NOT_FOUND);
    let warnings = warnings.lock().expect("not poisoned");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("undeclared-routes") && warnings[0].contains(".routes(["), "{warnings:?}");
    assert!(gate.stats().routes["/users/{name}"].bypassed["undeclared-routes"] > 1);
}

fn gate_rules() -> Rules {
    Rules::new().route("/users/{name}", Rule::ttl(Duration::from_secs(60)).same_for_everyone())
}

#[tokio::test]
async fn without_declared_routes_plain_paths_and_rules_that_keep_credentials_apart_still_cache() {
    let rules = Rules::new()
        .route("/about", Rule::ttl(Duration::from_secs(60)).same_for_everyone())
        .route("/users/{name}", Rule::ttl(Duration::from_secs(60)));
    let gate = Tollgate::builder().cache(rules).build().expect("a gate");
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let service = gate.layer().layer(tower::service_fn(move |_: Request| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) }
    }));
    for path in ["/about", "/about", "/users/dave", "/users/dave"] {
        ask(&service, path, "x").await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_limit_counts_the_route_that_axum_chose_and_no_other() {
    let gate =
        Tollgate::builder().limit(Limit::global(Quota::per_minute(2)).on("/users/{id}")).build().expect("a gate");
    let app = routes().layer(gate.layer());
    for _ in 0..5 {
        assert_eq!(ask(&app, "/users/me", "alice").await.0, StatusCode::OK);
    }
    assert_eq!(ask(&app, "/users/a", "alice").await.0, StatusCode::OK, "whatever the parameter is called");
    assert_eq!(ask(&app, "/users/b", "alice").await.0, StatusCode::OK);
    assert_eq!(ask(&app, "/users/c", "alice").await.0, StatusCode::TOO_MANY_REQUESTS);
}
