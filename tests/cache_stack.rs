//! The layer among others: under axum, tonic, `ServiceBuilder` and `BodyBuffer`, and the readiness contract.
#![allow(clippy::expect_used, reason = "a test may fail by panicking")]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tollgate::cache::{CacheKey, CacheLayer, CacheStore, LevelStats, Rule, Rules, Stored};
use tollgate::{Error, MaybeReady, Timestamp};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

fn layer() -> CacheLayer {
    CacheLayer::builder().cache_status(true).build().expect("a layer")
}

fn ask(path: &str) -> Request<AxumBody> {
    Request::get(path).header("host", "example.com").body(AxumBody::empty()).expect("a request")
}

fn status_of<B>(response: &Response<B>) -> &str {
    response.headers()["cache-status"].to_str().expect("text")
}

#[tokio::test]
async fn axum_routes_and_nested_routers_share_one_cache_and_never_mix() {
    let handler = |name: &'static str| get(move || async move { ([("cache-control", "max-age=60")], name) });
    let cache = layer();
    let nested = |name| Router::new().route("/x/{id}", handler(name)).layer(cache.clone());
    let app =
        Router::new().nest("/a", nested("a")).nest("/b", nested("b")).route("/c", handler("c").layer(cache.clone()));
    for hit in [false, true] {
        for (path, body) in [("/a/x/1", "a"), ("/b/x/1", "b"), ("/c", "c")] {
            let response = app.clone().oneshot(ask(path)).await.expect("infallible");
            assert_eq!(status_of(&response).contains("hit"), hit, "{path}");
            assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), body);
        }
    }
    let stats = cache.stats();
    assert_eq!(stats.routes["/a/x/{id}"].hits, 1, "named by the matched route");
}

#[tokio::test]
async fn three_layers_and_other_middleware_compile_and_run() {
    let app = Router::new()
        .route("/", get(|| async { ([("cache-control", "max-age=60")], "x") }))
        .layer(layer())
        .layer(ServiceBuilder::new().layer(layer()).layer(tower::util::MapRequestLayer::new(|r: Request<AxumBody>| r)))
        .layer(layer());
    let response = app.oneshot(ask("/")).await.expect("infallible");
    assert_eq!(response.headers().get_all("cache-status").iter().count(), 3);
    let bare = tower::service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("x")))
    });
    let stacked = ServiceBuilder::new().buffer(8).layer(layer()).layer(layer()).layer(layer()).service(bare);
    let request = Request::get("http://example.com/").body(Full::default()).expect("a request");
    assert_eq!(stacked.oneshot(request).await.expect("no error").status(), StatusCode::OK);
    let off = CacheLayer::builder().enabled(false).build().expect("a layer").layer(bare);
    let request = Request::get("http://example.com/").body(Full::default()).expect("a request");
    assert!(!off.oneshot(request).await.expect("no error").headers().contains_key("cache-status"));
}

#[tokio::test]
async fn tonic_bodies_and_routes_fit() {
    let grpc = tower::service_fn(|_: Request<tonic::body::Body>| async {
        Ok::<_, Infallible>(Response::new(tonic::body::Body::empty()))
    });
    let request = Request::post("http://example.com/pkg.Service/Call")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::empty())
        .expect("a request");
    let response = layer().layer(grpc).oneshot(request).await.expect("no error");
    assert_eq!(response.status(), StatusCode::OK);
    let _server = tonic::transport::Server::builder().layer(layer());
}

