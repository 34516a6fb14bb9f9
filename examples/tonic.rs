//! The layers on a tonic server: a rejection is gRPC's `RESOURCE_EXHAUSTED` with `RetryInfo`, which clients support.
//!
//! ```text
//! cargo run --example tonic
//! ```
//!
//! The messages and the service are written by hand, so that this example needs no `protoc`; with generated code only
//! the parts marked "generated" differ. `grpcurl -plaintext -proto …` can call it:
//!
//! ```proto
//! service Prices { rpc Get (PriceRequest) returns (PriceReply); }
//! message PriceRequest { string symbol = 1; }
//! message PriceReply { uint64 cents = 1; }
//! ```
#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tollgate::Tollgate;
use tollgate::identity::by;
use tollgate::limit::{Limit, Quota};
use tollgate::timing::timed;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

#[path = "common/shutdown.rs"]
mod shutdown;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let listener = TcpListener::bind(listen_address()?).await?;
    println!("gRPC on http://{}, 20 calls a minute: /{}", listener.local_addr()?, METHOD);
    shutdown::within(shutdown::GRACE, serve(listener)).await.unwrap_or(Ok(()))
}

fn listen_address() -> Result<SocketAddr, Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Ok(SocketAddr::from(([127, 0, 0, 1], 3003))),
        (Some("--listen"), Some(address)) => address.parse().map_err(|_| format!("not an address: {address:?}").into()),
        _ => Err("usage: tonic [--listen ADDRESS:PORT]".into()),
    }
}

/// Serves gRPC until SIGINT or SIGTERM, then lets calls in flight finish; or until the listener fails.
pub async fn serve(listener: TcpListener) -> Result<(), Box<dyn Error + Send + Sync>> {
    let peer = by::peer_from(|connection: &TcpConnectInfo| connection.remote_addr());
    let gate = Tollgate::builder()
        .identify(peer)
        .limit(Limit::per_ip(Quota::per_minute(20)))
        .timing_with(|timing| timing.routes(["/shop.Prices/{method}"]))
        .build()?;
    let server = Server::builder().layer(gate.layer()).add_service(Prices);
    server.serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown::signal()).await?;
    Ok(())
}

async fn get(request: Request<PriceRequest>) -> Result<Response<PriceReply>, Status> {
    let symbol = request.into_inner().symbol;
    let cents = timed("load price", async { 100 * symbol.len() as u64 }).await;
    Ok(Response::new(PriceReply { cents }))
}

// Usually generated:

/// Request of a price.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PriceRequest {
    /// Its symbol, such as `ACME`.
    #[prost(string, tag = "1")]
    pub symbol: String,
}

/// Price of a symbol.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PriceReply {
    /// In cents.
    #[prost(uint64, tag = "1")]
    pub cents: u64,
}

/// Path of the method.
pub const METHOD: &str = "shop.Prices/Get";

/// Service implementation.
#[derive(Clone, Debug)]
pub struct Prices;

impl tonic::server::NamedService for Prices {
    const NAME: &'static str = "shop.Prices";
}

impl Service<http::Request<Body>> for Prices {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path().strip_prefix('/') != Some(METHOD) {
                return Ok(Status::unimplemented("there is one method").into_http());
            }
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
            Ok(grpc.unary(tower::service_fn(get), request).await)
        })
    }
}
