//! Nodes of a fleet that share their limits.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "each test uses its part, and may fail"
)]

use std::convert::Infallible;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tollgate::identity::KeyHash;
use tollgate::limit::{Check, Limit, LimitStore, Quota, RateLimitBuilder, RateLimitLayer, RateLimitStats};
use tollgate::store::RemoteLimits;
use tollgate::store::redis::Redis;
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt};

use crate::support::{Inner, Req, Res, from};

pub const SECRET: &str = "the same on every node";

/// One process's worth of layers.
#[derive(Clone)]
pub struct Node {
    service: Arc<Mutex<BoxCloneService<Req, Res, Infallible>>>,
    pub layer: RateLimitLayer,
    pub store: RemoteLimits,
    pub events: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// A node under one limit per address.
    pub fn new(redis: &Redis, quota: Quota) -> Self {
        Self::with(redis, |builder| builder.limit(Limit::per_ip(quota)))
    }

    pub fn with(redis: &Redis, set: impl FnOnce(RateLimitBuilder) -> RateLimitBuilder) -> Self {
        Self::over(RemoteLimits::redis(redis).expect("settings"), set)
    }

    /// A node whose limits are kept there.
    pub fn over(store: RemoteLimits, set: impl FnOnce(RateLimitBuilder) -> RateLimitBuilder) -> Self {
        let events: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = events.clone();
        let builder = RateLimitLayer::builder().store(Arc::new(store.clone())).hook(move |event| {
            let text = format!("{event:?}");
            told.lock().expect("not poisoned").push(text.split([' ', '{']).next().unwrap_or_default().to_owned());
        });
        let layer = set(builder).build().expect("a layer");
        let service = BoxCloneService::new(layer.layer(Inner(Arc::new(AtomicUsize::new(0)))));
        Self { service: Arc::new(Mutex::new(service)), layer, store, events }
    }

    pub async fn send(&self, request: Req) -> Res {
        let service = self.service.lock().expect("not poisoned").clone();
        service.oneshot(request).await.expect("infallible")
    }

    /// How many of `n` requests from that address are admitted, one after the other. Nothing but 200 and 429 may come.
    pub async fn admitted(&self, n: usize, ip: &str) -> usize {
        let mut admitted = 0;
        for _ in 0..n {
            let status = self.send(from(ip, "/")).await.status().as_u16();
            assert!(status == 200 || status == 429, "{status}");
            admitted += usize::from(status == 200);
        }
        admitted
    }

    /// Waits until decisions are made with the store.
    pub async fn up(&self) {
        self.until("the store is asked", |node| node.store.remote().is_some_and(|remote| remote.up)).await;
    }

    /// Waits until decisions are made without it.
    pub async fn down(&self) {
        self.until("the store is missed", |node| node.store.remote().is_some_and(|remote| !remote.up)).await;
    }

    pub async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let since = Instant::now();
        while !done(self) {
            assert!(since.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
            // Reconnection begins with a call; a probe is one.
            let key = KeyHash::from_bits(1);
            let probe = Check::new(key, Quota::per_hour(1)).in_fleet(key);
            drop(self.store.peek(&[probe], tollgate::Timestamp::ZERO).await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub fn stats(&self) -> RateLimitStats {
        self.layer.stats()
    }

    /// Decisions made with the store, and commands it took.
    pub fn commands(&self) -> (u64, u64) {
        let remote = self.stats().remote.expect("a remote store");
        (remote.decisions, remote.commands)
    }

    pub fn heard(&self, event: &str) -> usize {
        self.events.lock().expect("not poisoned").iter().filter(|heard| *heard == event).count()
    }
}

/// A Redis whose fleet has its secret configured.
pub fn redis(url: &str) -> Redis {
    Redis::new(url).expect("a URL").secret(SECRET).limit_deadline(Duration::from_millis(250))
}

const ROLE: &str = "TOLLGATE_TEST_NODE";
const PROCESSES: usize = 8;

/// What this process shall share, if it is one of [`eight_processes`].
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs this program's test `one_process_of_the_fleet` in eight processes at once, with this role; returns how many requests
/// they admitted together. Each prints `admitted=` and a number.
pub fn eight_processes(role: &str) -> usize {
    let program = std::env::current_exe().expect("this program");
    let start = |_| {
        let mut node = Command::new(&program);
        node.args(["one_process_of_the_fleet", "--exact", "--nocapture"]);
        node.env(ROLE, role).stdout(Stdio::piped());
        node.spawn().expect("a process")
    };
    let nodes: Vec<_> = (0..PROCESSES).map(start).collect();
    let admitted = nodes.into_iter().map(|node| {
        let output = node.wait_with_output().expect("its output");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        let count = text.split("admitted=").nth(1).and_then(|rest| rest.split_whitespace().next());
        count.expect("a count").parse::<usize>().expect("a number")
    });
    admitted.sum()
}
