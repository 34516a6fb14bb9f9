//! The innermost service: calls the origin.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self as client, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tollgate::PeerAddr;
use tower::Service;

use super::flags::Flags;
use super::forward;
use super::outgoing::Outgoing;

/// Body of the origin, frame by frame, or a short text of the gateway.
pub(crate) type OriginBody = BoxBody<Bytes, hyper::Error>;

/// The origin as a service. It never fails: an unreachable origin becomes a response.
///
/// A service is cloned for each request, including cache hits, so a clone only increments a reference count.
#[derive(Clone)]
pub(crate) struct Origin(Arc<Upstream>);

struct Upstream {
    client: Client<HttpConnector, Outgoing>,
    authority: Authority,
    timeout: Duration,
}

impl Origin {
    pub(crate) fn new(flags: &Flags) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(flags.upstream_timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .build(connector);
        let (authority, timeout) = (flags.upstream.clone(), flags.upstream_timeout);
        Self(Arc::new(Upstream { client, authority, timeout }))
    }
}

impl Service<Request<Outgoing>> for Origin {
    type Response = Response<OriginBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<OriginBody>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Outgoing>) -> Self::Future {
        let (upstream, peer) = (self.0.clone(), request.extensions().get::<PeerAddr>().map(|peer| peer.0.ip()));
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            if head.method == Method::CONNECT {
                return Ok(say(StatusCode::NOT_IMPLEMENTED, "CONNECT is not supported\n"));
            }
            if forward::is_last_recipient(&mut head) {
                return Ok(say_for_itself(&head.method));
            }
            forward::request(&mut head, &upstream.authority, peer);
            // A body of unknown length is sent in chunks; a `Content-Length` from the client is not trusted.
            if body.size_hint().exact().is_none() {
                head.headers.remove(CONTENT_LENGTH);
            }
            let broken = body.broken();
            let asked = upstream.ask(head, body);
            Ok(match tokio::time::timeout(upstream.timeout, asked).await {
                Ok(Ok(response)) => answer(response),
                Ok(Err(_)) if broken.is() => say(StatusCode::BAD_REQUEST, "the request's body is malformed\n"),
                Ok(Err(error)) if timed_out(&error) => say(StatusCode::GATEWAY_TIMEOUT, "the origin did not answer\n"),
                Ok(Err(_)) => say(StatusCode::BAD_GATEWAY, "the origin is unreachable\n"),
                Err(_) => say(StatusCode::GATEWAY_TIMEOUT, "the origin did not answer\n"),
            })
        })
    }
}

impl Upstream {
    /// Sends a request; once more if the connection was closed before the answer, and the request is safe and has no
    /// body. The connection may have been idle for too long (RFC 9112 §9.3.1, RFC 9110 §9.2.2).
    async fn ask(&self, head: Parts, body: Outgoing) -> Result<Response<Incoming>, client::Error> {
        let again = (head.method.is_safe() && body.is_end_stream()).then(|| head.clone());
        let answered = self.client.request(Request::from_parts(head, body)).await;
        match (answered, again) {
            (Err(error), Some(head)) if !error.is_connect() && was_closed(&error) => {
                self.client.request(Request::from_parts(head, Outgoing::default())).await
            }
            (answered, _) => answered,
        }
    }
}

/// Returns whether the connection ended, rather than answering something else.
fn was_closed(error: &(dyn Error + 'static)) -> bool {
    let by_hyper = error.downcast_ref::<hyper::Error>();
    let by_system = error.downcast_ref::<io::Error>();
    by_hyper.is_some_and(|error| error.is_incomplete_message() || error.is_canceled() || error.is_closed())
        || by_system.is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
            )
        })
        || error.source().is_some_and(was_closed)
}

fn answer(response: Response<Incoming>) -> Response<OriginBody> {
    let (mut head, body) = response.into_parts();
    forward::response(&mut head);
    Response::from_parts(head, body.boxed())
}

fn say(status: StatusCode, words: &'static str) -> Response<OriginBody> {
    let mut response = Response::new(Full::from(words).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Answers a request that may not be forwarded: the gateway echoes no request (RFC 9110 §9.3.8).
fn say_for_itself(method: &Method) -> Response<OriginBody> {
    let mut response = match *method {
        Method::OPTIONS => say(StatusCode::NO_CONTENT, ""),
        _ => say(StatusCode::METHOD_NOT_ALLOWED, "TRACE is not answered here\n"),
    };
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    response
}

/// Returns whether connecting timed out, rather than being refused.
fn timed_out(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) || error.source().is_some_and(timed_out)
}
