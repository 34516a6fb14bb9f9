//! The admin service as attackers, proxies, scripts and load balancers meet it.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/directory.rs"]
mod directory;
#[path = "support/redis.rs"]
mod redis;

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use directory::TestDirectory;
use futures_util::future::join_all;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tollgate::cache::{Rule, Rules};
use tollgate::identity::{TrustedProxies, by};
use tollgate::limit::Limit;
use tollgate::testing::FakePeer;
use tollgate::{Actor, Admin, AdminBody, Clock, ManualClock, Mode, Override, Tollgate, TollgateBuilder};
use tower::{Layer, ServiceExt, service_fn};

const SECRET: &str = "a secret of the operators";
const VIEWER: &str = "a secret of the viewers";

/// A gate with its admin service.
struct Ops {
    gate: Tollgate,
    admin: Admin,
}

fn builder() -> TollgateBuilder {
    let rule = Rule::ttl(Duration::from_secs(60)).same_for_everyone().tag("articles");
    Tollgate::builder()
        .routes(["/articles/{id}", "/other"])
        .identify(by::client_ip(TrustedProxies::none()))
        .cache(Rules::new().route("/articles/{id}", rule))
        .limit(Limit::per_user("100/h").named("api"))
}

impl Ops {
    fn new(builder: TollgateBuilder) -> Self {
        let gate = builder.build().expect("a gate");
        let admin = gate.admin().secret(SECRET).viewer_secret(VIEWER).build().expect("an admin service");
        Self { gate, admin }
    }

    /// Sends a GET through the gate; returns its status.
    async fn visit(&self, path: &str) -> StatusCode {
        let service = self.gate.layer().layer(service_fn(|_: Request<Full<Bytes>>| async {
            Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"answer"))))
        }));
        let request = Request::get(path).header("host", "h").body(Full::default()).expect("a request");
        service.oneshot(FakePeer::at("192.0.2.7").mark(request)).await.expect("infallible").status()
    }

    async fn ask(&self, method: Method, path: &str, fields: &[(&str, &str)], body: &str) -> Response<AdminBody> {
        let mut request = Request::builder().method(method).uri(path).header("host", "ops.example");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::<Bytes>::from(body.to_owned())).expect("a request");
        self.admin.handle(FakePeer::at("192.0.2.1").mark(request)).await
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.ask(Method::GET, path, &[("authorization", &bearer(SECRET))], "").await;
        serde_json::from_str(&text(answer).await).expect("JSON")
    }

    /// An action of a program.
    async fn act(&self, path: &str, form: &str) -> (StatusCode, Value) {
        let answer = self.ask(Method::POST, path, &[("authorization", &bearer(SECRET))], form).await;
        let status = answer.status();
        (status, serde_json::from_str(&text(answer).await).expect("JSON"))
    }

    /// The form token of the page.
    async fn token(&self) -> String {
        let page = text(self.ask(Method::GET, "/", &[("authorization", &basic("ann", SECRET))], "").await).await;
        let (_, rest) = page.split_once("name=\"token\" value=\"").expect("a form");
        rest.split('"').next().expect("a token").to_owned()
    }
}

