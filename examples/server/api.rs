//! The API: routes, a simulated upstream, simulated authentication. The tests use it unchanged.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use tollgate::cache::{Rule, Rules};
use tollgate::identity::{Identity, Key, KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Draft, Tiers};
use tollgate::timing::{timed, timed_upstream};
use tollgate::upstream::{Credits, Error, UpstreamLayer};
use tollgate::{Metrics, Tollgate};
use tower::{Layer, ServiceExt, service_fn};

/// Price of an upstream call, in dollars.
const PRICE_OF_A_CALL: f64 = 0.01;

/// Purchased calls per month.
const CALLS_A_MONTH: u64 = 60_000;

/// Bytes on disk of a file level.
const FILE_BYTES: u64 = 1 << 30;

/// The level of the cache behind this process's memory.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "tests use some of them")]
pub(crate) enum Level {
    /// A PostgreSQL.
    Postgres(String),
    /// A Redis, which shares limits too.
    Redis(String),
    /// A directory.
    File(PathBuf),
}

/// Returns the wrapped service, with the handles to its gate and its upstream.
pub(crate) fn app(
    upstream_delay: Duration,
    limits: bool,
    levels: &[Level],
) -> Result<(Router, Tollgate, Arc<Upstream>), tollgate::Error> {
    let mut gate = Tollgate::builder()
        .identify(by::extension::<User>().or(by::client_ip(TrustedProxies::none())))
        .cache(
            Rules::new()
                .route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15)).tag("prices").same_for_everyone())
                // Per user, for a few seconds.
                .route("/portfolio", Rule::ttl(Duration::from_secs(5)).tag("prices").per_identity())
                .route("/me", Rule::never())
                .route("/report", Rule::never()),
        )
        .cache_with(|cache| cache.cache_status(true))
        .slow_after(Duration::from_millis(250))
        .timing_with(|timing| timing.server_timing(true))
        .cost_per_call(PRICE_OF_A_CALL);
    if limits {
        gate = gate
            .limit(Tiers::default().assign(|head| head.extension::<User>().map(|user| user.tier)))
            .limits_with(|limits| limits.ietf_fields(Draft::Eleven));
    }
    for level in levels {
        gate = match level {
            Level::Postgres(url) => gate.postgres(url.as_str()),
            Level::Redis(url) => gate.redis(url.as_str()),
            Level::File(directory) => gate.file(directory, FILE_BYTES),
        };
    }
    let quota = UpstreamLayer::builder("prices").quota(Credits::per_month(CALLS_A_MONTH)).routes(["/prices/{symbol}"]);
    let (calls, prices) = (AtomicU64::new(0), Mutex::default());
    let upstream = Arc::new(Upstream { delay: upstream_delay, calls, prices, quota: quota.build()? });
    let gate = gate
        .watch_upstream(&upstream.quota)
        .health_with(|health| health.hit_target("/prices/{symbol}", 0.8))
        .build()?;
    let measured = Router::new()
        .route("/prices/{symbol}", get(price).post(set_price))
        // A route of its own: the rule of the pattern above does not apply.
        .route("/prices/mine", get(favourite))
        .route("/portfolio", get(portfolio))
        .route("/me", get(me))
        .route("/report", get(report))
        .layer(gate.layer())
        // Outside the gate: the gate reads the extensions that it inserts.
        .layer(from_fn(authenticate));
    let (for_stats, metrics, quota) = (gate.clone(), Metrics::of(&gate), upstream.quota.clone());
    let stats = move || {
        let mut stats = json!(for_stats.stats());
        stats["upstream"] = json!(quota.stats());
        std::future::ready(Json(stats))
    };
    let app = measured
        .route("/upstream-calls", get(upstream_calls))
        .route("/stats.json", get(stats))
        .route("/metrics", get(async move |headers: HeaderMap| metrics.respond(&headers)))
        // Outside the gate too: operators are neither limited nor measured.
        .nest_service("/ops", gate.admin().local_only().build()?)
        .with_state(upstream.clone());
    Ok((app, gate, upstream))
}

/// Verified user.
#[derive(Clone, Copy)]
struct User {
    name: &'static str,
    tier: &'static str,
}

impl Identity for User {
    fn key(&self) -> Key<'_> {
        Key::text("user", self.name)
    }
}

const USERS: [User; 6] = [
    User { name: "free-alpha", tier: "free" },
    User { name: "free-beta", tier: "free" },
    User { name: "pro-alpha", tier: "pro" },
    User { name: "pro-beta", tier: "pro" },
    User { name: "pro-gamma", tier: "pro" },
    User { name: "enterprise-alpha", tier: "enterprise" },
];

/// Returns the token in `Authorization: Bearer …`, or in `X-Api-Key`.
fn token(headers: &HeaderMap) -> Option<&str> {
    let field = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    field("authorization").and_then(|value| value.strip_prefix("Bearer ")).or_else(|| field("x-api-key"))
}

