//! Accepts connections, HTTP/1.1 and HTTP/2 on one port, until shutdown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt;
use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tollgate::PeerAddr;
use tower::Service;

use super::BoxError;
use super::mirror::Mirror;
use super::offering::Offering;
use super::outgoing::Outgoing;
use super::patience::Patience;
use super::wire::Wire;

/// Serves every connection with a clone of `service`; requests carry the socket peer. After `end`, requests in flight
/// have `grace` to finish; a client that holds its connection open does not extend it.
pub(crate) async fn until<S, B>(
    end: impl Future<Output = ()>,
    grace: Duration,
    listener: TcpListener,
    mirror: Option<Arc<Mirror>>,
    service: S,
) where
    S: Service<Request<Outgoing>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let connections = GracefulShutdown::new();
    let mut end = std::pin::pin!(end);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // For example out of file descriptors, which closing connections release.
                    eprintln!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut end => break,
        };
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        let (wire, turn) = Wire::new(stream, mirror.clone());
        let mirror = mirror.clone();
        let ask = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(PeerAddr(peer));
            // HTTP/2 frames are too short to be mirrored.
            let mirror = mirror.as_ref().filter(|_| request.version() <= Version::HTTP_11).cloned();
            // The gate is always ready.
            service.clone().call(request.map(Outgoing::of)).map_ok(|response| Offering::of(response, mirror))
        });
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http1().timer(Patience::new());
        server.http2().timer(TokioTimer::new());
        let connection = server.serve_connection(TokioIo::new(wire), ask).into_owned();
        tokio::spawn(turn(connections.watch(connection)));
    }
    drop(listener);
    let _ = tokio::time::timeout(grace, connections.shutdown()).await;
}
