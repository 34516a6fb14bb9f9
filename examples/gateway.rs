//! A reverse proxy over the same layers: hyper in (HTTP/1.1 and HTTP/2), hyper out, streaming both ways.
//!
//! ```text
//! cargo run --example server
//! cargo run --example gateway -- --upstream http://127.0.0.1:3000 --cache-status
//! curl -i http://127.0.0.1:3001/prices/ACME
//! ```
//!
//! | file | |
//! |---|---|
//! | `gateway/flags.rs` | the command line |
//! | `gateway/forward.rs` | what is changed in a message that is passed on |
//! | `gateway/origin.rs` | the innermost service: asks the origin, answers 502 or 504 where it does not |
//! | `gateway/serve.rs` | accepts connections, and lets those in flight finish at the end |
//!
//! What it does not do: TLS, WebSockets (`Upgrade` is taken out, so the origin answers as if nobody had asked), and
//! `CONNECT`.
#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use std::error::Error;
use std::process::ExitCode;

use tokio::net::TcpListener;
use tollgate::key::{TrustedProxies, by};
use tollgate::limit::{Limit, Quota, RateLimitLayer};
use tollgate::timing::TimingLayer;
use tower::ServiceBuilder;

#[path = "gateway/flags.rs"]
pub(crate) mod flags;
#[path = "gateway/forward.rs"]
mod forward;
#[path = "gateway/origin.rs"]
mod origin;
#[path = "gateway/serve.rs"]
mod serve;

use flags::{Flags, USAGE};
use origin::Origin;

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let flags = match Flags::parse(std::env::args().skip(1)) {
        Ok(Some(flags)) => flags,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match start(flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn start(flags: Flags) -> Result<(), BoxError> {
    let listener =
        TcpListener::bind(flags.listen).await.map_err(|e| format!("cannot listen on {}: {e}", flags.listen))?;
    println!("http://{} in front of {}", listener.local_addr()?, flags.upstream);
    run(listener, flags, async {
        let _ = tokio::signal::ctrl_c().await;
    })
    .await
}

/// Serves until `end`, then lets the requests in flight finish.
pub(crate) async fn run(listener: TcpListener, flags: Flags, end: impl Future<Output = ()>) -> Result<(), BoxError> {
    let timing = TimingLayer::builder().server_timing(true).enabled(flags.timing).build()?;
    let limit = limits(&flags)?;
    let origin = Origin::new(&flags);
    let service = ServiceBuilder::new().layer(timing).layer(limit).service(origin);
    serve::until(end, listener, service).await;
    Ok(())
}

fn limits(flags: &Flags) -> Result<RateLimitLayer, tollgate::Error> {
    let proxies = TrustedProxies::cidrs(&flags.trusted);
    let proxies = match &flags.forwarded_header {
        Some(name) => proxies.header(name),
        None => proxies,
    };
    // Where no limit is asked for, the layer is there and lets everything through.
    let quota = flags.limit_per_ip.unwrap_or(Quota::per_minute(1));
    RateLimitLayer::builder()
        .identify(by::client_ip(proxies))
        .limit(Limit::per_ip(quota))
        .enabled(flags.limit_per_ip.is_some())
        .build()
}
