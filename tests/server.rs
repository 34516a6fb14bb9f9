//! The example server, driven over a real socket as a user would drive it.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tollgate::Tollgate;

#[path = "../examples/server/api.rs"]
mod api;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/redis.rs"]
mod redis;

/// The server on a free port, with its gate and a client.
struct Running {
    address: SocketAddr,
    gate: Tollgate,
    client: Client<HttpConnector, Full<bytes::Bytes>>,
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: String,
}

impl Answer {
    fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

impl Running {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(levels: &[api::Level]) -> Self {
        let configured = api::app(Duration::from_millis(5), true, levels);
        let (app, gate, _upstream) = configured.expect("the example's configuration");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let service = app.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { address, gate, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    async fn send(&self, method: &str, path: &str, token: Option<&str>, body: &'static str) -> Answer {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        self.ask(method, path, &fields, body).await
    }

    /// Asks with these fields, as they are. What is cached belongs to a host, whichever port serves it.
    async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &'static str) -> Answer {
        let mut request = http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.header("host", "shop.example").body(Full::from(body)).expect("a request");
        let (head, body) = self.client.request(request).await.expect("an answer").into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let body = String::from_utf8(bytes.to_vec()).expect("text");
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        self.send("GET", path, token, "").await
    }

    async fn admitted(&self, n: usize, path: &str, token: Option<&str>) -> usize {
        let mut admitted = 0;
        for _ in 0..n {
            admitted += usize::from(self.get(path, token).await.status == 200);
        }
        admitted
    }

    async fn upstream_calls(&self) -> u64 {
        self.get("/upstream-calls", None).await.body.trim().parse().expect("a number")
    }
}

#[tokio::test]
async fn tiers_are_held_and_refusals_are_complete() {
    let server = Running::start().await;
    assert_eq!(server.admitted(20, "/me", None).await, 20);
    let refused = server.get("/me", None).await;
    assert_eq!(refused.status, 429);
    for name in ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after", "ratelimit"] {
        assert_ne!(refused.field(name), "", "{name}");
    }
    assert!(refused.body.contains("\"violated-policies\":[\"anonymous\"]"), "{}", refused.body);
    assert_eq!(server.admitted(1_005, "/me", Some("pro-alpha")).await, 1_000);
    assert_eq!(server.get("/me", Some("free-alpha")).await.field("x-ratelimit-remaining"), "99");
}

#[tokio::test]
async fn a_thousand_invented_tokens_get_twenty_in_all() {
    let server = Running::start().await;
    let mut admitted = 0;
    for n in 0..1_000 {
        admitted += usize::from(server.get("/me", Some(&format!("invented-{n}"))).await.status == 200);
    }
    assert_eq!(admitted, 20);
    assert_eq!(server.get("/me", Some("free-beta")).await.status, 200, "others are not affected");
}

#[tokio::test]
async fn one_price_reaches_the_upstream_once_and_money_is_saved() {
    let server = Running::start().await;
    let tokens = ["enterprise-alpha", "pro-alpha", "pro-beta"];
    for n in 0..1_200 {
        let answer = server.get("/prices/ACME", Some(tokens[n % 3])).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(server.upstream_calls().await, 1);
    let stats = server.gate.stats();
    let route = &stats.routes["/prices/{symbol}"];
    assert_eq!((route.requests, route.misses, route.hits), (1_200, 1, 1_199));
    assert_eq!((stats.inner_calls, stats.inner_calls_avoided), (1, 1_199));
    assert!((stats.money_saved.expect("a price is set") - 11.99).abs() < 1e-9);
    assert!(stats.time_saved >= Duration::from_millis(5) * 1_199);
    assert!(route.latency.p50 <= route.latency.p95 && route.latency.p95 <= route.latency.p99);
    let calls = stats.timing.upstreams.iter().find(|call| call.name == "prices").expect("timed");
    assert_eq!(calls.latency.count, 1);
    let stats: serde_json::Value = serde_json::from_str(&server.get("/stats.json", None).await.body).expect("JSON");
    let month = &stats["upstream"]["windows"][0];
    assert_eq!((&month["window"], &month["spent"], &month["remaining"]), (&"month".into(), &1.into(), &59_999.into()));
    assert!(
        month.get("exhausted_in_seconds").is_some() && stats["inner_calls_avoided_total"].as_u64() >= Some(1),
        "{month}"
    );
}

#[tokio::test]
async fn thirty_at_once_share_one_upstream_call() {
    let server = Running::start().await;
    let asks = (0..30).map(|_| server.get("/prices/BOLT", Some("pro-alpha")));
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == answers[0].body));
    assert_eq!(server.upstream_calls().await, 1);
}

#[tokio::test]
async fn a_new_price_is_seen_at_once() {
    let server = Running::start().await;
    let old = server.get("/prices/ACME", None).await;
    assert_eq!(old.field("content-length"), old.body.len().to_string(), "being stored does not make it chunked");
    assert!(server.get("/prices/ACME", None).await.field("cache-status").contains("hit"));
    assert_eq!(server.send("POST", "/prices/ACME", None, "99.5").await.status, 200);
    let new = server.get("/prices/ACME", None).await;
    assert!(new.body.contains("99.5") && new.body != old.body, "{}", new.body);
    assert_eq!(server.send("POST", "/prices/ACME", None, "NaN").await.status, 400);
    server.gate.invalidate().tag("prices").await.expect("in process");
    assert!(!server.get("/prices/ACME", None).await.field("cache-status").contains("hit"));
}

