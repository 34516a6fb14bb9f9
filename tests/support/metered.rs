//! A service with everything that is measured: cache, typed values, limits, queries and an upstream; and scripted traffic.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "each test uses its part, and may fail"
)]

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tollgate::cache::{Cached, Rule, Rules};
use tollgate::identity::{KeyExtractor, TrustedProxies, by};
use tollgate::limit::{ConcurrencyLimit, Limit, Quota, Tiers};
use tollgate::timing::{timed, timed_acquire, timed_query, timed_upstream};
use tollgate::upstream::{Credits, MemoryCredits};
use tollgate::{Circuit, Clock, ManualClock, Metrics, PeerAddr, Tollgate, TollgateBuilder, UpstreamGate};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

const MINUTE: Duration = Duration::from_secs(60);

type Client = BoxCloneSyncService<Request<Full<Bytes>>, axum::http::Response<Bytes>, tower::BoxError>;

/// The service, and its gates.
pub struct Metered {
    pub app: Router,
    pub gate: Tollgate,
    pub market: UpstreamGate,
    pub metrics: Metrics,
}

/// What handlers use.
#[derive(Clone)]
struct Shop {
    stock: Cached<u64>,
    market: Client,
}

impl Metered {
    /// Builds the service; `set` changes its gate.
    pub fn new(set: impl FnOnce(TollgateBuilder) -> TollgateBuilder) -> Self {
        let prices = Rule::ttl(MINUTE).tag("prices");
        let rules = Rules::new().route("/prices/{symbol}", prices).route("/cookie", Rule::ttl(MINUTE));
        let builder = Tollgate::builder()
            .identify(by::header("x-key").or(by::client_ip(TrustedProxies::none())))
            .limit(Tiers::new("1000/min"))
            .limit(Limit::per_ip(Quota::per_hour(3)).on("/scarce").named("scarce"))
            .limit(Limit::per_ip(Quota::per_hour(1)).on("/scarce").named("draft").shadow())
            .limit(ConcurrencyLimit::global(64).named("exports"))
            .cache(rules)
            .timing_with(|timing| timing.db_system("sqlite").slow_after(Duration::from_millis(1)));
        let gate = set(builder).build().expect("a gate");
        let market = market();
        let stock = gate.data().cached("stock").ttl(MINUTE).target_hit_ratio(0.9).build().expect("a namespace");
        gate.jobs().on_demand().job("stock", |_| async { Ok::<_, String>(()) }).expect("a job");
        let shop = Shop { stock, market: client(&market) };
        let metrics = Metrics::of(&gate).upstream(&market);
        let app = routes().layer(Extension(shop)).layer(gate.layer());
        Self { app, gate, market, metrics }
    }

    /// Sends one request; returns its status.
    pub async fn send(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> StatusCode {
        let peer = PeerAddr("192.0.2.1:5000".parse().expect("an address"));
        let mut request = Request::builder().method(method).uri(path).header("host", "shop").extension(peer);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        let response = self.app.clone().oneshot(request).await.expect("an answer");
        let status = response.status();
        response.into_body().collect().await.expect("a body");
        status
    }

    /// Sends requests until every family has a value, save those of remote stores.
    pub async fn traffic(&self) {
        for path in ["/prices/ACME", "/prices/ACME", "/prices/INIT", "/cookie", "/report", "/fail", "/nowhere", "/mail"]
        {
            self.send("GET", path, &[]).await;
        }
        self.send("GET", "/prices/ACME", &[("cookie", "session=1")]).await;
        self.send("POST", "/orders", &[]).await;
        self.send("BREW", "/orders", &[]).await;
        for _ in 0..5 {
            self.send("GET", "/scarce", &[]).await;
        }
        for _ in 0..3 {
            self.send("GET", "/quotes/ACME", &[]).await;
        }
        self.send("GET", "/quotes/DOWN", &[]).await;
        self.gate.jobs().run_now("stock").expect("known");
        for _ in 0..1_000 {
            if self.gate.jobs().list()[0].runs > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn routes() -> Router {
    Router::new()
        .route("/prices/{symbol}", get(price))
        .route("/cookie", get(|| async { ([("set-cookie", "a=b")], "x") }))
        .route("/scarce", get(|| async { "x" }))
        .route("/fail", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
        .route("/orders", post(|| async { StatusCode::CREATED }))
        .route("/report", get(report))
        .route("/mail", get(|| async { timed_upstream("mail", tokio::time::sleep(Duration::from_millis(2))).await }))
        .route("/quotes/{symbol}", get(quote))
}

async fn price(Path(symbol): Path<String>, Extension(shop): Extension<Shop>) -> String {
    timed_acquire(async {}).await;
    timed_query("SELECT price FROM prices WHERE symbol = $1", async {}).key(&symbol).await;
    let stock = shop.stock.get_or_load(&*symbol, async || Ok::<_, std::convert::Infallible>(42)).await;
    format!("{:?}", stock.map(|stock| *stock))
}

async fn report() -> &'static str {
    for key in 0..6 {
        timed_query("SELECT name FROM users WHERE id = $1", async {}).key(&key).await;
    }
    timed("totals", async {}).await;
    "done"
}

async fn quote(Path(symbol): Path<String>, Extension(shop): Extension<Shop>) -> impl IntoResponse {
    let request = Request::get(format!("https://api.example.com/quotes/{symbol}")).body(Full::default());
    let answer = shop.market.oneshot(request.expect("a request")).await;
    answer.map_or(StatusCode::BAD_GATEWAY, |response| response.status())
}

/// An upstream with a quota, a circuit and a cache.
fn market() -> UpstreamGate {
    Tollgate::upstream("market")
        .quota(Credits::per_month(20))
        // At any real time, the month may end before the quota.
        .clock(Clock::Manual(ManualClock::new()))
        .routes(["/quotes/{symbol}"])
        .cache(Rules::new().route("/quotes/{symbol}", Rule::ttl(MINUTE)))
        .upstream_with(|upstream| upstream.circuit(Circuit::default()).store(Arc::new(MemoryCredits::default())))
        .build()
        .expect("a gate")
}

fn client(market: &UpstreamGate) -> Client {
    let inner = service_fn(async |request: Request<Full<Bytes>>| {
        if request.uri().path() == "/quotes/DOWN" {
            return Err(std::io::Error::other("refused"));
        }
        let response = axum::http::Response::builder().header("cache-control", "max-age=60");
        Ok(response.body(Full::from("42")).expect("a response"))
    });
    let service = market.layer().layer(inner);
    let whole = service_fn(move |request| {
        let service = service.clone();
        async move {
            let (parts, body) = service.oneshot(request).await.map_err(tower::BoxError::from)?.into_parts();
            let body = body.collect().await.map_err(|_| "a broken body")?.to_bytes();
            Ok::<_, tower::BoxError>(axum::http::Response::from_parts(parts, body))
        }
    });
    BoxCloneSyncService::new(whole)
}

/// The service with `/metrics`, which is not measured itself.
pub fn scraped(metered: &Metered) -> Router {
    let metrics = metered.metrics.clone();
    let scrape = get(async move |headers: HeaderMap| metrics.respond(&headers));
    metered.app.clone().merge(Router::new().route("/metrics", scrape))
}
