//! A load test over real sockets on loopback: `cargo bench --bench load -- --seconds 5 --connections 64`.
//!
//! The same axum service, bare and behind each gate, each in turn and all again in a second round, so that the machine's
//! mood is in all of them alike. Client and server share the machine: compare rows of one run only. Under
//! `cargo test` it runs for a moment, to see that it does.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Limit, Quota, RateLimitLayer};
use tollgate::timing::TimingLayer;

/// What a run saw.
#[derive(Default)]
struct Seen {
    micros: Vec<u32>,
    ok: u64,
    refused: u64,
    other: u64,
}

impl Seen {
    fn merge(&mut self, other: Self) {
        self.micros.extend(other.micros);
        self.ok += other.ok;
        self.refused += other.refused;
        self.other += other.other;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let number = |flag: &str, default: u64| {
        let at = args.iter().position(|arg| arg == flag);
        at.and_then(|at| args.get(at + 1)).map_or(Ok(default), |text| text.parse())
    };
    let measured = args.iter().any(|arg| arg == "--bench");
    let connections = number("--connections", if measured { 64 } else { 2 })?;
    let seconds = number("--seconds", 3)?;
    let span = if measured { Duration::from_secs(seconds) } else { Duration::from_millis(50) };
    let services = services()?;
    let mut results: Vec<Seen> = services.iter().map(|_| Seen::default()).collect();
    for round in 1..=2 {
        for ((name, app), seen) in services.iter().zip(&mut results) {
            seen.merge(load(app.clone(), connections, span, &format!("round {round}, {name}")).await?);
        }
    }
    eprint!("\r{:60}\r", "");
    println!("{connections} connections, {:.1} s each", span.as_secs_f64() * 2.0);
    println!(
        "{:32} {:>10} {:>8} {:>8} {:>8} {:>8}   statuses",
        "service", "requests/s", "p50 µs", "p99 µs", "p99.9", "max"
    );
    for ((name, _), seen) in services.iter().zip(&mut results) {
        report(name, seen, span * 2);
    }
    match results.iter().map(|seen| seen.other).sum::<u64>() {
        0 => Ok(()),
        odd => Err(format!("{odd} answers were neither 2xx nor 429").into()),
    }
}

type Service = (&'static str, Router);

/// The same route behind nothing, each layer, and all of them.
fn services() -> Result<Vec<Service>, tollgate::Error> {
    let routes =
        || Router::new().route("/prices/{symbol}", get(|| async { ([("content-type", "text/plain")], PRICE) }));
    let plenty = Quota::per_minute(1_000_000_000);
    let cached = || Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(3600)));
    let gate = Tollgate::builder().limit(Limit::per_ip(plenty)).limit(Limit::global(plenty)).cache(cached()).build()?;
    let cache_only = Tollgate::builder().cache(cached()).build()?;
    Ok(vec![
        ("bare", routes()),
        ("limit per IP", routes().layer(RateLimitLayer::per_ip(plenty))),
        ("timing", routes().layer(TimingLayer::new())),
        ("cache hit", routes().layer(cache_only.layer())),
        ("timing, two limits, cache hit", routes().layer(gate.layer())),
        ("refused (20 a minute)", routes().layer(RateLimitLayer::per_ip(Quota::per_minute(20)))),
    ])
}

const PRICE: &str = "{\"symbol\":\"ACME\",\"price\":179.05}";

async fn load(app: Router, connections: u64, span: Duration, name: &str) -> Result<Seen, Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async move { axum::serve(listener, service).await });
    let done = Arc::new(AtomicU64::new(0));
    let until = now() + span;
    let clients: Vec<_> = (0..connections).map(|_| tokio::spawn(client(address, until, done.clone()))).collect();
    let watched = done.clone();
    let name = name.to_owned();
    let progress = tokio::spawn(async move {
        loop {
            eprint!("\r{name}: {} requests{:20}", watched.load(Ordering::Relaxed), "");
            let _ = std::io::stderr().flush();
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    });
    let mut seen = Seen::default();
    for client in clients {
        seen.merge(client.await??);
    }
    progress.abort();
    server.abort();
    Ok(seen)
}

/// One connection that asks as fast as it is answered.
async fn client(address: SocketAddr, until: Instant, done: Arc<AtomicU64>) -> Result<Seen, hyper::Error> {
    let mut seen = Seen::default();
    let Ok(stream) = tokio::net::TcpStream::connect(address).await else {
        seen.other += 1;
        return Ok(seen);
    };
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    while now() < until {
        let request = Request::get("/prices/ACME").header("host", "example.com").body(Empty::<Bytes>::new());
        let Ok(request) = request else { break };
        let start = now();
        let response = sender.send_request(request).await?;
        match response.status().as_u16() {
            200..=299 => seen.ok += 1,
            429 => seen.refused += 1,
            _ => seen.other += 1,
        }
        response.into_body().collect().await?;
        seen.micros.push(u32::try_from((now() - start).as_micros()).unwrap_or(u32::MAX));
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(seen)
}

#[expect(clippy::disallowed_methods, reason = "a load test measures the wall clock")]
fn now() -> Instant {
    Instant::now()
}

fn report(name: &str, seen: &mut Seen, span: Duration) {
    seen.micros.sort_unstable();
    let at = |share: f64| seen.micros.get((seen.micros.len() as f64 * share) as usize).copied().unwrap_or_default();
    let rate = seen.micros.len() as f64 / span.as_secs_f64();
    let statuses = format!("{} × 2xx, {} × 429", seen.ok, seen.refused);
    let max = seen.micros.last().copied().unwrap_or_default();
    println!("{name:32} {rate:>10.0} {:>8} {:>8} {:>8} {max:>8}   {statuses}", at(0.5), at(0.99), at(0.999));
}