/// Verifies the token; requests without a valid one are anonymous.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let user = token(request.headers()).and_then(|token| USERS.iter().find(|user| user.name == token)).copied();
    if let Some(user) = user {
        request.extensions_mut().insert(user);
    }
    next.run(request).await
}

/// Simulated paid API.
pub(crate) struct Upstream {
    delay: Duration,
    calls: AtomicU64,
    prices: Mutex<HashMap<String, f64>>,
    /// Quota of the API.
    quota: UpstreamLayer,
}

/// Symbol of a call: the simulated API reads no paths.
#[derive(Clone)]
struct Symbol(String);

impl Upstream {
    /// Returns the number of calls.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Requests a price, within the quota.
    async fn price(self: Arc<Self>, symbol: &str) -> Result<f64, Error<Infallible>> {
        let quota = self.quota.clone();
        let client = quota.layer(service_fn(move |request: axum::http::Request<Symbol>| {
            let far = self.clone();
            async move { Ok(axum::http::Response::new(far.answer(&request.into_body().0).await.to_string())) }
        }));
        let mut request = axum::http::Request::new(Symbol(symbol.to_owned()));
        *request.uri_mut() = axum::http::Uri::from_static("http://prices.example/prices/any");
        let answer = axum::body::to_bytes(axum::body::Body::new(client.oneshot(request).await?.into_body()), 64).await;
        Ok(answer.ok().and_then(|answer| std::str::from_utf8(&answer).ok()?.parse().ok()).unwrap_or_default())
    }

    /// Simulates the API.
    async fn answer(&self, symbol: &str) -> f64 {
        self.calls.fetch_add(1, Ordering::Relaxed);
        timed_upstream("prices", tokio::time::sleep(self.delay)).await;
        let prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
        let invented = symbol.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        prices.get(symbol).copied().unwrap_or(f64::from(invented % 50_000) / 100.0)
    }
}

async fn price(State(upstream): State<Arc<Upstream>>, Path(symbol): Path<String>) -> Response {
    match upstream.price(&symbol).await {
        Ok(price) => Json(json!({ "symbol": symbol, "price": price })).into_response(),
        Err(error) => {
            let wait = error.rejected().map_or(1, |rejected| rejected.retry_after.as_secs() + 1);
            let fields = [(header::RETRY_AFTER, wait.to_string())];
            (StatusCode::SERVICE_UNAVAILABLE, fields, format!("{error}\n")).into_response()
        }
    }
}

async fn set_price(
    State(upstream): State<Arc<Upstream>>,
    Path(symbol): Path<String>,
    body: String,
) -> Result<Json<Value>, (StatusCode, String)> {
    let wrong = || (StatusCode::BAD_REQUEST, format!("{body:?} is not a price\n"));
    let price: f64 = body.trim().parse().map_err(|_| wrong())?;
    if !price.is_finite() {
        return Err(wrong());
    }
    // The simulated upstream stores at most this many symbols.
    let mut prices = upstream.prices.lock().unwrap_or_else(PoisonError::into_inner);
    if prices.len() < 10_000 || prices.contains_key(&symbol) {
        prices.insert(symbol.clone(), price);
    }
    Ok(Json(json!({ "symbol": symbol, "price": price })))
}

async fn me(user: Option<Extension<User>>) -> Json<Value> {
    Json(user.map_or_else(
        || json!({ "user": null, "tier": "anonymous" }),
        |Extension(user)| json!({ "user": user.name, "tier": user.tier }),
    ))
}

/// Returns the symbol that a user watches.
const fn watched(user: User) -> &'static str {
    match user.name.as_bytes() {
        [b'p', ..] => "ACME",
        [b'f', ..] => "BOLT",
        _ => "COIL",
    }
}

async fn favourite(user: Option<Extension<User>>) -> Response {
    match user {
        Some(Extension(user)) => Json(json!({ "user": user.name, "symbol": watched(user) })).into_response(),
        None => (StatusCode::UNAUTHORIZED, "authentication required\n").into_response(),
    }
}

async fn portfolio(State(upstream): State<Arc<Upstream>>, user: Option<Extension<User>>) -> Response {
    let Some(Extension(user)) = user else {
        return (StatusCode::UNAUTHORIZED, "authentication required\n").into_response();
    };
    match upstream.price(watched(user)).await {
        Ok(price) => Json(json!({ "user": user.name, "value": 10.0 * price })).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn report() -> Json<Value> {
    for symbol in ["ACME", "BOLT", "COIL"] {
        timed("select price", tokio::time::sleep(Duration::from_millis(2))).await;
        let _ = symbol;
    }
    timed("select totals", tokio::time::sleep(Duration::from_millis(5))).await;
    Json(json!({ "queries": 4 }))
}

async fn upstream_calls(State(upstream): State<Arc<Upstream>>) -> String {
    format!("{}\n", upstream.calls())
}
