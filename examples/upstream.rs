//! A simulated GitHub-like API with a quota, and a service in front of it, without this crate and with it.
//!
//! ```text
//! cargo run --example upstream
//! ```
//!
//! The same hour of traffic is replayed twice over loopback: forty users at a time request pages, most of them a few
//! popular ones. The API allows 1 000 calls per hour and twenty per second, and answers conditional requests with a
//! free 304. A user sees an error if the service has no response.
//!
//! It fails if the traffic alone does not use up the quota, or if with this crate a user sees an error or a tenth of
//! the quota is spent.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "an example may fail, and says what it found")]

use std::process::ExitCode;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Router, body::Body as Page, http::StatusCode};
use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tollgate::cache::{Rule, Rules};
use tollgate::upstream::Credits;
use tollgate::{Clock, ManualClock, Tollgate, UpstreamGate};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};

#[path = "../tests/support/pretend.rs"]
mod pretend;

use pretend::{Behaviour, PretendApi, Seen};

const QUOTA: u64 = 1_000;
const HOUR: u64 = 3_600;
const MINUTE: Duration = Duration::from_secs(60);

/// Client of the API: returns a response's status and body.
type Ask = BoxCloneSyncService<String, (StatusCode, Bytes), String>;

/// The service: a page is the API's response.
fn service(ask: Ask) -> Router {
    let page =
        async |State(ask): State<Ask>, Path(name): Path<String>| match ask.oneshot(format!("/repos/{name}")).await {
            Ok((StatusCode::OK, body)) => (StatusCode::OK, body),
            Ok((status, _)) => (StatusCode::BAD_GATEWAY, Bytes::from(format!("the API responded with {status}"))),
            Err(error) => (StatusCode::BAD_GATEWAY, Bytes::from(error)),
        };
    Router::new().route("/page/{name}", get(page)).with_state(ask)
}

/// Adapts any client.
fn asking<C, B>(client: C, api: PretendApi) -> Ask
where
    C: tower::Service<Request<Empty<Bytes>>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::Error: std::fmt::Display,
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: std::fmt::Display,
{
    BoxCloneSyncService::new(tower::service_fn(move |path: String| {
        let (client, request) = (client.clone(), Request::get(api.url(&path)).body(Empty::new()));
        async move {
            let request = request.map_err(|error| error.to_string())?;
            let (head, body) = client.oneshot(request).await.map_err(|error| error.to_string())?.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok((head.status, body))
        }
    }))
}

/// Replays an hour: every half minute forty requests at once, each for one of eighteen pages, popular ones more
/// often.
async fn play(service: &Router, hand: &ManualClock) -> (u64, u64) {
    let (mut users, mut errors, mut chance) = (0, 0, 1_u64);
    for _ in 0..HOUR / 30 - 1 {
        let pages: Vec<u64> = (0..40)
            .map(|_| {
                chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let uniform = (chance >> 33) % 900;
                uniform * uniform / 45_000
            })
            .collect();
        let asked = pages.iter().map(|page| {
            let request = Request::get(format!("/page/{page}")).body(Page::empty()).expect("a request");
            service.clone().oneshot(request)
        });
        for response in join_all(asked).await {
            users += 1;
            errors += u64::from(response.expect("infallible").status() != StatusCode::OK);
        }
        hand.advance(Duration::from_secs(30));
    }
    (users, errors)
}

/// Results of an hour.
struct Outcome {
    users: u64,
    errors: u64,
    seen: Seen,
}

async fn api() -> (ManualClock, PretendApi) {
    let hand = ManualClock::new();
    let behaviour = Behaviour { limit: QUOTA, most_a_second: 20, changes_every: 30 * MINUTE, ..Behaviour::default() };
    let api = PretendApi::start(behaviour, Clock::Manual(hand.clone())).await;
    (hand, api)
}

async fn without() -> Outcome {
    let (hand, api) = api().await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let (users, errors) = play(&service(asking(client, api.clone())), &hand).await;
    Outcome { users, errors, seen: api.seen() }
}

async fn with() -> (Outcome, UpstreamGate) {
    let (hand, api) = api().await;
    let repos = Rule::ttl(5 * MINUTE).stale_while_revalidate(MINUTE).stale_if_error(60 * MINUTE);
    let gate = Tollgate::upstream("api")
        .quota(Credits::per_hour(QUOTA))
        .cache(Rules::new().route("/repos/{name}", repos))
        .bearer("our-own-key")
        .price(0.001)
        .upstream_with(|upstream| upstream.free_not_modified())
        .clock(Clock::Manual(hand.clone()))
        // The hour is replayed within moments; the duration of a request needs a running clock.
        .timing_with(|timing| timing.clock(Clock::System))
        .build()
        .expect("a gate");
    let client = gate.layer().layer(Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>());
    let (users, errors) = play(&service(asking(client, api.clone())), &hand).await;
    gate.shutdown().await;
    (Outcome { users, errors, seen: api.seen() }, gate)
}

/// Prints both results, and returns whether the expectations hold.
pub(crate) async fn run() -> bool {
    let (before, (after, gate)) = (without().await, with().await);
    let row = |what: &str, before: u64, after: u64| println!("{what:<34}{before:>10}{after:>10}");
    println!("{:<34}{:>10}{:>10}", "", "without", "with");
    row("users", before.users, after.users);
    row("errors they saw", before.errors, after.errors);
    row("requests that reached the API", before.seen.requests, after.seen.requests);
    row("credits spent, of 1 000", before.seen.counted, after.seen.counted);
    row("rejected: quota", before.seen.refused, after.seen.refused);
    row("rejected: too many in a second", before.seen.secondary, after.seen.secondary);
    row("not modified, free", before.seen.not_modified, after.seen.not_modified);
    println!("\n{}", gate.report());
    let ours = gate.stats().upstream.windows[0].spent;
    println!("credits by our count: {ours}, by the API's: {}", after.seen.counted);
    let exhausted = before.seen.counted == QUOTA && before.errors > 0;
    exhausted && after.errors == 0 && after.seen.counted * 10 < QUOTA && ours >= after.seen.counted
}

#[tokio::main]
async fn main() -> ExitCode {
    if run().await { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
