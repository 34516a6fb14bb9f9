//! A world for the cache: an origin that plays a script, and a clock that is turned by hand.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::must_use_candidate,
    reason = "each test file uses its part of the world"
)]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tollgate::cache::{Cache, CacheBuilder, CacheLayer, CacheStats, Profile, Rule, Rules};
use tollgate::{Body, Clock, ManualClock};
use tower::{Layer, Service, ServiceExt};

/// The origin's error, and that of its bodies.
#[derive(Debug)]
pub struct Fault(pub &'static str);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Fault {}

pub type OriginBody = UnsyncBoxBody<Bytes, Fault>;
pub type Reply = Response<OriginBody>;
type Pending = Pin<Box<dyn Future<Output = Result<Reply, Fault>> + Send>>;
type Script = dyn Fn(Asked) -> Pending + Send + Sync;

/// What the origin was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The how-manieth call this is, from 0.
    pub call: usize,
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

/// The service behind the cache.
#[derive(Clone)]
pub struct Origin {
    script: Arc<Script>,
    calls: Arc<AtomicUsize>,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Origin {
    pub fn new<F>(script: impl Fn(Asked) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Reply, Fault>> + Send + 'static,
    {
        let script = Arc::new(move |asked| Box::pin(script(asked)) as Pending);
        Self { script, calls: Arc::default(), log: Arc::default() }
    }
}

impl Service<Request<Full<Bytes>>> for Origin {
    type Response = Reply;
    type Error = Fault;
    type Future = Pending;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Pending {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let asked = Asked {
            call,
            method: request.method().clone(),
            path: request.uri().to_string(),
            headers: request.headers().clone(),
        };
        self.log.lock().expect("not poisoned").push(asked.clone());
        (self.script)(asked)
    }
}

/// A response with these fields and this body.
pub fn reply(fields: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let mut builder = Response::builder();
    for (name, value) in fields {
        builder = if *name == ":status" { builder.status(*value) } else { builder.header(*name, *value) };
    }
    builder.body(full(body)).expect("a response")
}

pub fn full(body: impl Into<Bytes>) -> OriginBody {
    Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body fed by hand: what is sent into the channel is what the cache reads.
pub fn fed() -> (tokio::sync::mpsc::UnboundedSender<Result<Frame<Bytes>, Fault>>, OriginBody) {
    let (feed, mut food) = tokio::sync::mpsc::unbounded_channel();
    let stream = futures_util::stream::poll_fn(move |cx| food.poll_recv(cx));
    (feed, BodyExt::boxed_unsync(StreamBody::new(stream)))
}

pub fn data(text: &'static str) -> Result<Frame<Bytes>, Fault> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// What a client got.
#[derive(Debug, PartialEq, Eq)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// The last member of `Cache-Status`, without the cache's name.
    pub fn status_line(&self) -> &str {
        let last =
            self.headers.get_all("cache-status").iter().next_back().expect("a Cache-Status").to_str().expect("text");
        last.split_once("; ").expect("parameters").1
    }

    pub fn is_hit(&self) -> bool {
        self.status_line().starts_with("hit")
    }
}

pub type Client = Cache<Origin>;

/// A cache in front of an origin, and the clock of both.
#[derive(Clone)]
pub struct World {
    pub clock: ManualClock,
    pub layer: CacheLayer,
    pub origin: Origin,
}

impl World {
    /// A world with this origin and the default settings.
    pub fn new<F>(script: impl Fn(Asked) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Reply, Fault>> + Send + 'static,
    {
        Self::with(|builder| builder, script)
    }

    /// A world with these settings; `Cache-Status` is on.
    pub fn with<F>(
        set: impl FnOnce(CacheBuilder) -> CacheBuilder,
        script: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Reply, Fault>> + Send + 'static,
    {
        let clock = ManualClock::new();
        // One rule covers everything: what none covers is not coalesced.
        let rules = Rules::new().otherwise(Rule::from_headers());
        let builder = CacheLayer::builder().rules(rules).clock(Clock::Manual(clock.clone())).cache_status(true);
        let layer = set(builder).build().expect("a valid configuration");
        Self { clock, layer, origin: Origin::new(script) }
    }

    /// A world whose origin always answers the number of the call, with these fields.
    pub fn numbered(fields: &'static [(&'static str, &'static str)]) -> Self {
        Self::new(move |asked| async move { Ok(reply(fields, asked.call.to_string())) })
    }

    /// A gateway's world: profile `shared`.
    pub fn shared<F>(script: impl Fn(Asked) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Reply, Fault>> + Send + 'static,
    {
        Self::with(|builder| builder.profile(Profile::Shared), script)
    }

    /// A gateway's world whose origin always answers the number of the call, with these fields.
    pub fn gateway(fields: &[(&str, &str)]) -> Self {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Self::shared(move |asked| {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let response = reply(&fields, asked.call.to_string());
            async move { Ok(response) }
        })
    }

    pub fn service(&self) -> Client {
        self.layer.layer(self.origin.clone())
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Response<Body<OriginBody>> {
        self.service().oneshot(request).await.expect("no error")
    }

    pub async fn ask(&self, request: Request<Full<Bytes>>) -> Got {
        got(self.send(request).await).await
    }

    pub async fn get(&self, path: &str) -> Got {
        self.ask(get(path, &[])).await
    }

    pub async fn get_owned(self, path: String) -> Got {
        self.get(&path).await
    }

    pub async fn get_with(&self, path: &str, fields: &[(&str, &str)]) -> Got {
        self.ask(get(path, fields)).await
    }

    pub fn calls(&self) -> usize {
        self.origin.calls.load(Ordering::SeqCst)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.origin.log.lock().expect("not poisoned").clone()
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub fn stats(&self) -> CacheStats {
        self.layer.stats()
    }

    /// Gauges are back at nothing.
    pub async fn is_quiet(&self) -> bool {
        for _ in 0..200 {
            let stats = self.stats();
            if stats.fetches_in_flight == 0 && stats.in_flight_bytes == 0 && stats.background_fetches == 0 {
                return true;
            }
            tokio::task::yield_now().await;
        }
        false
    }
}

pub async fn got(response: Response<Body<OriginBody>>) -> Got {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    let body = String::from_utf8_lossy(&bytes).into_owned();
    Got { status: parts.status.as_u16(), headers: parts.headers, body }
}

pub fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri(path);
    if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        builder = builder.header("host", "example.com");
    }
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::default()).expect("a request")
}

pub fn get(path: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    request("GET", path, fields)
}
