//! Nothing is left behind by a Redis that dies and comes back again and again, nor by clients that leave and handlers
//! that panic in front of one. A binary of its own: it counts what its process holds.

#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and guards against hanging")]

#[path = "support/gate.rs"]
mod gate;
#[path = "support/redis.rs"]
mod redis;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use gate::{BACK, Gate, HANG, tasks};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use redis::{RedisServer, wanted};
use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Limit, Quota};
use tollgate::testing::FakePeer;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};

/// Tests that count tasks and sockets take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How many files and sockets this process has open.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Waits until this is so.
async fn becomes(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < BACK, "{what}: {} tasks, {} files", tasks(), open_files());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends requests until both stores are as wanted.
async fn until(node: &Gate, up: bool) {
    let since = Instant::now();
    loop {
        let remote = node.gate.stats().remote.expect("limits in Redis");
        if node.level().up == up && remote.up == up {
            return;
        }
        assert!(since.elapsed() < 2 * BACK, "not {up} yet: {:?} {remote:?}", node.level());
        node.get(&format!("/{}", since.elapsed().as_nanos())).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_twenty_times_leaves_no_task_and_no_socket_behind() {
    if !wanted() {
        return;
    }
    let _turn = TURN.lock().await;
    let server = RedisServer::start();
    let baseline = (tasks(), open_files());
    let node = Gate::with(&server.url(), |builder| builder.limit(Limit::per_ip(Quota::per_hour(1_000_000))));
    let mut held = None;
    for cycle in 0..20 {
        until(&node, true).await;
        node.smooth_load(&format!("up{cycle}"), 200, 50).await;
        node.quiet().await;
        // The first cycle shows what a node in good health holds: its connections, its listener and its history.
        tokio::time::sleep(Duration::from_millis(if held.is_none() { 500 } else { 0 })).await;
        let (most_tasks, most_files) = *held.get_or_insert((tasks(), open_files()));
        becomes(&format!("cycle {cycle}: {most_tasks} tasks, {most_files} files at first"), || {
            tasks() <= most_tasks && open_files() <= most_files
        })
        .await;
        server.kill();
        until(&node, false).await;
        node.smooth_load(&format!("down{cycle}"), 200, 50).await;
        server.restart();
    }
    node.gate.shutdown().await;
    drop(node);
    becomes("after the last", || tasks() <= baseline.0 && open_files() <= baseline.1).await;
}

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;
type Answer = Response<tollgate::Body<UnsyncBoxBody<Bytes, Infallible>>>;

/// A node whose handler takes ten milliseconds and panics at its first call for a path below `/panics`; below `/body`
/// it answers at once and takes ten milliseconds inside the body.
#[derive(Clone)]
struct Frail {
    gate: Tollgate,
    service: BoxCloneSyncService<Request<Empty<Bytes>>, Answer, Infallible>,
    panicked: Arc<Mutex<Vec<Instant>>>,
}

const PAUSE: Duration = Duration::from_millis(10);

impl Frail {
    fn at(url: &str) -> Self {
        let rule = Rule::ttl(Duration::from_secs(60)).same_for_everyone();
        let builder = Tollgate::builder().limit(Limit::per_ip(Quota::per_hour(1_000_000)));
        let gate = builder.cache(Rules::new().otherwise(rule)).redis(url).build().expect("it builds");
        let panicked = Arc::new(Mutex::new(Vec::<Instant>::new()));
        let (told, seen) = (panicked.clone(), Arc::new(Mutex::new(std::collections::HashSet::new())));
        let handler = tower::service_fn(move |request: Request<Empty<Bytes>>| {
            let (told, path) = (told.clone(), request.uri().path().to_owned());
            let first = seen.lock().expect("not poisoned").insert(path.clone());
            async move {
                let slow_head = !path.starts_with("/body");
                if slow_head {
                    tokio::time::sleep(PAUSE).await;
                }
                if first && path.starts_with("/panics") {
                    told.lock().expect("not poisoned").push(Instant::now());
                    std::panic::resume_unwind(Box::new("the handler's own"));
                }
                let parts = stream::iter([path.clone(), path]).enumerate().then(move |(number, part)| async move {
                    if number == 1 && !slow_head {
                        tokio::time::sleep(PAUSE).await;
                    }
                    Ok::<_, Infallible>(Frame::data(Bytes::from(part)))
                });
                Ok::<Reply, Infallible>(Response::new(StreamBody::new(parts).boxed_unsync()))
            }
        });
        let service = BoxCloneSyncService::new(gate.layer().layer(handler));
        Self { gate, service, panicked }
    }

    async fn send(&self, path: &str) -> Response<tollgate::Body<UnsyncBoxBody<Bytes, Infallible>>> {
        let request = Request::get(path).header("host", "h").body(Empty::new()).expect("a request");
        self.service.clone().oneshot(FakePeer::at("192.0.2.1").mark(request)).await.expect("infallible")
    }

    /// A GET that must be answered rightly; returns whether from a cache.
    async fn get(&self, path: &str) -> bool {
        let response = self.send(path).await;
        assert_eq!(response.status(), 200, "{path}");
        let hit = response.headers().contains_key("age");
        let body = response.into_body().collect().await.expect("a whole body").to_bytes();
        assert_eq!(body, path.repeat(2), "a wrong body");
        hit
    }

    /// Clients who ask for the same while the handler panics: how long the last of them took from the panic on. Which of
    /// them leads is Redis's to say.
    async fn panic_before_twenty(&self, path: &str) -> Duration {
        let one = || std::panic::AssertUnwindSafe(self.get(path)).catch_unwind();
        let ended = stream::iter(0..21).map(|_| one()).buffer_unordered(21).collect::<Vec<_>>().await;
        let freed = Instant::now();
        let saw_it = |end: &&Result<bool, Box<dyn std::any::Any + Send>>| {
            end.as_ref().is_err_and(|panic| panic.downcast_ref() == Some(&"the handler's own"))
        };
        assert_eq!(ended.iter().filter(saw_it).count(), 1, "its own client sees the panic");
        assert_eq!(ended.iter().filter(|end| end.is_ok()).count(), 20, "everybody else is answered");
        freed - *self.panicked.lock().expect("not poisoned").last().expect("it panicked")
    }

    /// Clients that leave at every moment: before the head, and inside the body.
    async fn left(&self, prefix: &str, clients: u64) {
        stream::iter(0..clients)
            .for_each_concurrent(8, |number| async move {
                let patience = Duration::from_micros(200 * (number % 100));
                let _ = tokio::time::timeout(patience, self.send(&format!("/head/{prefix}{number}"))).await;
                let mut inside = self.send(&format!("/body/{prefix}{number}")).await.into_body();
                let frame = inside.frame().await.expect("a frame").expect("infallible");
                assert!(frame.is_data());
                drop(inside);
            })
            .await;
    }

    fn is_quiet(&self) -> bool {
        let stats = self.gate.stats();
        (stats.in_flight, stats.fetches_in_flight, stats.in_flight_bytes) == (0, 0, 0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_and_clients_that_leave_free_everybody_and_leave_nothing_behind() {
    if !wanted() {
        return;
    }
    let _turn = TURN.lock().await;
    let server = RedisServer::start();
    let baseline = tasks();
    let (a, b) = (Frail::at(&server.url()), Frail::at(&server.url()));
    let up = |node: &Frail| {
        let stats = node.gate.stats();
        stats.remote.is_some_and(|remote| remote.up) && stats.cache.iter().all(|level| level.up)
    };
    becomes("both know their fleet", || up(&a) && up(&b)).await;
    for state in ["up", "hung", "again"] {
        match state {
            "hung" => server.stop(),
            "again" => {
                server.cont();
                let since = Instant::now();
                while !(up(&a) && up(&b)) {
                    assert!(since.elapsed() < 2 * BACK, "not back");
                    a.get(&format!("/head/{}", since.elapsed().as_nanos())).await;
                    b.get(&format!("/head/{}", since.elapsed().as_nanos())).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            _ => {}
        }
        for number in 0..50 {
            let freed = a.panic_before_twenty(&format!("/panics/{state}{number}")).await;
            assert!(freed < HANG, "{state}: waiters were kept for {freed:?}");
        }
        a.left(state, 500).await;
        becomes(&format!("{state}: quiet, but {:?}", a.gate.stats().fetches_in_flight), || a.is_quiet()).await;
        if state != "hung" {
            assert!(a.get(&format!("/body/{state}0")).await, "who left cancelled nothing");
            assert!(b.get(&format!("/body/{state}0")).await, "nor for the fleet");
        }
    }
    for node in [a, b] {
        node.gate.shutdown().await;
    }
    becomes("after all", || tasks() <= baseline).await;
}
