//! A reverse proxy over the same layers: hyper in (HTTP/1.1 and HTTP/2), hyper out, streaming both ways.
//!
//! ```text
//! cargo run --example server -- --no-limits
//! cargo run --example gateway -- --upstream http://127.0.0.1:3000 --cache-status
//! curl -i http://127.0.0.1:3001/prices/ACME
//! ```
//!
//! | file | content |
//! |---|---|
//! | `gateway/flags.rs` | the command line |
//! | `gateway/forward.rs` | changes to forwarded messages |
//! | `gateway/host.rs` | answers 400 to requests whose host is unclear |
//! | `gateway/metrics.rs` | a path that is answered by the gateway: metrics for Prometheus |
//! | `gateway/mirror.rs` | large stored bodies in a file, which the kernel sends without copying (Linux; elsewhere `no_mirror.rs`) |
//! | `gateway/offering.rs` | offers sent blocks to the mirror |
//! | `gateway/origin.rs` | the innermost service: calls the origin, answers 502 or 504 if it does not respond |
//! | `gateway/outgoing.rs` | the body of a request on its way to the origin |
//! | `gateway/patience.rs` | the timeout of a request's head |
//! | `gateway/serve.rs` | accepts connections, and completes requests in flight at shutdown |
//! | `common/shutdown.rs` | SIGINT and SIGTERM |
//! | `gateway/wire.rs` | writes responses: short ones together, large ones from the mirror |
//!
//! Not supported: TLS, WebSockets (`Upgrade` is removed, so the origin answers a request without it), and `CONNECT`.
#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tollgate::Tollgate;
use tollgate::identity::{TrustedProxies, by};
use tollgate::limit::Limit;
use tower::Layer;

#[path = "gateway/flags.rs"]
pub(crate) mod flags;
#[path = "gateway/forward.rs"]
mod forward;
#[path = "gateway/host.rs"]
mod host;
#[path = "gateway/metrics.rs"]
mod metrics;
#[cfg(target_os = "linux")]
#[path = "gateway/mirror.rs"]
mod mirror;
#[cfg(not(target_os = "linux"))]
#[path = "gateway/no_mirror.rs"]
mod mirror;
#[path = "gateway/offering.rs"]
mod offering;
#[path = "gateway/origin.rs"]
mod origin;
#[path = "gateway/outgoing.rs"]
mod outgoing;
#[path = "gateway/patience.rs"]
mod patience;
#[path = "gateway/serve.rs"]
mod serve;
#[path = "common/shutdown.rs"]
pub(crate) mod shutdown;
#[path = "gateway/wire.rs"]
mod wire;

use flags::{Flags, USAGE};
use host::HostCheck;
use metrics::Metrics;
use mirror::Mirror;
use origin::Origin;

/// Each request allocates a few times, independent of the layers: hyper for its head, the protocol for its frames.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type BoxError = Box<dyn Error + Send + Sync>;

/// Number of connections polled before new ones are accepted: their responses are sent while their memory is still in
/// the processor's cache.
const AT_ONCE: usize = 16;

fn main() -> ExitCode {
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
    let runtime = Builder::new_multi_thread().enable_all().max_io_events_per_tick(AT_ONCE).build();
    match runtime.map_err(BoxError::from).and_then(|runtime| runtime.block_on(start(flags))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// Returns an error if a flag is invalid or the address cannot be bound.
pub(crate) async fn start(flags: Flags) -> Result<(), BoxError> {
    let gate = gate(&flags)?;
    let listener =
        TcpListener::bind(flags.listen).await.map_err(|e| format!("cannot listen on {}: {e}", flags.listen))?;
    println!("http://{} in front of http://{}", listener.local_addr()?, flags.upstream);
    run(listener, &flags, &gate, shutdown::signal()).await?;
    let stats = gate.stats();
    println!("{} requests → {} origin calls, {} avoided", stats.requests, stats.inner_calls, stats.inner_calls_avoided);
    Ok(())
}

/// Builds the layers that the flags select.
///
/// # Errors
/// Returns an error that names the invalid proxy, field name or size.
pub(crate) fn gate(flags: &Flags) -> Result<Tollgate, tollgate::Error> {
    let proxies = TrustedProxies::cidrs(&flags.trusted);
    let proxies = match &flags.forwarded_header {
        Some(name) => proxies.header(name),
        None => proxies,
    };
    let mut gate = Tollgate::builder()
        .identify(by::client_ip(proxies))
        .timing_with(|timing| timing.server_timing(flags.timing))
        .cache_with(|cache| {
            let cache = cache.profile(flags.profile).memory(flags.memory).max_entry(flags.max_entry);
            let cache = cache.cache_status(flags.cache_status).empty_body(outgoing::Outgoing::default);
            flags.targeted.iter().fold(cache, |cache, field| cache.targeted_field(field.as_str()))
        });
    if let Some(quota) = flags.limit_per_ip {
        gate = gate.limit(Limit::per_ip(quota));
    }
    if let Some(url) = &flags.redis {
        gate = gate.redis(url.as_str());
    }
    if let Some(url) = &flags.postgres {
        gate = gate.postgres(url.as_str());
    }
    if let Some(folder) = &flags.file {
        gate = gate.file(folder, flags.file_size);
    }
    gate.build()
}

/// Serves until `end`, then lets the requests in flight finish.
///
/// # Errors
/// Returns an error if the mirror cannot be created in its folder.
pub(crate) async fn run(
    listener: TcpListener,
    flags: &Flags,
    gate: &Tollgate,
    end: impl Future<Output = ()>,
) -> Result<(), BoxError> {
    let mirror = Mirror::of(flags.mirror.unwrap_or(flags.memory), flags.mirror_in.as_deref());
    let mirror = mirror.map_err(|e| format!("--mirror-in {:?}: {e}", flags.mirror_in))?.map(Arc::new);
    let service = Metrics::of(gate, flags.metrics.clone()).layer(gate.layer().layer(Origin::new(flags)));
    let service = HostCheck.layer(service);
    serve::until(end, flags.grace, listener, mirror, service).await;
    gate.shutdown().await;
    Ok(())
}
