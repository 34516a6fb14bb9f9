//! What each layer leaves of the throughput of a real axum service, on a cheap route that no cache rule covers:
//! `cargo bench --bench sockets -- --seconds 12 --connections 32`.
//!
//! Each service runs on one thread, and one thread sends requests over connections that are kept open, on loopback. The
//! services take turns of a quarter of a second; a ratio is the median of those to the bare service in the same round.
//!
//! On Linux the ratio is also given by the processor time of the server's thread, which other processes disturb less: it is the
//! throughput of a server that has a core to itself. Compare rows of one run only. Under `cargo test` it runs for a moment.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tollgate::Tollgate;
use tollgate::cache::{CacheLayer, Rule, Rules};
use tollgate::limit::{Limit, Quota, RateLimitLayer};
use tollgate::timing::{TimingLayer, harvest};
use tracing_subscriber::layer::SubscriberExt;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const TURN: Duration = Duration::from_millis(250);
const REQUEST: &[u8] = b"GET /quotes/ACME HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: sockets/1\r\naccept: */*\r\n\
    accept-encoding: gzip, br\r\naccept-language: en\r\n\r\n";
const BODY: &str = "{\"symbol\":\"ACME\",\"price\":179.05}";

/// A service that listens.
struct Server {
    name: &'static str,
    address: SocketAddr,
    /// The thread's statistics; empty if there are none.
    schedstat: String,
    /// By round.
    turns: Vec<Turn>,
}

/// What one turn measured, per request.
#[derive(Clone, Copy)]
struct Turn {
    seconds: f64,
    /// Processor time of the server.
    busy: f64,
}

impl Server {
    /// Processor time that the server's thread has used, in seconds.
    fn busy(&self) -> f64 {
        let text = std::fs::read_to_string(&self.schedstat).unwrap_or_default();
        text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or_default() / 1e9
    }

    /// Median over all rounds.
    fn median(&self, of: impl Fn(usize, Turn) -> f64) -> f64 {
        let mut values: Vec<f64> = self.turns.iter().enumerate().map(|(round, turn)| of(round, *turn)).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    }
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    let number = |flag: &str, default: u64| {
        let at = args.iter().position(|arg| arg == flag);
        at.and_then(|at| args.get(at + 1)).map_or(Ok(default), |text| text.parse())
    };
    let measured = args.iter().any(|arg| arg == "--bench");
    let (seconds, connections) = (number("--seconds", 12)?, number("--connections", 32)?);
    let (rounds, turn) = if measured { (seconds * 4, TURN) } else { (1, Duration::from_millis(20)) };
    let mut servers = servers()?;
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for round in 0..rounds {
        for server in &mut servers {
            eprint!("\rround {} of {rounds}, {:32}", round + 1, server.name);
            let _ = std::io::stderr().flush();
            let before = server.busy();
            let requests = client.block_on(load(server.address, connections, turn))? as f64;
            let busy = (server.busy() - before) / requests;
            server.turns.push(Turn { seconds: turn.as_secs_f64() / requests, busy });
        }
    }
    eprintln!("\r{:60}", "");
    println!(
        "{connections} connections, {:.0} s each, in turns of {} ms",
        rounds as f64 * turn.as_secs_f64(),
        turn.as_millis()
    );
    println!("{:40} {:>10} {:>8} {:>11} {:>12}", "service", "requests/s", "to bare", "µs of CPU", "to bare, CPU");
    let bare = servers.first().map(|bare| bare.turns.clone()).unwrap_or_default();
    for server in &servers {
        println!(
            "{:40} {:>10.0} {:>8.2} {:>11.2} {:>12.2}",
            server.name,
            server.median(|_, turn| 1.0 / turn.seconds),
            server.median(|round, turn| bare[round].seconds / turn.seconds),
            server.median(|_, turn| turn.busy * 1e6),
            server.median(|round, turn| bare[round].busy / turn.busy),
        );
    }
    Ok(())
}

/// The same route behind nothing, each layer, and all of them.
fn servers() -> Result<Vec<Server>, Failure> {
    let routes = || {
        let quote = || async { ([("content-type", "application/json")], BODY) };
        Router::new().route("/quotes/{symbol}", get(quote))
    };
    let plenty = Quota::per_minute(1_000_000_000);
    let rules = || Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(60)));
    let gate = || Tollgate::builder().limit(Limit::per_ip(plenty)).cache(rules()).build();
    let cache = CacheLayer::builder().rules(rules()).build()?;
    [
        ("bare", routes(), false),
        ("a layer that does nothing", routes().layer(tower::layer::util::Identity::new()), false),
        ("limit per IP", routes().layer(RateLimitLayer::per_ip(plenty)), false),
        ("cache, no rule covers the route", routes().layer(cache), false),
        ("timing", routes().layer(TimingLayer::new()), false),
        ("timing, with harvest", routes().layer(TimingLayer::new()), true),
        ("Tollgate: timing, cache", routes().layer(Tollgate::builder().cache(rules()).build()?.layer()), false),
        ("Tollgate: timing, limit, cache", routes().layer(gate()?.layer()), false),
        ("Tollgate, with harvest", routes().layer(gate()?.layer()), true),
    ]
    .into_iter()
    .map(|(name, app, harvests)| {
        let (address, schedstat) = serve(app, harvests)?;
        Ok(Server { name, address, schedstat, turns: Vec::new() })
    })
    .collect()
}

/// Serves on a thread of its own, until the process ends.
fn serve(app: Router, harvests: bool) -> Result<(SocketAddr, String), Failure> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let (sender, thread) = std::sync::mpsc::channel();
    std::thread::spawn(move || -> Result<(), Failure> {
        let thread = std::fs::read_link("/proc/thread-self").unwrap_or_default();
        sender.send(format!("/proc/{}/schedstat", thread.display()))?;
        // The subscriber of this thread alone.
        let _harvest =
            harvests.then(|| tracing::subscriber::set_default(tracing_subscriber::registry().with(harvest())));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
            Ok(())
        })
    });
    Ok((address, thread.recv()?))
}

/// Sends requests for `span`; returns how many were answered.
async fn load(address: SocketAddr, connections: u64, span: Duration) -> Result<u64, Failure> {
    #[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
    let until = Instant::now() + span;
    let clients: Vec<_> = (0..connections).map(|_| tokio::spawn(client(address, until))).collect();
    let mut answered = 0;
    for client in clients {
        answered += client.await??;
    }
    Ok(answered)
}

/// Sends one request after the other.
async fn client(address: SocketAddr, until: Instant) -> Result<u64, Failure> {
    let mut connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    let (mut answered, mut buffer) = (0, [0; 1024]);
    #[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
    while Instant::now() < until {
        connection.write_all(REQUEST).await?;
        let mut length = 0;
        while !buffer[..length].ends_with(BODY.as_bytes()) {
            match connection.read(&mut buffer[length..]).await? {
                0 => return Err("the server closed the connection".into()),
                read => length += read,
            }
        }
        if !buffer.starts_with(b"HTTP/1.1 200 ") {
            return Err("an answer was not 200".into());
        }
        answered += 1;
    }
    Ok(answered)
}
