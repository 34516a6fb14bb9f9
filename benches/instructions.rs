//! Instructions and allocations per request on the paths every request takes, counted by valgrind:
//! `cargo bench --bench instructions`.
//!
//! Unlike nanoseconds they are the same on a busy machine, so they can be a gate: `-- --check` fails if a path takes more than
//! 2 % over `benches/instructions.txt`, and `-- --accept` writes that file anew. The figures belong to one compiler. Under
//! another one, `--check` compares each path's ratio to the bare service of the same run, with a tolerance of 10 %.
//!
//! Each path is run 1 000 and 2 000 times; the difference is what the path costs, without what is around it.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench may fail, and prints what it counted")]

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::process::Command;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tollgate::cache::{CacheLayer, Rule, Rules};
use tollgate::limit::{Limit, Quota, RateLimitLayer};
use tollgate::testing::FakePeer;
use tollgate::timing::TimingLayer;
use tollgate::{Clock, ManualClock, Tollgate};
use tower::layer::util::Identity;
use tower::{Layer, Service, ServiceExt};

type Req = Request<Full<Bytes>>;
type Failure = Box<dyn std::error::Error>;

const FEW: u64 = 1_000;
const TOLERANCE: f64 = 1.02;
const OTHER_COMPILER: f64 = 1.10;
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

/// A name, and what sends that many requests.
type Path = (&'static str, fn(u64));

/// What a request costs, or a run of many.
#[derive(Clone, Copy, Default)]
struct Cost {
    instructions: u64,
    allocations: u64,
}

/// The paths, by name.
const PATHS: [Path; 16] = [
    ("bare service", |n| run(Origin, n)),
    ("limit, accepted, no fields", |n| run(limit(Limit::per_ip(plenty()).shadow()).layer(Origin), n)),
    ("limit, accepted, three fields", |n| run(limit(Limit::per_ip(plenty())).layer(Origin), n)),
    ("limit, refused", |n| run(limit(Limit::per_ip(Quota::per_hour(1))).layer(Origin), n)),
    ("cache hit", |n| run(cache().layer(Origin), n)),
    ("cache, no rule covers it", |n| run(cache_for("/quotes/{symbol}").layer(Origin), n)),
    ("timing", |n| run(TimingLayer::builder().clock(still()).build().expect("a layer").layer(Origin), n)),
    ("timing, two limits", |n| run(gate(false).layer().layer(Origin), n)),
    ("timing, two limits, cache hit", |n| run(gate(true).layer().layer(Origin), n)),
    ("bare service, in a runtime", |n| fetch(Origin, &ManualClock::new(), n)),
    ("cache miss", |n| expired(Origin, n)),
    ("cache revalidation", |n| expired(Unchanged, n)),
    ("axum, a layer that does nothing", |n| run(router().layer(Identity::new()), n)),
    ("axum, cache, no rule covers it", |n| run(router().layer(cache_for("/quotes/{symbol}")), n)),
    (SCRAPE, scrape),
    (WRITE, write),
];

/// A scrape of 256 routes, and writing its lines from numbers that are ready: parts of a hundred, since they take long.
const SCRAPE: &str = "a hundredth of a scrape of 256 routes";
const WRITE: &str = "a hundredth of writing its lines";
/// How much more than writing its lines a scrape may cost.
const MOST_FOR_A_SCRAPE: u64 = 2;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--run") {
        let (path, n) = (args[at + 1].parse::<usize>()?, args[at + 2].parse()?);
        PATHS[path].1(n);
        return Ok(());
    }
    if !args.iter().any(|arg| arg == "--bench") {
        // Under `cargo test`: every path runs.
        PATHS.iter().for_each(|(_, path)| path(3));
        return Ok(());
    }
    let counted =
        PATHS.iter().enumerate().map(|(i, (name, _))| Ok((*name, count(i)?))).collect::<Result<Vec<_>, Failure>>()?;
    if args.iter().any(|arg| arg == "--accept") {
        let mut text = format!("# {}\n", compiler()?);
        for (name, Cost { instructions, allocations }) in &counted {
            writeln!(text, "{instructions:>7} {allocations:>4}  {name}")?;
        }
        std::fs::write(BASELINE, text)?;
    }
    compare(&counted, args.iter().any(|arg| arg == "--check"))
}

