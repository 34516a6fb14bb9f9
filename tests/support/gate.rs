//! A node of a fleet as users build it: a whole `Tollgate` over a Redis, in front of a service that counts; and a load.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::must_use_candidate,
    clippy::disallowed_methods,
    reason = "each test uses its part, and may fail"
)]

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tollgate::cache::{LevelStats, Rule, Rules};
use tollgate::testing::FakePeer;
use tollgate::{Body, Event, Tollgate, TollgateBuilder, TollgateService};
use tower::{Layer, Service, ServiceExt};

/// The promise for one look-up of the cache; a test allows ten times as much before it calls it a hang.
pub const HANG: Duration = Duration::from_millis(500);
/// Ten times the promise for coming back.
pub const BACK: Duration = Duration::from_secs(5);

/// Answers with the request's path and query, and counts.
#[derive(Clone)]
pub struct Origin {
    pub calls: Arc<AtomicUsize>,
    pub down: Arc<AtomicBool>,
}

impl Service<Request<Full<Bytes>>> for Origin {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(Full::from(body_of(request.uri().path())));
        if self.down.load(Ordering::SeqCst) {
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        }
        std::future::ready(Ok(response))
    }
}

/// What the origin says under a path: long enough to be worth garbling.
pub fn body_of(path: &str) -> String {
    format!("{path} ").repeat(20)
}

/// A node: clones are the same node.
#[derive(Clone)]
pub struct Gate {
    pub gate: Tollgate,
    pub service: TollgateService<Origin>,
    pub origin: Origin,
    pub events: Arc<Mutex<Vec<String>>>,
}

/// What a load came to.
#[derive(Debug, Default)]
pub struct Load {
    /// How long each request took, sorted.
    pub took: Vec<Duration>,
    pub refused: usize,
}

impl Load {
    pub fn max(&self) -> Duration {
        self.took.last().copied().unwrap_or_default()
    }
}

impl Gate {
    /// A node that caches everything for a minute, over the Redis at this URL.
    pub fn at(url: &str) -> Self {
        Self::with(url, |builder| builder)
    }

    pub fn with(url: &str, set: impl FnOnce(TollgateBuilder) -> TollgateBuilder) -> Self {
        let rule = Rule::ttl(Duration::from_secs(60)).same_for_everyone();
        let rules = Rules::new().route("/none", Rule::never()).route("/{*rest}", rule);
        Self::build(set(Tollgate::builder().routes(["/none", "/{*rest}"]).cache(rules).redis(url)))
    }

    pub fn build(builder: TollgateBuilder) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = events.clone();
        let builder = builder.hook(move |event: &Event<'_>| {
            if matches!(event, Event::StoreDown { .. } | Event::StoreUp { .. }) {
                sink.lock().expect("not poisoned").push(format!("{event:?}"));
            }
        });
        let gate = builder.build().expect("it builds, whatever Redis does");
        let origin = Origin { calls: Arc::default(), down: Arc::default() };
        Self { service: gate.layer().layer(origin.clone()), gate, origin, events }
    }

    pub fn calls(&self) -> usize {
        self.origin.calls.load(Ordering::SeqCst)
    }

    pub fn events(&self) -> Vec<String> {
        self.events.lock().expect("not poisoned").clone()
    }

    pub fn level(&self) -> LevelStats {
        let levels = self.gate.stats().cache;
        levels.into_iter().nth(1).expect("a level behind memory")
    }

    /// Waits until it knows its fleet.
    pub async fn joined(self) -> Self {
        self.back().await;
        self
    }

    /// How long until the level in Redis answers.
    pub async fn back(&self) -> Duration {
        let since = Instant::now();
        while !self.level().up {
            assert!(since.elapsed() < BACK, "not back within {BACK:?}: {:?} {:?}", self.level(), self.events());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        since.elapsed()
    }

    pub async fn send(&self, path: &str) -> Response<Body<Full<Bytes>>> {
        self.send_from("192.0.2.1", path).await
    }

    pub async fn send_from(&self, peer: &str, path: &str) -> Response<Body<Full<Bytes>>> {
        let request = Request::get(path).header("host", "h").body(Full::default()).expect("a request");
        self.service.clone().oneshot(FakePeer::at(peer).mark(request)).await.expect("infallible")
    }

    /// A GET that must be answered rightly; returns whether from a cache.
    pub async fn get(&self, path: &str) -> bool {
        let response = self.send(path).await;
        assert_eq!(response.status(), 200, "{path}");
        let hit = response.headers().contains_key("age");
        let body = response.into_body().collect().await.expect("a whole body").to_bytes();
        assert_eq!(body, body_of(path), "a wrong body");
        hit
    }

    /// Many requests for `paths` paths by eight clients at a time, every one of which must be answered rightly.
    pub async fn load(&self, prefix: &str, requests: usize, paths: usize) -> Load {
        let next = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let (this, next, prefix) = (self.clone(), next.clone(), prefix.to_owned());
                tokio::spawn(async move {
                    let mut took = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        if number >= requests {
                            return took;
                        }
                        let since = Instant::now();
                        this.get(&format!("/{prefix}/{}", number % paths)).await;
                        took.push(since.elapsed());
                    }
                })
            })
            .collect();
        let mut load = Load::default();
        for client in clients {
            load.took.extend(client.await.expect("no client failed"));
        }
        load.took.sort_unstable();
        assert_eq!(load.took.len(), requests);
        load
    }

    /// So many requests by eight clients at a time, each of which is admitted or refused, and how many were admitted.
    pub async fn admitted(&self, requests: usize) -> (usize, Load) {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let this = self.clone();
                tokio::spawn(async move {
                    let (mut admitted, mut took) = (0, Vec::new());
                    for _ in (client..requests).step_by(8) {
                        let since = Instant::now();
                        let response = this.send("/none").await;
                        took.push(since.elapsed());
                        match response.status().as_u16() {
                            200 => admitted += 1,
                            429 => {}
                            other => panic!("{other} for a request to be admitted or refused"),
                        }
                    }
                    (admitted, took)
                })
            })
            .collect();
        let (mut admitted, mut load) = (0, Load::default());
        for client in clients {
            let (count, took) = client.await.expect("no client failed");
            admitted += count;
            load.took.extend(took);
        }
        load.took.sort_unstable();
        load.refused = requests - admitted;
        assert!(load.max() < HANG, "a decision took {:?}; {:?}", load.max(), self.gate.stats().limits);
        (admitted, load)
    }

    /// A load during which nothing hangs.
    pub async fn smooth_load(&self, prefix: &str, requests: usize, paths: usize) -> Load {
        let load = self.load(prefix, requests, paths).await;
        assert!(load.max() < HANG, "a request took {:?}; {:?}", load.max(), self.level());
        load
    }

    /// Gauges are back at nothing.
    pub async fn quiet(&self) {
        let since = Instant::now();
        loop {
            let stats = self.gate.stats();
            if stats.fetches_in_flight == 0 && stats.in_flight_bytes == 0 {
                return;
            }
            assert!(since.elapsed() < BACK, "work is left behind: {stats:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// How many tasks this runtime runs.
pub fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}