#[tokio::test]
async fn users_are_never_mixed() {
    let server = Running::start().await;
    for _ in 0..5 {
        for (token, name) in
            [(Some("free-alpha"), "\"free-alpha\""), (Some("pro-beta"), "\"pro-beta\""), (None, "null")]
        {
            let answer = server.get("/me", token).await;
            assert!(answer.body.contains(&format!("\"user\":{name}")), "{}", answer.body);
            assert!(!answer.field("cache-status").contains("hit"));
        }
    }
    // A shared answer carries the fields of whoever asked, not of whoever filled the cache.
    server.get("/prices/COIL", Some("enterprise-alpha")).await;
    assert_eq!(server.get("/prices/COIL", Some("free-alpha")).await.field("x-ratelimit-limit"), "100");
}

#[tokio::test]
async fn a_report_says_how_long_its_queries_took() {
    let server = Running::start().await;
    let answer = server.get("/report", None).await;
    let timing = answer.field("server-timing");
    assert!(timing.starts_with("total;dur=") && timing.contains("desc=\"4 queries\""), "{timing}");
    let stats: serde_json::Value = serde_json::from_str(&server.get("/stats.json", None).await.body).expect("JSON");
    assert_eq!(stats["routes"]["/report"]["requests_total"], 1);
    assert_eq!(stats["keys"]["capacity"], 100_000);
}

/// Two servers, the second of which has answered with a price that the first has bought.
async fn sharing_a_price(levels: &[api::Level]) -> (Running, Running) {
    let (one, other) = (Running::with(levels).await, Running::with(levels).await);
    for server in [&one, &other] {
        for _ in 0..1_000 {
            if server.gate.stats().cache.iter().all(|level| level.up) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let price = one.get("/prices/ACME", Some("free-alpha")).await.body;
    for _ in 0..1_000 {
        if one.gate.stats().fetches_in_flight == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(other.get("/prices/ACME", Some("free-alpha")).await.body, price);
    assert_eq!((one.upstream_calls().await, other.upstream_calls().await), (1, 0));
    (one, other)
}

#[tokio::test]
async fn two_servers_over_one_postgres_share_limits_and_prices() {
    if !postgres::wanted() {
        return;
    }
    let server = postgres::Postgres::start();
    let (one, other) = sharing_a_price(&[api::Level::Postgres(server.url())]).await;
    let admitted =
        one.admitted(60, "/me", Some("free-alpha")).await + other.admitted(60, "/me", Some("free-alpha")).await;
    assert!((70..=98).contains(&admitted), "a hundred a minute in all, two of which were spent: {admitted}");
}

#[tokio::test]
async fn two_servers_over_one_redis_share_limits_and_prices() {
    if !redis::wanted() {
        return;
    }
    let redis = redis::RedisServer::start();
    let url = redis.url();
    let (one, other) = sharing_a_price(&[api::Level::Redis(url)]).await;
    let all = one.admitted(80, "/me", Some("free-alpha")).await + other.admitted(80, "/me", Some("free-alpha")).await;
    // Two of the hundred were spent above. A decision that this machine was too busy for is made by each alone.
    let alone: u64 = [&one, &other].iter().map(|server| server.gate.stats().remote.map_or(0, |r| r.failures)).sum();
    assert!(all == 98 || alone > 0, "{all}");
}

/// Two users and a stranger, every route, in random order, beside the same service without a cache: no difference.
#[tokio::test]
async fn no_one_gets_another_answer_than_without_a_cache() {
    let without = |app: &Running| {
        app.gate.set_cache_mode(tollgate::Mode::Off);
        app.gate.set_limits_mode(tollgate::Mode::Off);
    };
    let (cached, plain) = (Running::start().await, Running::start().await);
    cached.gate.set_limits_mode(tollgate::Mode::Off);
    without(&plain);
    let credentials: [&[(&str, &str)]; 8] = [
        &[],
        &[("authorization", "Bearer pro-alpha")],
        &[("authorization", "Bearer free-beta")],
        &[("x-api-key", "pro-alpha")],
        &[("x-api-key", "free-beta")],
        &[("x-api-key", "pro-alpha"), ("x-api-key", "free-beta")],
        &[("x-api-key", "unknown")],
        &[("cookie", "session=pro-alpha")],
    ];
    let paths = ["/prices/ACME", "/prices/BOLT", "/prices/mine", "/portfolio", "/me", "/report", "/nowhere"];
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    let mut roll = move |sides: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice % sides as u64) as usize
    };
    for turn in 0..1_500 {
        let (fields, path) = (credentials[roll(credentials.len())], paths[roll(paths.len())]);
        if roll(50) == 0 {
            let price = ["1.5", "99", "7"][roll(3)];
            for app in [&cached, &plain] {
                assert_eq!(app.ask("POST", "/prices/ACME", fields, price).await.status, 200);
                // Portfolios are made of prices; the handler of the service knows, and so does its cache.
                app.gate.invalidate().tag("prices").await.expect("in process");
            }
        }
        let (mine, theirs) = (cached.ask("GET", path, fields, "").await, plain.ask("GET", path, fields, "").await);
        assert_eq!((mine.status, &mine.body), (theirs.status, &theirs.body), "turn {turn}: {path} {fields:?}");
    }
    let stats = cached.gate.stats();
    assert!(stats.routes["/prices/{symbol}"].hits > 100 && stats.routes["/portfolio"].hits > 50, "{:?}", stats.routes);
    assert_eq!(stats.routes["/prices/mine"].hits, 0);
}
