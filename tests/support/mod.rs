//! A world with a clock: requests from any address, an inner service that counts, no sleeping.
#![allow(dead_code, unreachable_pub, clippy::expect_used, reason = "each test binary uses its own part, and may fail")]

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tollgate::{Body, Clock, ManualClock, PeerAddr};
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceExt, service_fn};

pub type Req = Request<Empty<Bytes>>;
pub type Res = Response<Body<Full<Bytes>>>;

/// A request from that address.
pub fn from(ip: &str, uri: &str) -> Req {
    let ip: IpAddr = ip.parse().expect("an address");
    let mut request = Request::get(uri).body(Empty::new()).expect("a request");
    request.extensions_mut().insert(PeerAddr(SocketAddr::new(ip, 4711)));
    request
}

/// A layer around a service that counts its calls, and a clock to turn.
pub struct World {
    pub hand: ManualClock,
    pub calls: Arc<AtomicUsize>,
    service: BoxCloneService<Req, Res, Infallible>,
}

impl World {
    /// `make` is given the world's clock.
    pub fn new<L>(make: impl FnOnce(Clock) -> L) -> Self
    where
        L: Layer<Inner>,
        L::Service: Service<Req, Response = Res, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static,
    {
        let (hand, calls) = (ManualClock::new(), Arc::new(AtomicUsize::new(0)));
        let layer = make(Clock::Manual(hand.clone()));
        let service = BoxCloneService::new(layer.layer(Inner(calls.clone())));
        Self { hand, calls, service }
    }

    pub async fn send(&self, request: Req) -> Res {
        self.service.clone().oneshot(request).await.expect("infallible")
    }

    pub async fn status(&self, request: Req) -> u16 {
        self.send(request).await.status().as_u16()
    }

    /// How many of `n` such requests are admitted, one after the other.
    pub async fn admitted(&self, n: usize, request: impl Fn() -> Req) -> usize {
        let mut admitted = 0;
        for _ in 0..n {
            admitted += usize::from(self.status(request()).await == 200);
        }
        admitted
    }

    pub fn advance(&self, seconds: f64) {
        self.hand.advance(Duration::from_secs_f64(seconds));
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// Answers 200 "ok" and counts; says what fields an inner limit might have left.
#[derive(Clone)]
pub struct Inner(pub Arc<AtomicUsize>);

impl Service<Req> for Inner {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Req) -> Self::Future {
        self.0.fetch_add(1, Ordering::SeqCst);
        let response = Response::builder().header("x-ratelimit-limit", "inner").body(Full::from("ok"));
        std::future::ready(Ok(response.expect("a response")))
    }
}

/// A header field as text; empty where it is missing.
pub fn field<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().expect("text"))
}

pub async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// A service from a closure, for when [`Inner`] is not enough.
pub fn answering<F>(f: F) -> BoxCloneService<Req, Response<Full<Bytes>>, Infallible>
where
    F: Fn(&Req) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    BoxCloneService::new(service_fn(move |request: Req| std::future::ready(Ok(f(&request)))))
}