#[tokio::test]
async fn hits_are_answered_while_the_inner_service_is_full() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let slow = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let mut gate = gate.clone();
        async move {
            if request.uri().path() == "/slow" {
                gate.wait_for(|open| *open).await.expect("open");
            }
            Ok::<_, Infallible>(
                Response::builder().header("cache-control", "max-age=60").body(Full::from("x")).expect("ok"),
            )
        }
    });
    let service = ServiceBuilder::new().layer(layer()).concurrency_limit(1).service(slow);
    let ask = |path: &str| Request::get(format!("http://example.com{path}")).body(Full::default()).expect("a request");
    service.clone().oneshot(ask("/fast")).await.expect("no error");
    let full = tokio::spawn(service.clone().oneshot(ask("/slow")));
    tokio::time::sleep(Duration::from_millis(10)).await;
    for _ in 0..10 {
        let hit = tokio::time::timeout(Duration::from_secs(5), service.clone().oneshot(ask("/fast"))).await;
        assert!(status_of(&hit.expect("at once").expect("no error")).contains("hit"));
    }
    open.send(true).expect("a listener");
    full.await.expect("no panic").expect("no error");
}

/// Panics when it is called without having been ready, as `ConcurrencyLimit` and others do.
#[derive(Default)]
struct Strict {
    ready: bool,
    turns: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false, turns: self.turns.clone() }
    }
}

impl Service<Request<Full<Bytes>>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.turns.fetch_add(1, Ordering::SeqCst) % 3 < 2 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<Full<Bytes>>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called unready");
        Box::pin(async { Ok(Response::new(Full::from("x"))) })
    }
}

#[tokio::test]
async fn an_unready_clone_is_never_called_and_a_hit_touches_none() {
    let rules = Rules::new().route("/cached", Rule::ttl(Duration::from_secs(60)));
    let cache = CacheLayer::builder().rules(rules).build().expect("a layer");
    let strict = Strict::default();
    let turns = strict.turns.clone();
    let mut service = cache.layer(strict);
    let ask = |method: &str, path: &str| {
        Request::builder().method(method).uri(format!("http://h{path}")).body(Full::default()).expect("a request")
    };
    for (method, path) in
        [("GET", "/cached"), ("GET", "/other"), ("POST", "/cached"), ("HEAD", "/other"), ("GET", "/cached")]
    {
        service.ready().await.expect("always").call(ask(method, path)).await.expect("no error");
    }
    let before = turns.load(Ordering::SeqCst);
    service.call(ask("GET", "/cached")).await.expect("a hit");
    assert_eq!(turns.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_store_that_fails_is_a_miss_and_an_event() {
    #[derive(Debug)]
    struct Broken;
    impl CacheStore for Broken {
        fn get(&self, _: &CacheKey, _: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
            MaybeReady::Pending(Box::pin(async { Err(Error::store("get failed", "unplugged")) }))
        }
        fn put(&self, _: &CacheKey, _: Stored, _: Timestamp) -> MaybeReady<Result<(), Error>> {
            MaybeReady::Ready(Err(Error::store("put failed", "unplugged")))
        }
        fn remove(&self, _: &CacheKey) -> MaybeReady<Result<(), Error>> {
            MaybeReady::Pending(Box::pin(async { Err(Error::store("remove failed", "unplugged")) }))
        }
        fn stats(&self) -> Vec<LevelStats> {
            Vec::new()
        }
    }
    static SEEN: AtomicBool = AtomicBool::new(false);
    let hook: tollgate::Hook = Arc::new(|event: &tollgate::Event<'_>| {
        if matches!(event, tollgate::Event::StoreFailed { .. }) {
            SEEN.store(true, Ordering::SeqCst);
        }
    });
    let cache = CacheLayer::builder().store(Arc::new(Broken)).hook(hook).build().expect("a layer");
    let inner = tower::service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(
            Response::builder().header("cache-control", "max-age=60").body(Full::<Bytes>::from("x")).expect("ok"),
        )
    });
    for method in ["GET", "GET", "POST"] {
        let request =
            Request::builder().method(method).uri("http://h/").body(Full::<Bytes>::default()).expect("a request");
        let response = cache.layer(inner).oneshot(request).await.expect("no error");
        assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), "x");
    }
    assert!(SEEN.load(Ordering::SeqCst));
    assert_eq!(cache.stats().fetches_in_flight, 0);
}
