//! What is logged while a fleet's Redis is away: one line each way in ten seconds, however often it comes and goes.
//!
//! A binary of its own: `tracing` remembers what other threads' subscribers wanted.

#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and guards against hanging")]

#[path = "support/gate.rs"]
mod gate;
#[path = "support/redis.rs"]
mod redis;

use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gate::{BACK, Gate};
use redis::{RedisServer, wanted};
use tollgate::limit::{Limit, Quota};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::SubscriberExt;

/// Every line this crate logs: its fields and its message.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, "{field}={value:?} ");
            }
        }
        if event.metadata().target() == "tollgate" {
            let mut line = Line(String::new());
            event.record(&mut line);
            self.0.lock().expect("not poisoned").push(line.0);
        }
    }
}

impl Lines {
    /// How many lines say this of each store.
    fn of_each(&self, what: &str) -> [usize; 2] {
        let lines = self.0.lock().expect("not poisoned");
        ["redis limits", "redis cache"].map(|store| {
            let of_it = |line: &&String| line.contains(&format!("store=\"{store}\"")) && line.contains(what);
            lines.iter().filter(of_it).count()
        })
    }
}

fn node(url: &str) -> Gate {
    Gate::with(url, |builder| builder.limit(Limit::per_ip(Quota::per_hour(1_000_000))))
}

/// Sends requests until both stores are as wanted.
async fn until(node: &Gate, up: bool) {
    let since = Instant::now();
    let mut number = 0;
    loop {
        let remote = node.gate.stats().remote.expect("limits in Redis");
        if node.level().up == up && remote.up == up {
            return;
        }
        assert!(since.elapsed() < 2 * BACK, "not {up} yet: {:?} {remote:?}", node.level());
        number += 1;
        node.get(&format!("/{}/{number}", since.elapsed().as_nanos())).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Turns the runtime's clock.
async fn advance(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

#[tokio::test]
async fn each_store_is_logged_once_in_ten_seconds_each_way() {
    if !wanted() {
        return;
    }
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));

    // A wrong password: thousands of requests and a minute of attempts are one line.
    let server = RedisServer::with_password("right");
    let wrong = node(&server.url().replace("right", "wrong"));
    for round in 0..3 {
        wrong.load(&format!("wrong{round}"), 1_000, 100).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        advance(Duration::from_secs(20)).await;
    }
    until(&wrong, false).await;
    assert_eq!(lines.of_each("store down"), [1, 1], "{:?}", lines.0);
    assert!(server.info("total_connections_received") > 4);
    drop((wrong, server));
    lines.0.lock().expect("not poisoned").clear();

    // A server that comes and goes: the hook hears of each time, the log of one in ten seconds.
    let server = RedisServer::start();
    let node = node(&server.url());
    until(&node, true).await;
    let since = Instant::now();
    for spell in 1..=2 {
        for _ in 0..3 {
            server.kill();
            until(&node, false).await;
            server.restart();
            until(&node, true).await;
        }
        assert_eq!((lines.of_each("store down"), lines.of_each("store up again")), ([spell; 2], [spell; 2]));
        advance(Duration::from_secs(11)).await;
        until(&node, true).await;
    }
    assert!(since.elapsed() < Duration::from_secs(10), "more lines would have been right: {:?}", since.elapsed());
    assert_eq!(node.events().len(), 24, "two stores, six times, each way");
}
