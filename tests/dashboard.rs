//! The dashboard in a real browser.
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and waits for a browser")]

#[path = "support/chromium.rs"]
mod chromium;
#[path = "support/redis.rs"]
mod redis;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use chromium::{Chromium, http_get, wanted};
use serde_json::Value;
use tollgate::cache::{Rule, Rules};
use tollgate::identity::{KeyExtractor, TrustedProxies, by};
use tollgate::limit::{Limit, Tiers};
use tollgate::timing::timed_query;
use tollgate::upstream::{Credits, UpstreamLayer};
use tollgate::{Override, Tollgate, TollgateBuilder};
use tower::{Layer, ServiceExt, service_fn};

/// What a database might be asked, and a page must not believe.
const HOSTILE: &str = "SELECT '<img src=x onerror=document.title=1>' FROM \"t\"";

/// A service with its dashboard.
struct Service {
    gate: Tollgate,
    address: String,
    fails: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Faults(Arc<AtomicBool>, UpstreamLayer);

async fn price(State(Faults(fails, quota)): State<Faults>, Path(symbol): Path<String>) -> Result<String, StatusCode> {
    if fails.load(Ordering::SeqCst) {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    timed_query(HOSTILE, tokio::time::sleep(Duration::from_millis(3))).await;
    let call = quota.layer(service_fn(|_: http::Request<()>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    }));
    let request = http::Request::get("http://market.example/price").body(()).expect("a request");
    drop(call.oneshot(request).await);
    Ok(format!("{symbol}: 42"))
}

impl Service {
    async fn start(set: impl FnOnce(TollgateBuilder) -> TollgateBuilder) -> Self {
        let minute = || Rule::ttl(Duration::from_secs(60)).same_for_everyone();
        let quota = UpstreamLayer::builder("market").quota(Credits::per_month(60_000)).build().expect("a quota");
        let builder = Tollgate::builder()
            .identify(by::header("x-user").or(by::client_ip(TrustedProxies::none())))
            .limit(
                Tiers::new("60/min").tier("pro", "600/min").assign(|head| head.headers().get("x-user").map(|_| "pro")),
            )
            .limit(Limit::per_ip("5000/min").named("address").shadow())
            .cache(Rules::new().route("/prices/{symbol}", minute().tag("prices")).route("/news/{id}", minute()))
            .watch_upstream(&quota)
            .cost_per_call(0.01)
            .health_with(|health| health.hit_target("/prices/{symbol}", 0.8));
        let gate = set(builder).build().expect("a gate");
        let fails: Arc<AtomicBool> = Arc::default();
        let app: Router = Router::new()
            .route("/prices/{symbol}", get(price))
            .route("/news/{id}", get(async || ([("set-cookie", "a=b")], "news")))
            .route("/me", get(async || "me"))
            .layer(gate.layer())
            .with_state(Faults(fails.clone(), quota))
            .nest_service("/ops", gate.admin().local_only().build().expect("an admin service"));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let service = app.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { gate, address, fails }
    }

    fn page(&self) -> String {
        format!("http://{}/ops/", self.address)
    }

    /// Sends so many rounds of requests: hits, misses, refusals.
    async fn traffic(&self, rounds: usize) {
        for round in 0..rounds {
            for path in [
                format!("/prices/{}", round % 7),
                format!("/news/{round}"),
                "/me".to_owned(),
                "/prices/ACME".to_owned(),
            ] {
                http_get(&self.address, &path).await;
            }
        }
    }

    /// A customer, who reads prices and news, and an address that asks too often.
    async fn visits(&self, round: usize) {
        let get = async |path: String, user: &str| drop(chromium::http_get_as(&self.address, &path, user).await);
        get(format!("/prices/{}", round % 23), "ann").await;
        get("/prices/ACME".to_owned(), "bob").await;
        get(format!("/prices/{}", round % 5), "bob").await;
        get("/me".to_owned(), "ann").await;
        if round.is_multiple_of(3) {
            get(format!("/news/{}", round % 9), "ann").await;
            http_get(&self.address, "/prices/ACME").await;
        }
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&http_get(&self.address, &format!("/ops/{path}")).await).expect("JSON")
    }
}

/// Requests of the browser to other places than the service.
fn foreign<'a>(browser: &'a Chromium, service: &Service) -> Vec<&'a String> {
    let own = format!("http://{}/ops/", service.address);
    let is_own = |url: &&String| url.starts_with(&own) || url.starts_with("about:") || url.ends_with("/favicon.ico");
    browser.requested.iter().filter(|url| !is_own(url)).collect()
}