async fn text(answer: Response<AdminBody>) -> String {
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

fn basic(name: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{secret}")))
}

#[tokio::test]
async fn nothing_is_answered_without_a_secret_but_to_load_balancers() {
    let ops = Ops::new(builder());
    for path in ["/", "/stats.json", "/events", "/dashboard.js", "/report.txt", "/explain.json?url=/a", "/audit.json"] {
        let answer = ops.ask(Method::GET, path, &[], "").await;
        assert_eq!(answer.status(), 401, "{path}");
        assert_eq!(answer.headers()["www-authenticate"], "Basic realm=\"tollgate\", charset=\"UTF-8\"");
        assert_eq!(answer.headers()["cache-control"], "no-store");
    }
    for path in ["/health/live", "/health/ready"] {
        let answer = ops.ask(Method::GET, path, &[], "").await;
        assert_eq!((answer.status(), text(answer).await.as_str()), (StatusCode::OK, "ok\n"), "{path}");
    }
    let head = ops.ask(Method::HEAD, "/stats.json", &[("authorization", &bearer(VIEWER))], "").await;
    assert_eq!((head.status(), text(head).await.as_str()), (StatusCode::OK, ""));
    assert_eq!(ops.ask(Method::GET, "/etc/passwd", &[], "").await.status(), 404);
    let wrong = ops.ask(Method::GET, "/purge", &[("authorization", &bearer(SECRET))], "").await;
    assert_eq!(
        (wrong.status(), &wrong.headers()["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().expect("a value"))
    );
}

#[tokio::test]
async fn a_readiness_probe_fails_with_a_check_of_the_application() {
    let ops = Ops::new(builder().health_with(|health| health.check("database", || async { Err::<(), _>("refused") })));
    ops.ask(Method::GET, "/health/ready", &[], "").await;
    tokio::task::yield_now().await;
    let ready = ops.ask(Method::GET, "/health/ready", &[], "").await;
    assert_eq!((ready.status(), text(ready).await.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "a check fails\n"));
    assert_eq!(ops.ask(Method::GET, "/health/live", &[], "").await.status(), 200);
}

#[tokio::test]
async fn every_answer_forbids_framing_sniffing_storing_and_loading_from_elsewhere() {
    let ops = Ops::new(builder());
    for path in ["/", "/stats.json", "/dashboard.css", "/dashboard.js", "/icon.svg", "/report.txt", "/nothing"] {
        let answer = ops.ask(Method::GET, path, &[("authorization", &bearer(SECRET))], "").await;
        let field = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
        let policy = field("content-security-policy");
        assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{path}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!((field("x-content-type-options"), field("x-frame-options")), ("nosniff".into(), "DENY".into()));
        assert_eq!((field("cache-control"), field("referrer-policy")), ("no-store".into(), "no-referrer".into()));
        assert_eq!(field("cross-origin-resource-policy"), "same-origin");
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
    }
    let page = text(ops.ask(Method::GET, "/", &[("authorization", &bearer(SECRET))], "").await).await;
    for forbidden in ["<script>", " style=", " onclick=", "javascript:", "href=\"http", "src=\"http"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[tokio::test]
async fn wrong_secrets_are_limited_by_address_and_the_right_one_is_never_locked_out() {
    let ops = Ops::new(builder());
    let ops = &ops;
    let wrong = join_all((0..1_000).map(|n| async move {
        let secret = bearer(&format!("{SECRET}{n}"));
        ops.ask(Method::GET, "/stats.json", &[("authorization", &secret)], "").await.status()
    }));
    let wrong = wrong.await;
    let count = |status: u16| wrong.iter().filter(|known| known.as_u16() == status).count();
    assert_eq!((count(401), count(429)), (10, 990));
    for fields in [("authorization", bearer(SECRET)), ("authorization", basic("ann", SECRET))] {
        assert_eq!(ops.ask(Method::GET, "/stats.json", &[(fields.0, &fields.1)], "").await.status(), 200);
    }
    let waits = ops.ask(Method::GET, "/", &[("authorization", &bearer("wrong"))], "").await;
    assert_eq!((waits.status().as_u16(), &waits.headers()["retry-after"]), (429, &"60".parse().expect("a value")));
    assert_eq!(ops.ask(Method::GET, "/", &[], "").await.status(), 401, "no secret is not a wrong one");
}

#[tokio::test]
async fn a_form_needs_the_pages_token_and_the_same_origin() {
    let ops = Ops::new(builder());
    let token = ops.token().await;
    let ann = basic("ann", SECRET);
    let form = |token: &str| format!("what=/articles/1&token={token}");
    let send = async |fields: &[(&str, &str)], body: &str| {
        let fields = [&[("authorization", ann.as_str())], fields].concat();
        ops.ask(Method::POST, "/purge", &fields, body).await
    };
    // A hostile page in the same browser, by form, fetch or frame: the browser adds the password, and says where it comes from.
    for fields in [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..],
        &[("sec-fetch-site", "same-site"), ("origin", "https://evil.ops.example")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[],
    ] {
        assert_eq!(send(fields, &form(&token)).await.status(), 403, "{fields:?}");
    }
    let own = [("sec-fetch-site", "same-origin")];
    for body in ["what=/articles/1".to_owned(), form("1.00"), form(&format!("9{token}")), form("")] {
        assert_eq!(send(&own, &body).await.status(), 403, "{body}");
    }
    assert_eq!(ops.json("/audit.json").await, serde_json::json!([]), "nothing was done");
    let done = send(&own, &form(&token)).await;
    assert_eq!((done.status().as_u16(), &done.headers()["location"]), (303, &"./#happened".parse().expect("a value")));
    assert_eq!(
        send(&[("origin", "http://ops.example")], &form(&token)).await.status(),
        303,
        "a browser without Sec-Fetch-Site"
    );
    let audit = ops.json("/audit.json").await;
    assert_eq!((&audit[0]["actor"], audit.as_array().map(Vec::len)), (&"ann".into(), Some(2)));
    // Another node with the same secret accepts it, one with another does not.
    let other = Ops::new(builder());
    let fields = [("authorization", ann.as_str()), own[0]];
    assert_eq!(other.ask(Method::POST, "/purge", &fields, &form(&token)).await.status(), 303);
    let gate = builder().build().expect("a gate");
    let admin = gate.admin().secret("another secret of others").build().expect("an admin service");
    let stranger = Ops { gate, admin };
    let fields =
        [("authorization", basic("ann", "another secret of others")), ("sec-fetch-site", "same-origin".to_owned())];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(stranger.ask(Method::POST, "/purge", &fields, &form(&token)).await.status(), 403);
}

#[tokio::test]
async fn a_token_is_valid_for_twelve_hours() {
    let hand = ManualClock::new();
    let ops = Ops::new(builder().clock(Clock::Manual(hand.clone())));
    let token = ops.token().await;
    let fields = [("authorization", basic("ann", SECRET)), ("sec-fetch-site", "same-origin".to_owned())];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let form = format!("what=/articles/1&token={token}");
    hand.advance(Duration::from_secs(12 * 3_600));
    assert_eq!(ops.ask(Method::POST, "/purge", &fields, &form).await.status(), 303);
    hand.advance(Duration::from_secs(1));
    assert_eq!(ops.ask(Method::POST, "/purge", &fields, &form).await.status(), 403);
}

#[tokio::test]
async fn a_viewer_reads_everything_and_changes_nothing() {
    let ops = Ops::new(builder());
    let viewer = bearer(VIEWER);
    let fields = [("authorization", viewer.as_str())];
    assert_eq!(ops.ask(Method::GET, "/stats.json", &fields, "").await.status(), 200);
    let page = text(ops.ask(Method::GET, "/", &fields, "").await).await;
    assert!(page.contains("Who is limited?") && !page.contains("method=\"post\""), "no forms");
    for path in ["/purge", "/override", "/end-override", "/reset-subject", "/grant-subject"] {
        assert_eq!(ops.ask(Method::POST, path, &fields, "what=*").await.status(), 403, "{path}");
    }
}

#[tokio::test]
async fn the_application_decides_by_its_own_authentication() {
    #[derive(Clone)]
    struct Staff(&'static str);
    let gate = builder().build().expect("a gate");
    let admin = gate.admin().authorize(|head| head.extension::<Staff>().map(|staff| Actor::admin(staff.0)));
    let admin = admin.build().expect("an admin service");
    let request = |staff: bool| {
        let mut request = Request::get("/stats.json").header("authorization", "Bearer of the application's own");
        if staff {
            request = request.extension(Staff("ann"));
        }
        request.body(Full::<Bytes>::default()).expect("a request")
    };
    assert_eq!(admin.handle(request(true)).await.status(), 200);
    let denied = admin.handle(request(false)).await;
    assert_eq!((denied.status().as_u16(), denied.headers().contains_key("www-authenticate")), (401, false));
}

#[tokio::test]
async fn a_rebound_name_or_a_proxy_does_not_make_a_request_local() {
    let gate = builder().build().expect("a gate");
    let admin = gate.admin().local_only().build().expect("an admin service");
    let status = async |peer: &str, fields: &[(&str, &str)]| {
        let mut request = Request::get("/stats.json");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        admin.handle(FakePeer::at(peer).mark(request)).await.status().as_u16()
    };
    assert_eq!(status("127.0.0.1", &[("host", "localhost:3000")]).await, 200);
    assert_eq!(status("127.0.0.1", &[("host", "rebound.example:3000")]).await, 403);
    assert_eq!(status("192.0.2.1", &[("host", "localhost:3000")]).await, 403);
    assert_eq!(status("127.0.0.1", &[("host", "localhost"), ("x-forwarded-for", "192.0.2.1")]).await, 403);
}

#[tokio::test]
async fn it_works_under_any_prefix_stripped_or_kept() {
    let ops = Ops::new(builder());
    let app: Router = Router::new().route("/", get(async || "app")).nest_service("/deep/ops", ops.admin.clone());
    let ask = async |path: &str| {
        let request = Request::get(path).header("authorization", bearer(SECRET)).body(axum::body::Body::empty());
        app.clone().oneshot(request.expect("a request")).await.expect("infallible")
    };
    let moved = ask("/deep/ops").await;
    assert_eq!((moved.status().as_u16(), &moved.headers()["location"]), (308, &"ops/".parse().expect("a value")));
    for path in ["/deep/ops/", "/deep/ops/stats.json", "/deep/ops/health/live"] {
        assert_eq!(ask(path).await.status(), 200, "{path}");
    }
    // A server without a router keeps the prefix.
    for path in ["/kept/ops/", "/kept/ops/stats.json"] {
        assert_eq!(ops.ask(Method::GET, path, &[("authorization", &bearer(SECRET))], "").await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn its_requests_pass_no_layer_of_the_gate() {
    let ops = Ops::new(builder());
    let app: Router = Router::new()
        .route("/other", get(async || "app"))
        .layer(ops.gate.layer())
        .nest_service("/ops", ops.admin.clone());
    for _ in 0..150 {
        let request = Request::get("/ops/stats.json").header("authorization", bearer(SECRET));
        let request = request.body(axum::body::Body::empty()).expect("a request");
        assert_eq!(app.clone().oneshot(request).await.expect("infallible").status(), 200);
    }
    assert_eq!(ops.gate.stats().requests, 0);
}

#[tokio::test]
async fn a_purge_that_concerns_many_needs_their_number() {
    let ops = Ops::new(builder());
    for id in 0..40 {
        ops.visit(&format!("/articles/{id}")).await;
    }
    let calls = || ops.gate.stats().inner_calls;
    assert_eq!(calls(), 40);
    let (status, answer) = ops.act("/purge", "what=*").await;
    assert_eq!((status.as_u16(), &answer["done"]), (422, &false.into()));
    assert!(answer["outcome"].as_str().is_some_and(|text| text.contains("40 of 40 entries")), "{answer}");
    let (_, preview) = ops.act("/purge", "what=tag:articles&preview=1").await;
    assert_eq!(preview["outcome"], "40 of 40 entries in this process match; nothing was purged");
    assert_eq!(ops.act("/purge", "what=/&confirm=39").await.1["done"], true, "a path is one entry, or none");
    assert_eq!(ops.act("/purge", "what=/*&confirm=39").await.0, 422);
    assert_eq!(ops.act("/purge", "what=/articles/7").await.0, 200, "one entry");
    ops.visit("/articles/7").await;
    assert_eq!(calls(), 41);
    assert_eq!(ops.act("/purge", "what=tag:articles&mode=hard&confirm=40&reason=a+wrong+import").await.0, 200);
    ops.visit("/articles/9").await;
    assert_eq!(calls(), 42);
    assert_eq!(ops.act("/purge", "what=articles").await.0, 422);
    let audit = ops.json("/audit.json").await;
    assert_eq!(
        (&audit[1]["action"], &audit[1]["reason"]),
        (&"purge, hard, of tag:articles".into(), &"a wrong import".into())
    );
}

#[tokio::test]
async fn overrides_are_made_listed_and_ended() {
    let hand = ManualClock::new();
    let ops = Ops::new(builder().clock(Clock::Manual(hand.clone())));
    let form = "target=limit+api&value=shadow&for=15m&reason=a+customer+is+refused";
    assert_eq!(ops.act("/override", form).await.0, 200);
    let listed = ops.json("/overrides.json").await;
    assert_eq!(
        (&listed[0]["id"], &listed[0]["actor"], &listed[0]["expires_in_seconds"]),
        (&"limit api mode".into(), &"bearer".into(), &900.0.into())
    );
    assert_eq!(ops.gate.stats().limits[0].mode, Mode::Shadow);
    hand.advance(Duration::from_secs(900));
    assert_eq!(ops.json("/overrides.json").await, serde_json::json!([]), "it has expired");
    assert_eq!(ops.act("/override", "target=limit+api&value=7/h&for=permanent").await.0, 200);
    assert_eq!(ops.gate.stats().limits[0].quota, "7/hour");
    assert_eq!(ops.act("/end-override", "id=limit+api+quota").await.0, 200);
    for (path, form, reason) in [
        ("/end-override", "id=limit+api+quota", "there is no override"),
        ("/override", "target=limit+apo&value=off", "unknown limit"),
        ("/override", "target=limit+api&value=soon", "invalid quota"),
        ("/override", "target=limit+api&value=off&for=soon", "invalid duration"),
        ("/override", "value=off", "unknown target"),
    ] {
        let (status, answer) = ops.act(path, form).await;
        assert_eq!(status, 422, "{form}");
        assert!(answer["outcome"].as_str().is_some_and(|text| text.contains(reason)), "{answer}");
    }
}

#[tokio::test]
async fn a_customer_is_found_by_his_reference_reset_and_granted_more() {
    let ops = Ops::new(builder());
    for _ in 0..101 {
        ops.visit("/other").await;
    }
    let client = ops.json("/subject.json?subject=192.0.2.7").await;
    assert_eq!((&client["is_admitted"], &client["limits"][0]["remaining"]), (&false.into(), &0.into()));
    let reference = client["refusals"][0]["reference"].as_str().expect("a reference").to_owned();
    let refusal = ops.json(&format!("/subject.json?subject={reference}")).await;
    assert_eq!(
        (&refusal["refusals"][0]["route"], &refusal["refusals"][0]["limits"][0]),
        (&"/other".into(), &"api".into())
    );
    assert_eq!(ops.act("/reset-subject", "subject=192.0.2.7").await.0, 200);
    assert_eq!(ops.visit("/other").await, 200);
    assert_eq!(ops.act("/grant-subject", "subject=192.0.2.7&limit=api&quota=500/h&for=2h").await.0, 200);
    let mut admitted = 0;
    for _ in 0..600 {
        admitted += usize::from(ops.visit("/other").await == 200);
    }
    assert!((490..500).contains(&admitted), "{admitted}");
    for form in
        ["subject=192.0.2.7&limit=api&quota=9/h&for=91d", "limit=api&quota=9/h", "subject=moon:1&limit=api&quota=9/h"]
    {
        assert_eq!(ops.act("/grant-subject", form).await.0, 422, "{form}");
    }
    let audit = ops.json("/audit.json").await.to_string();
    assert!(!audit.contains("192.0.2.7"), "people are not named: {audit}");
}

#[tokio::test]
async fn it_says_what_would_happen_to_a_request() {
    let ops = Ops::new(builder());
    ops.visit("/articles/1").await;
    let explain = async |query: &str| ops.json(&format!("/explain.json?{query}")).await;
    let fresh = explain("url=http://h/articles/1&subject=192.0.2.7").await;
    assert_eq!((&fresh["state"], &fresh["rule"]), (&"fresh".into(), &"/articles/{id}".into()));
    assert_eq!(
        (&fresh["entry"]["tags"][0], &fresh["limits"]["limits"][0]["remaining"]),
        (&"articles".into(), &99.into())
    );
    assert_eq!(explain("url=http://h/articles/2").await["state"], "missing");
    assert_eq!(explain("url=/other").await["rule"], Value::Null);
    let bypass = explain("url=http://h/articles/1&header=Authorization:+x").await;
    assert_eq!(bypass["state"], "fresh", "the rule says the same for everyone");
    ops.gate.invalidate().tag("articles").await.expect("valid");
    assert_eq!(explain("url=http://h/articles/1").await["state"], "invalidated");
    ops.gate.overrides().apply(Override::mode("rule /articles/{id}", Mode::Off)).await.expect("a rule");
    assert_eq!(explain("url=http://h/articles/1").await["state"], "off");
    let before = ops.gate.stats();
    explain("url=http://h/articles/3").await;
    assert_eq!(
        ops.gate.stats().routes["/articles/{id}"].misses,
        before.routes["/articles/{id}"].misses,
        "it is not counted"
    );
    let answer = ops.ask(Method::GET, "/explain.json?url=%00", &[("authorization", &bearer(SECRET))], "").await;
    assert_eq!(answer.status(), 422);
}

#[tokio::test]
async fn a_form_that_is_too_long_or_never_ends_is_refused() {
    let ops = Ops::new(builder());
    let fields = [("authorization", bearer(SECRET))];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(ops.ask(Method::POST, "/purge", &fields, &"x".repeat(17 << 10)).await.status(), 400);
    tokio::time::pause();
    let body = http_body_util::StreamBody::new(futures_util::stream::pending::<Result<_, std::convert::Infallible>>());
    let body = BodyExt::map_frame(body, |frame: http_body::Frame<Bytes>| frame);
    let request = Request::post("/purge").header("authorization", bearer(SECRET)).body(body).expect("a request");
    assert_eq!(ops.admin.handle(request).await.status(), 400);
}

#[tokio::test]
async fn a_hundred_viewers_see_the_same_events() {
    let ops = Ops::new(builder());
    let viewer = bearer(VIEWER);
    let fields = [("authorization", viewer.as_str())];
    let mut bodies = Vec::new();
    for _ in 0..100 {
        let answer = ops.ask(Method::GET, "/events", &fields, "").await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &"text/event-stream".parse().expect("a value"))
        );
        bodies.push(answer.into_body());
    }
    for body in &mut bodies {
        let event = body.frame().await.expect("an event").expect("infallible").into_data().expect("data");
        let event = std::str::from_utf8(&event).expect("text");
        let panels: Value = serde_json::from_str(event.trim().strip_prefix("data: ").expect("an event")).expect("JSON");
        assert!(panels["verdict"].as_str().is_some_and(|html| html.contains("Objectives")), "{panels}");
    }
}

#[tokio::test]
async fn an_action_while_the_store_is_away_is_in_force_here_and_pending_for_the_fleet() {
    if !redis::wanted() {
        return;
    }
    let server = redis::RedisServer::start();
    let ops = Ops::new(builder().redis(server.url().as_str()));
    ops.gate.overrides().sync().await;
    server.stop();
    let (status, answer) = ops.act("/override", "target=cache&value=off").await;
    assert_eq!(status, 200);
    assert!(answer["outcome"].as_str().is_some_and(|text| text.contains("fleet: pending")), "{answer}");
    assert_eq!(ops.json("/overrides.json").await[0]["is_pending"], true);
    server.cont();
    let other = Ops::new(builder().redis(server.url().as_str()));
    for _ in 0..200 {
        ops.gate.overrides().sync().await;
        other.gate.overrides().sync().await;
        if other.gate.stats().modes.cache == Mode::Off {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(other.gate.stats().modes.cache, Mode::Off);
    // The audit follows within ten seconds.
    let audited = async {
        while other.json("/audit.json").await[0]["action"] != "override of cache to off" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), audited).await.expect("the audit");
}

#[tokio::test]
async fn nodes_see_one_another_and_their_audit() {
    let directory = TestDirectory::new();
    let node = |limit: &str| {
        let limit = Limit::per_ip(limit).named("other");
        Ops::new(builder().limit(limit).file(directory.path(), 64 << 20))
    };
    let (a, b, c) = (node("5/h"), node("5/h"), node("6/h"));
    assert_eq!(a.act("/override", "target=limit+api&value=50/h&reason=launch").await.0, 200);
    let seen = async {
        loop {
            let nodes = b.json("/fleet.json").await;
            let nodes = nodes.as_array().expect("a list").clone();
            if nodes.len() == 3 {
                return nodes;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let nodes = tokio::time::timeout(Duration::from_secs(60), seen).await.expect("ten seconds, on an idle machine");
    let mut hashes: Vec<&str> = nodes.iter().filter_map(|node| node["configuration"].as_str()).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 2, "c differs: {nodes:?}");
    let audit = b.json("/audit.json").await;
    assert_eq!((&audit[0]["action"], &audit[0]["reason"]), (&"override of limit api to 50/h".into(), &"launch".into()));
    drop(c);
}

#[test]
fn nobody_is_let_in_by_accident() {
    let gate = builder().build().expect("a gate");
    for (admin, reason) in [
        (gate.admin(), "lets nobody in"),
        (gate.admin().secret("too short"), "9 bytes is too short"),
        (gate.admin().secret(SECRET).viewer_secret(""), "0 bytes is too short"),
    ] {
        let error = admin.build().expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
}