/// Prints the figures beside the baseline; with `check`, one that has grown is an error.
fn compare(counted: &[(&str, Cost)], check: bool) -> Result<(), Failure> {
    let baseline = std::fs::read_to_string(BASELINE).unwrap_or_default();
    let known = |name: &str| {
        let line = baseline
            .lines()
            .find(|line| line.split_once("  ").is_some_and(|_| line.trim_end().ends_with(&format!("  {name}"))))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let same_compiler = baseline.lines().next() == Some(&format!("# {}", compiler()?));
    let bare = |count: u64, of: Option<u64>| count as f64 / of.unwrap_or(1).max(1) as f64;
    let (bare_now, bare_before) = (counted.first().map(|(_, cost)| cost.instructions), known(counted[0].0));
    let mut grown = Vec::new();
    println!("{:>10} {:>10} {:>11}   per request", "instr.", "baseline", "allocations");
    for (name, Cost { instructions: count, allocations }) in counted {
        let before = known(name);
        let baseline = before.map_or("–".to_owned(), |before| before.to_string());
        println!("{count:>10} {baseline:>10} {allocations:>11}   {name}");
        let has_grown = |before: u64| match same_compiler {
            true => *count as f64 > before as f64 * TOLERANCE,
            false => bare(*count, bare_now) > bare(before, bare_before) * OTHER_COMPILER,
        };
        if before.is_none_or(has_grown) {
            grown.push(format!("{name}: {} → {count}", before.unwrap_or_default()));
        }
    }
    let of = |wanted: &str| counted.iter().find(|(name, _)| *name == wanted).map_or(0, |(_, cost)| cost.instructions);
    if of(SCRAPE) > MOST_FOR_A_SCRAPE * of(WRITE) {
        grown.push(format!("{SCRAPE}: more than {MOST_FOR_A_SCRAPE} × {WRITE}"));
    }
    if !same_compiler {
        println!("the baseline is another compiler's: ratios to the bare service are compared");
    }
    if check && !grown.is_empty() {
        return Err(format!("more than the tolerance over the baseline: {}", grown.join(", ")).into());
    }
    Ok(())
}

fn compiler() -> Result<String, Failure> {
    Ok(String::from_utf8(Command::new("rustc").arg("--version").output()?.stdout)?.trim().to_owned())
}

/// Cost of one more request.
fn count(path: usize) -> Result<Cost, Failure> {
    let (many, few) = (total(path, 2 * FEW)?, total(path, FEW)?);
    Ok(Cost {
        instructions: (many.instructions - few.instructions) / FEW,
        // Rounded: tables that grow allocate a few more.
        allocations: (many.allocations - few.allocations + FEW / 2) / FEW,
    })
}

fn total(path: usize, n: u64) -> Result<Cost, Failure> {
    let profile = std::env::temp_dir().join(format!("tollgate-instructions-{}", std::process::id()));
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(std::env::current_exe()?)
        .args(["--run", &path.to_string(), &n.to_string()])
        .output()
        .map_err(|e| format!("valgrind: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find(|line| line.contains("Collected")).ok_or("valgrind counted nothing")?;
    let allocations = allocations(&String::from_utf8_lossy(&std::fs::read(&profile)?));
    std::fs::remove_file(profile)?;
    Ok(Cost { instructions: line.rsplit(' ').next().unwrap_or_default().parse()?, allocations })
}

/// Counts the calls of the C library's allocator in a profile: `cfn=(id) name` names the callee, `calls=n` follows. A name
/// is written once.
fn allocations(profile: &str) -> u64 {
    const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];
    let (mut ids, mut counted, mut total) = (HashSet::new(), false, 0);
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")) {
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            if ALLOCATORS.contains(&name.split('@').next().unwrap_or_default()) {
                ids.insert(id);
            }
            counted = line.starts_with("cfn=") && ids.contains(id);
        } else if let Some(calls) = line.strip_prefix("calls=").filter(|_| counted) {
            total += calls.split(' ').next().and_then(|calls| calls.parse::<u64>().ok()).unwrap_or_default();
        }
    }
    total
}

/// Sends `n` requests from one address, one after the other.
fn run<S, B>(mut service: S, n: u64)
where
    S: Service<Req, Response = Response<B>, Error = Infallible>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let peer = FakePeer::at("192.0.2.1");
    let request = || {
        let request = Request::get("/prices/ACME").header("host", "example.com").body(Full::default());
        peer.mark(request.expect("a request"))
    };
    runtime.block_on(async {
        // The first fills the cache, or spends the quota.
        drop(service.ready().await.expect("infallible").call(request()).await);
        tokio::task::yield_now().await;
    });
    for _ in 0..n {
        let ready = service.ready().now_or_never().expect("ready at once").expect("infallible");
        drop(std::hint::black_box(ready.call(request()).now_or_never().expect("answered at once")));
    }
}