/// The text of a cell of the route's row.
fn cell(route: &str, column: usize) -> String {
    format!(
        "[...document.querySelectorAll('#cache tr')].find((row) => row.cells[0].textContent === '{route}').cells[{column}].textContent"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_whole_without_a_script_and_its_numbers_are_those_of_the_statistics() {
    if !wanted() {
        return;
    }
    let service = Service::start(|builder| builder).await;
    service.traffic(12).await;
    let mut browser = Chromium::start().await;
    browser.call("Emulation.setScriptExecutionDisabled", serde_json::json!({ "value": true })).await;
    browser.open(&service.page(), 1_280, false).await;
    let stats = service.json("stats.json").await;
    let route = &stats["routes"]["/prices/{symbol}"];
    let hits = ["hits_total", "stale_total", "revalidated_total", "collapsed_total"];
    let hits: u64 = hits.iter().map(|name| route[name].as_u64().expect("a number")).sum();
    let shown = [browser.eval(&cell("/prices/{symbol}", 1)).await, browser.eval(&cell("/prices/{symbol}", 2)).await];
    assert_eq!(shown, [route["requests_total"].to_string(), hits.to_string()].map(Value::from));
    assert_eq!(browser.eval(&cell("/prices/{symbol}", 3)).await, route["misses_total"].to_string());
    let questions = browser.eval("[...document.querySelectorAll('h2')].map((title) => title.textContent)").await;
    assert_eq!(questions.as_array().map(Vec::len), Some(9), "{questions}");
    let why = browser.eval(&cell("/news/{id}", 7)).await;
    assert!(why.as_str().is_some_and(|why| why.contains("set-cookie")), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_moves_without_a_reload_asks_nobody_else_and_complains_of_nothing() {
    if !wanted() {
        return;
    }
    let service = Service::start(|builder| builder).await;
    service.traffic(3).await;
    let mut browser = Chromium::start().await;
    browser.open(&service.page(), 1_280, false).await;
    browser.eval("window.loaded = 'once'").await;
    let before = browser.eval(&cell("/me", 1)).await;
    assert_eq!(before, "3");
    service.traffic(4).await;
    browser.until(&format!("{} === '7'", cell("/me", 1))).await;
    assert_eq!(browser.eval("window.loaded").await, "once");
    // A hidden page stops, and goes on when it is shown again.
    let hide = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}); \
             document.dispatchEvent(new Event('visibilitychange')); source === null"
        )
    };
    assert_eq!(browser.eval(&hide(true)).await, true);
    service.traffic(1).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(browser.eval(&cell("/me", 1)).await, "7", "nothing moves");
    assert_eq!(browser.eval(&hide(false)).await, false);
    browser.until(&format!("{} === '8'", cell("/me", 1))).await;
    assert_eq!((foreign(&browser, &service), &browser.complaints), (Vec::<&String>::new(), &Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_overflows_at_any_width_and_names_stay_text() {
    if !wanted() {
        return;
    }
    let service = Service::start(|builder| builder).await;
    service.traffic(40).await;
    let reason = "<script>document.title = 2</script>";
    let asked = Override::mode("cache", tollgate::Mode::On).by("<b>ann</b>").because(reason);
    service.gate.overrides().apply(asked).await.expect("an override");
    let mut browser = Chromium::start().await;
    let asked = "?subject=user%3A%3Cimg%20src%3Dx%20onerror%3Ddocument.title%3D3%3E&url=/prices/%3Cb%3E%22";
    for (width, is_dark) in [(375, false), (375, true), (768, false), (1_280, true)] {
        browser.open(&format!("{}{asked}", service.page()), width, is_dark).await;
        let wide = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]";
        let wide = browser.eval(wide).await;
        assert!(wide[0].as_u64() <= wide[1].as_u64(), "{width}: {wide}");
        let title = browser.eval("document.title").await;
        assert!(title.as_str().is_some_and(|title| title.starts_with("Tollgate: ")), "{title}");
    }
    let text = browser.eval("document.body.innerText").await.as_str().expect("text").to_owned();
    for shown in [reason, "<b>ann</b>"] {
        assert!(text.contains(shown), "{shown}");
    }
    assert_eq!(browser.eval("document.querySelectorAll('main img, main script, main b').length").await, 0);
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_of_accessibility_finds_nothing() {
    if !wanted() {
        return;
    }
    let script = std::env::var("TOLLGATE_TEST_AXE").expect("the path of axe.min.js: run ./test.sh");
    let script = std::fs::read_to_string(script).expect("axe.min.js");
    let service = Service::start(|builder| builder).await;
    service.traffic(40).await;
    let mut browser = Chromium::start().await;
    for (width, is_dark) in [(1_280, false), (375, true)] {
        browser.open(&service.page(), width, is_dark).await;
        // Not by the page, whose policy forbids it.
        browser.eval(&script).await;
        let found = browser.eval("axe.run().then((found) => found.violations.map((v) => [v.id, v.nodes.map((n) => n.html + n.failureSummary)]))").await;
        assert_eq!(found, serde_json::json!([]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_is_made_from_the_page_with_the_keyboard_alone() {
    if !wanted() {
        return;
    }
    let service = Service::start(|builder| builder).await;
    service.traffic(1).await;
    http_get(&service.address, "/prices/ACME").await;
    let calls = service.gate.stats().inner_calls;
    http_get(&service.address, "/prices/ACME").await;
    assert_eq!(service.gate.stats().inner_calls, calls, "a hit");
    assert_eq!(service.json("explain.json?url=/prices/ACME").await["state"], "fresh", "of the host that is asked");
    let mut browser = Chromium::start().await;
    browser.open(&service.page(), 1_280, false).await;
    let mut reached = Vec::new();
    for _ in 0..200 {
        browser.press("Tab").await;
        let name = browser.eval("document.activeElement.name || document.activeElement.textContent").await;
        let is_purge = browser.eval("document.activeElement.form?.getAttribute('action') === 'purge'").await;
        reached.push(name.clone());
        if name == "what" && is_purge == true {
            break;
        }
    }
    assert_eq!(reached.last(), Some(&Value::from("what")), "{reached:?}");
    assert_eq!(
        browser.eval("getComputedStyle(document.activeElement).outlineStyle").await,
        "solid",
        "the focus is seen"
    );
    browser.call("Input.insertText", serde_json::json!({ "text": "/prices/ACME" })).await;
    // Enter presses the first button, which only counts; the second one purges.
    for _ in 0..4 {
        browser.press("Tab").await;
    }
    browser.press("Tab").await;
    browser.press("Enter").await;
    browser.until("document.querySelector('#happened')?.textContent.includes('purge of /prices/ACME') === true").await;
    assert_eq!(service.json("explain.json?url=/prices/ACME").await["state"], "stale");
    http_get(&service.address, "/prices/ACME").await;
    assert_eq!(service.gate.stats().inner_calls, calls + 1, "it is stale, and was fetched again");
    let audit = service.json("audit.json").await;
    assert_eq!((&audit[0]["actor"], &audit[0]["action"]), (&"local".into(), &"purge of /prices/ACME".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_is_seen_within_five_seconds() {
    if !wanted() || !redis::wanted() {
        return;
    }
    let server = redis::RedisServer::start();
    let service = Service::start(|builder| builder.redis(server.url().as_str())).await;
    service.traffic(8).await;
    let mut browser = Chromium::start().await;
    browser.open(&service.page(), 1_280, false).await;
    browser.until("document.querySelector('#state').textContent.includes('redis limits')").await;
    server.kill();
    let killed = std::time::Instant::now();
    let traffic = async {
        loop {
            service.traffic(1).await;
        }
    };
    let shown = browser.until("document.querySelector('#verdict').textContent.includes('failing open')");
    tokio::select! {
        () = traffic => {}
        () = shown => {}
    }
    // Five seconds on an idle machine.
    assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
}

/// Makes the pictures of the README where `TOLLGATE_PICTURES` names a folder: `TOLLGATE_PICTURES=src/docs
/// TOLLGATE_PICTURE_MINUTES=14 cargo test --test dashboard pictures`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures() {
    let Some(folder) = std::env::var_os("TOLLGATE_PICTURES").map(PathBuf::from) else { return };
    std::fs::create_dir_all(&folder).expect("a folder");
    let server = redis::RedisServer::start();
    let service = Service::start(|builder| builder.redis(server.url().as_str())).await;
    let mut browser = Chromium::start().await;
    let minutes: u64 = std::env::var("TOLLGATE_PICTURE_MINUTES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let until = std::time::Instant::now() + Duration::from_secs(60 * minutes);
    let mut round = 0;
    while std::time::Instant::now() < until {
        service.visits(round).await;
        round += 1;
        // Quieter and busier minutes.
        tokio::time::sleep(Duration::from_millis(150 + 100 * (round / 70 % 5) as u64)).await;
    }
    let page = service.page();
    let save = async |browser: &mut Chromium, (name, url, width, height, is_dark): (&str, &str, u32, u32, bool)| {
        browser.open(url, width, is_dark).await;
        let picture = browser.picture(height, "webp").await;
        assert!(picture.len() <= 200 << 10, "{name}: {} bytes", picture.len());
        std::fs::write(folder.join(name), picture).expect("a picture");
    };
    save(&mut browser, ("dashboard.webp", &page, 1_280, 1_230, false)).await;
    save(&mut browser, ("dashboard-phone.webp", &page, 375, 1_500, true)).await;
    service.fails.store(true, Ordering::SeqCst);
    let asked = Override::mode("limit pro", tollgate::Mode::Shadow).by("ann").because("a wrong quota");
    service.gate.overrides().apply(asked).await.expect("an override");
    service.gate.invalidate().all().await.expect("reached");
    for round in 0..60 {
        service.visits(round).await;
    }
    save(&mut browser, ("dashboard-degraded.webp", &page, 1_280, 1_230, false)).await;
    service.fails.store(false, Ordering::SeqCst);
    server.kill();
    for round in 0..20 {
        service.visits(round).await;
    }
    save(&mut browser, ("dashboard-redis-down.webp", &page, 1_280, 1_230, true)).await;
}
