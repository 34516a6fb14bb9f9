//! Finds slow and N+1 queries without changing a handler: `cargo run --example queries`.
//!
//! An axum service over sqlx and SQLite (bundled, in a temporary file). `/authors` makes one query per author;
//! `/authors-fixed` makes one for all of them. Request both, and read the output of the service: only the first is
//! reported.
//!
//! ```text
//! cargo run --example queries
//! curl -i http://127.0.0.1:3004/authors
//! curl -i http://127.0.0.1:3004/authors-fixed
//! curl -i http://127.0.0.1:3004/metrics
//! ```
//!
//! The layer and the harvest are one line each; the handlers in `queries/api.rs` are independent of them.
#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use tollgate::timing::{TimingLayer, harvest};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

#[path = "queries/api.rs"]
mod api;
#[path = "common/shutdown.rs"]
mod shutdown;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let listen = listen(std::env::args().skip(1))?;
    // The filter is on the layer that prints: a global one would hide sqlx's events from the harvest.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let print = tracing_subscriber::fmt::layer().with_filter(filter);
    tracing_subscriber::registry().with(print).with(harvest()).init();

    let file = Temporary::new();
    sqlx::any::install_default_drivers();
    // By default sqlx logs waits for connections only if they are slow.
    let pool = AnyPoolOptions::new().acquire_time_level(log::LevelFilter::Debug);
    let pool = pool.connect(&format!("sqlite://{}?mode=rwc", file.0.display())).await?;
    for statement in api::SCHEMA {
        sqlx::query(statement).execute(&pool).await?;
    }
    let timing = TimingLayer::builder().server_timing(true).starved_after(Duration::from_secs(1)).build()?;
    let app = api::app(pool.clone(), &timing);
    let listener = tokio::net::TcpListener::bind(listen).await?;
    greet(listener.local_addr()?);
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown::signal());
    shutdown::within(shutdown::GRACE, server).await.unwrap_or(Ok(()))?;
    println!();
    for query in timing.stats().top_queries(5) {
        println!("{:>9.1?} in {:>5} × {}", query.latency.total, query.latency.count, query.name);
    }
    pool.close().await;
    Ok(())
}

fn listen(mut args: impl Iterator<Item = String>) -> Result<SocketAddr, BoxError> {
    match (args.next().as_deref(), args.next()) {
        (None, _) => Ok(([127, 0, 0, 1], 3004).into()),
        (Some("--listen"), Some(address)) => address.parse().map_err(|_| format!("not an address: {address:?}").into()),
        _ => Err("usage: queries [--listen ADDRESS:PORT]".into()),
    }
}

fn greet(address: SocketAddr) {
    println!("Tollgate's example of queries listens on http://{address}. Try:\n");
    for (path, what) in [
        ("authors", "one query per author: note the warning here, and Server-Timing in the response"),
        ("authors-fixed", "one query for all of them: no warning"),
        ("metrics", "for Prometheus"),
    ] {
        println!("  curl -i http://{address}/{path}\n      # {what}");
    }
    println!("\nStatistics: http://{address}/stats.json   Stop with Ctrl-C.");
}

/// File that is deleted at the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("tollgate-queries-{}.sqlite", std::process::id())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