/// Sends `n` requests that need a runtime, and reads their bodies; before each, an hour and a second pass.
fn fetch<S, B>(mut service: S, hand: &ManualClock, n: u64)
where
    S: Service<Req, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Error: std::fmt::Debug>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for _ in 0..n {
            hand.advance(Duration::from_secs(3601));
            let request = Request::get("/prices/ACME").header("host", "example.com").body(Full::default());
            let response = service.ready().await.expect("infallible").call(request.expect("a request")).await;
            drop(std::hint::black_box(response.expect("infallible").into_body().collect().await.expect("a body")));
        }
    });
}

/// The same through a cache in which the entry has expired each time.
fn expired<S>(service: S, n: u64)
where
    S: Service<Req, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    let hand = ManualClock::new();
    let cache = CacheLayer::builder().rules(rules()).clock(Clock::Manual(hand.clone())).build().expect("a layer");
    fetch(cache.layer(service), &hand, n);
}

/// A timing layer with requests on 256 routes, of which every fourth also failed.
fn measured() -> TimingLayer {
    let routes: Vec<String> = (0..256).map(|n| format!("/route/{n}/{{status}}")).collect();
    let hand = ManualClock::new();
    let timing = TimingLayer::builder().routes(&routes).clock(Clock::Manual(hand.clone())).build().expect("a layer");
    let service = timing.layer(tower::service_fn(move |request: Request<()>| {
        hand.advance(Duration::from_micros(300));
        let failed = request.uri().path().ends_with("500");
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = if failed { http::StatusCode::BAD_GATEWAY } else { http::StatusCode::OK };
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    for n in 0..256 {
        for status in [200, 500].into_iter().take(if n % 4 == 0 { 2 } else { 1 }) {
            let request = Request::get(format!("/route/{n}/{status}")).body(()).expect("a request");
            drop(service.clone().oneshot(request).now_or_never().expect("answered at once"));
        }
    }
    timing
}

/// Scrapes `n` hundredths of a time.
fn scrape(n: u64) {
    let timing = measured();
    for _ in 0..n / 100 {
        drop(std::hint::black_box(timing.prometheus()));
    }
}

/// Writes the lines of such a page.
fn write(n: u64) {
    let page = measured().prometheus();
    let number = |text: &str| text.parse::<f64>().ok();
    let lines: Vec<(&str, Option<f64>)> = page
        .lines()
        .map(|line| line.rsplit_once(' ').map_or((line, None), |(series, value)| (series, number(value))))
        .collect();
    for _ in 0..n / 100 {
        let mut text = String::with_capacity(page.len() + 1_024);
        for (series, value) in &lines {
            let _ = match value {
                Some(value) if value.fract() == 0.0 => writeln!(text, "{series} {}", *value as u64),
                Some(value) => writeln!(text, "{series} {value}"),
                None => writeln!(text, "{series}"),
            };
        }
        drop(std::hint::black_box(text));
    }
}

fn still() -> Clock {
    Clock::Manual(ManualClock::new())
}

fn plenty() -> Quota {
    Quota::per_minute(9_999)
}

fn limit(limit: Limit) -> RateLimitLayer {
    RateLimitLayer::builder().limit(limit).clock(still()).build().expect("a layer")
}

fn rules() -> Rules {
    Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(3600)))
}

fn router() -> axum::Router {
    axum::Router::new().route("/prices/{symbol}", axum::routing::get(|| async { "a page" }))
}

fn cache() -> CacheLayer {
    cache_for("/prices/{symbol}")
}

/// A cache with one rule.
fn cache_for(pattern: &str) -> CacheLayer {
    let rules = Rules::new().route(pattern, Rule::ttl(Duration::from_secs(3600)));
    CacheLayer::builder().rules(rules).clock(still()).build().expect("a layer")
}

fn gate(cached: bool) -> Tollgate {
    let gate = Tollgate::builder().limit(Limit::per_ip(plenty())).limit(Limit::global(plenty()));
    let gate = if cached { gate.cache(rules()) } else { gate };
    gate.clock(still()).build().expect("a gate")
}

/// Answers a kilobyte at once.
#[derive(Clone)]
struct Origin;

impl Service<Req> for Origin {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Req) -> Self::Future {
        const PAGE: &[u8] = &[b'x'; 1 << 10];
        std::future::ready(Ok(Response::new(Full::from(Bytes::from_static(PAGE)))))
    }
}

/// Answers like [`Origin`], with a tag; a request with that tag gets a 304.
#[derive(Clone)]
struct Unchanged;

impl Service<Req> for Unchanged {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let has_it = request.headers().contains_key("if-none-match");
        let response = Response::builder().header("etag", "\"a\"").status(if has_it { 304 } else { 200 });
        let body = if has_it { Bytes::new() } else { Bytes::from_static(b"a page") };
        std::future::ready(Ok(response.body(Full::from(body)).expect("a response")))
    }
}
