//! A price API in front of a paid upstream, wrapped in Tollgate: `cargo run --example server`.
//!
//! Prices come from a simulated upstream that counts and delays its calls, and allows 60 000 a month. The gate limits
//! by tier, caches responses, and measures requests; `/stats.json` reports the quota under `upstream`, with its
//! projected end. Flags: `--listen ADDR` (127.0.0.1:3000), `--upstream-delay 100ms`, `--no-limits`, `--redis URL` to
//! share limits and cache with other servers, `--postgres URL` to share the cache, `--file DIR` to keep cached responses over
//! restarts; several levels are asked in the order of the flags.
#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use std::net::SocketAddr;
use std::time::Duration;

#[path = "server/api.rs"]
mod api;
#[path = "common/shutdown.rs"]
mod shutdown;

const USAGE: &str =
    "usage: server [--listen ADDR] [--upstream-delay MS] [--no-limits] [--redis URL] [--postgres URL] [--file DIR]";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\n{USAGE}");
            std::process::exit(2);
        }
    };
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let (app, gate, upstream) = api::app(options.upstream_delay, options.limits, &options.levels)?;
    greet(address);
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
    let ended = shutdown::within(shutdown::GRACE, server.with_graceful_shutdown(shutdown::signal())).await;
    ended.unwrap_or(Ok(()))?;
    gate.shutdown().await;
    let stats = gate.stats();
    println!(
        "\n{} requests → {} upstream calls: {:.1} s and ${:.2} saved, {} requests rejected",
        stats.requests,
        upstream.calls(),
        stats.time_saved.as_secs_f64(),
        stats.money_saved.unwrap_or_default(),
        stats.limits.iter().map(|limit| limit.refused).sum::<u64>(),
    );
    Ok(())
}

fn greet(address: SocketAddr) {
    println!("Tollgate's example server listens on http://{address}. Try:\n");
    for (line, what) in [
        (format!("curl -i http://{address}/prices/ACME"), "twice: the second is a hit"),
        (format!("curl -i -H 'Authorization: Bearer pro-alpha' http://{address}/me"), "1 000 a minute, never shared"),
        (format!("curl -i -H 'X-Api-Key: pro-alpha' http://{address}/portfolio"), "cached for 5 s, per user"),
        (
            format!("curl -i -X POST -d 99.50 http://{address}/prices/ACME"),
            "changes the price and invalidates the cached one",
        ),
        (format!("curl -i http://{address}/report"), "runs queries: see Server-Timing"),
        (
            format!("for i in $(seq 25); do curl -s -o /dev/null -w '%{{http_code}} ' http://{address}/me; done"),
            "20 anonymous requests a minute",
        ),
    ] {
        println!("  {line}\n      # {what}");
    }
    println!(
        "\nDashboard: http://{address}/ops/   Statistics: http://{address}/stats.json   \
         For Prometheus: http://{address}/metrics   Stop with Ctrl-C."
    );
}

struct Options {
    listen: SocketAddr,
    upstream_delay: Duration,
    limits: bool,
    levels: Vec<api::Level>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            listen: ([127, 0, 0, 1], 3000).into(),
            upstream_delay: Duration::from_millis(100),
            limits: true,
            levels: Vec::new(),
        };
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--listen" => {
                    let text = value()?;
                    options.listen = text.parse().map_err(|_| format!("--listen: {text:?} is not an address"))?;
                }
                "--upstream-delay" => {
                    let text = value()?;
                    let delay =
                        parse_delay(&text).ok_or(format!("--upstream-delay: {text:?} is not like 100, 100ms or 2s"))?;
                    options.upstream_delay = delay;
                }
                "--no-limits" => options.limits = false,
                "--redis" => options.levels.push(api::Level::Redis(value()?)),
                "--postgres" => options.levels.push(api::Level::Postgres(value()?)),
                "--file" => options.levels.push(api::Level::File(value()?.into())),
                other => return Err(format!("unknown flag {other:?}")),
            }
        }
        Ok(options)
    }
}

/// Parses a duration; milliseconds by default.
fn parse_delay(text: &str) -> Option<Duration> {
    let seconds = text.strip_suffix('s').filter(|rest| !rest.ends_with('m'));
    match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds.parse().ok()?).ok(),
        None => text.strip_suffix("ms").unwrap_or(text).parse().ok().map(Duration::from_millis),
    }
}
