//! Origins and gateways on free ports, and clients of theirs.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::must_use_candidate,
    reason = "each test file uses its part of them"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "../../examples/gateway.rs"]
#[allow(dead_code, reason = "an example is a program of its own")]
pub mod example;

use example::flags::Flags;

pub type OutBody = BoxBody<Bytes, Infallible>;

/// An origin whose answers are made by a closure, counting how often it was asked.
pub struct Origin {
    pub address: SocketAddr,
    calls: Arc<AtomicUsize>,
}

pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

impl Origin {
    pub async fn new<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<OutBody>> + Send + 'static,
    {
        let (listener, address) = listener().await;
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, counter) = (answer.clone(), counter.clone());
                let service = hyper::service::service_fn(move |request| {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    drop(server.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { address, calls }
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

pub fn full(text: impl Into<Bytes>) -> OutBody {
    Full::new(text.into()).boxed()
}

/// A gateway in front of that address, with these arguments besides.
pub async fn gateway(upstream: SocketAddr, arguments: &str) -> SocketAddr {
    let (listener, address) = listener().await;
    let line = format!("--upstream http://{upstream} {arguments}");
    let flags = Flags::parse(line.split_whitespace().map(str::to_owned)).expect("correct flags").expect("no help");
    let gate = example::gate(&flags).expect("a gate");
    tokio::spawn(async move { example::run(listener, &flags, &gate, std::future::pending()).await });
    address
}

pub async fn send<B>(request: Request<B>, http2: bool) -> (StatusCode, HeaderMap, Bytes)
where
    B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
    let (head, body) = client.request(request).await.expect("an answer").into_parts();
    (head.status, head.headers, body.collect().await.expect("a body").to_bytes())
}

pub async fn get(gateway: SocketAddr, path: &str) -> (StatusCode, HeaderMap, Bytes) {
    send(Request::get(format!("http://{gateway}{path}")).body(Empty::new()).expect("a request"), false).await
}

/// Sends these bytes and reads until the gateway closes.
pub async fn raw(gateway: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(gateway).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    answer
}
