//! The layers on a bare hyper server: no router, no framework.
//!
//! ```text
//! cargo run --example hyper
//! curl -i http://127.0.0.1:3002/prices/ACME
//! ```
//!
//! hyper does not pass on the socket peer of a connection: the server inserts it as a `PeerAddr`, and a client is
//! identified by its address.
#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Limit, Quota};
use tollgate::timing::timed;
use tollgate::{PeerAddr, Tollgate};
use tower::{Layer, Service, ServiceExt, service_fn};

#[path = "common/shutdown.rs"]
mod shutdown;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let listener = TcpListener::bind(listen_address()?).await?;
    println!("Listening. Try:\n  curl -i http://{}/prices/ACME", listener.local_addr()?);
    shutdown::within(shutdown::GRACE, serve(listener)).await.unwrap_or(Ok(()))
}

fn listen_address() -> Result<SocketAddr, Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Ok(SocketAddr::from(([127, 0, 0, 1], 3002))),
        (Some("--listen"), Some(address)) => address.parse().map_err(|_| format!("not an address: {address:?}").into()),
        _ => Err("usage: hyper [--listen ADDRESS:PORT]".into()),
    }
}

/// Serves HTTP/1.1 and HTTP/2 until SIGINT or SIGTERM, or until the listener fails.
pub async fn serve(listener: TcpListener) -> Result<(), Box<dyn Error + Send + Sync>> {
    // There is no router, so the routes are declared, for limits, cache and timing.
    let gate = Tollgate::builder()
        .routes(["/prices/{symbol}"])
        .limit(Limit::per_ip(Quota::per_minute(20)))
        .cache(Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(15)).same_for_everyone()))
        .timing_with(|timing| timing.server_timing(true))
        .build()?;
    // The layers are applied once, and the service is cloned for each connection: all of them share one limit.
    accept(listener, gate.layer().layer(service_fn(price))).await
}

/// Serves a service on every connection, until SIGINT or SIGTERM; then lets requests in flight finish.
pub async fn accept<S, B>(listener: TcpListener, service: S) -> Result<(), Box<dyn Error + Send + Sync>>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let (connections, mut end) = (GracefulShutdown::new(), std::pin::pin!(shutdown::signal()));
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = &mut end => break,
        };
        let service = service.clone();
        let connection = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(PeerAddr(peer));
            service.clone().oneshot(request)
        });
        let server = auto::Builder::new(TokioExecutor::new());
        let connection = server.serve_connection(TokioIo::new(stream), connection).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection failed: {error}");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
    Ok(())
}

async fn price(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let symbol = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let cents = timed("load price", async { 100 * symbol.len() }).await;
    Ok(Response::new(Full::from(format!("{symbol} costs {cents} cents\n"))))
}
