//! One fetch per fleet for missing responses, where a rule asks for it: what the others wait for, how long, and what it costs.
#![expect(clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test may fail, and measures")]

#[path = "support/cache_world.rs"]
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tollgate::cache::{ByteLog, ByteStore, CacheLayer, GetOrClaim, Lease, LeaseState, Rule, Rules, ScanPage};
use tollgate::store::{RemoteSettings, RemoteStore};
use tollgate::testing::MemoryBytes;
use tollgate::{Clock, Error, ManualClock};
use world::{Asked, Fault, Reply, World, reply};

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Calls of a server, by method.
#[derive(Clone)]
struct Counted {
    bytes: MemoryBytes,
    calls: Arc<Mutex<Vec<&'static str>>>,
    fails: bool,
    /// Whether each lease is held by a process that is gone.
    dead_holder: bool,
}

impl Counted {
    fn new() -> Self {
        Self { bytes: MemoryBytes::with_log(), calls: Arc::default(), fails: false, dead_holder: false }
    }

    fn note(&self, call: &'static str) {
        self.calls.lock().expect("not poisoned").push(call);
    }

    fn taken(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.calls.lock().expect("not poisoned"))
    }
}

type Leased = Result<GetOrClaim<Bytes>, Error>;

impl ByteStore for Counted {
    fn get_many(&self, names: Vec<String>) -> BoxFuture<'static, Result<Vec<Option<Bytes>>, Error>> {
        self.note("get");
        self.bytes.get_many(names)
    }

    fn put(&self, name: String, value: Bytes, ttl: Duration) -> BoxFuture<'static, Result<bool, Error>> {
        self.note("put");
        self.bytes.put(name, value, ttl)
    }

    fn remove(&self, names: Vec<String>) -> BoxFuture<'static, Result<u64, Error>> {
        self.bytes.remove(names)
    }

    fn claim(&self, lease: Lease<String>) -> BoxFuture<'static, Result<LeaseState, Error>> {
        self.note("claim");
        self.bytes.claim(lease)
    }

    fn release(&self, lease: Lease<String>, uncacheable: Option<Duration>) -> BoxFuture<'static, Result<(), Error>> {
        self.note("release");
        self.bytes.release(lease, uncacheable)
    }

    fn get_or_claim(&self, name: String, lease: Lease<String>) -> BoxFuture<'static, Leased> {
        self.note("get or claim");
        if self.fails {
            return Box::pin(std::future::ready(Err(Error::store("the server is ill", "ill"))));
        }
        let dead = self.dead_holder.then(|| self.bytes.claim(Lease::new(lease.name.clone(), 0, lease.ttl)));
        let answer = self.bytes.get_or_claim(name, lease);
        Box::pin(async move {
            if let Some(dead) = dead {
                dead.await?;
            }
            answer.await
        })
    }

    fn scan(&self, prefix: String, cursor: Option<String>) -> BoxFuture<'static, Result<ScanPage, Error>> {
        self.bytes.scan(prefix, cursor)
    }

    fn log(&self) -> Option<&dyn ByteLog> {
        self.bytes.log()
    }
}

/// A service that all nodes share.
#[derive(Clone, Default)]
struct Service {
    calls: Arc<AtomicUsize>,
}

impl Service {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// A node of a fleet in front of it.
    async fn node(&self, server: &Counted, lease: Duration, answer: fn(usize) -> Result<Reply, Fault>) -> World {
        self.node_with(server, lease, millis(3_000), answer).await
    }

    async fn node_with(
        &self,
        server: &Counted,
        lease: Duration,
        wait: Duration,
        answer: fn(usize) -> Result<Reply, Fault>,
    ) -> World {
        let settings = RemoteSettings::new("shared").secret("the same on every node");
        let (store, calls) = (RemoteStore::new(server.clone(), settings).expect("settings"), self.calls.clone());
        let rules = Rules::new().otherwise(Rule::from_headers().lease_ttl(lease));
        let world = World::with(
            |builder| builder.clock(Clock::System).rules(rules).wait(wait).level_2(Arc::new(store)),
            move |_: Asked| {
                let calls = calls.clone();
                async move {
                    let call = calls.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(millis(300)).await;
                    answer(call)
                }
            },
        );
        becomes("the level is up", || world.stats().levels[1].up).await;
        server.taken();
        world
    }
}

async fn becomes(what: &str, happened: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if happened() {
            return;
        }
        tokio::time::sleep(millis(5)).await;
    }
    panic!("not within 5 s: {what}");
}

fn storable(call: usize) -> Result<Reply, Fault> {
    Ok(reply(&[("cache-control", "max-age=60")], call.to_string()))
}

#[tokio::test]
async fn a_fleet_fetches_what_is_missing_once_in_two_round_trips() {
    let (server, service) = (Counted::new(), Service::default());
    let one = service.node(&server, millis(3_000), storable).await;
    let two = service.node(&server, millis(3_000), storable).await;
    let first = tokio::spawn(one.clone().get_owned("/a".to_owned()));
    becomes("the first node fetches", || service.calls() == 1).await;
    let began = Instant::now();
    let second = two.get("/a").await;
    assert!(began.elapsed() >= millis(150), "it waited: {:?}", began.elapsed());
    assert_eq!((first.await.expect("no panic").body, second.body, service.calls()), ("0".into(), "0".into(), 1));
    server.taken();
    one.get("/b").await;
    becomes("the lease is released", || server.calls.lock().expect("not poisoned").contains(&"release")).await;
    assert_eq!(server.taken(), ["get or claim", "put", "release"], "one round trip before, and one after the fetch");
    assert!(two.get("/b").await.is_hit());
    assert_eq!(server.taken(), ["get or claim"], "what is there is not leased");
}

/// Those who wait with the one that waits for another node were given its variant.
#[tokio::test]
async fn what_another_node_has_stored_is_given_to_those_whose_variant_it_is() {
    let server = Counted::new();
    let rules = || Rules::new().otherwise(Rule::from_headers().lease_ttl(millis(3_000)));
    let node = || {
        let settings = RemoteSettings::new("shared").secret("the same on every node");
        let store = Arc::new(RemoteStore::new(server.clone(), settings).expect("settings"));
        World::with(
            |builder| builder.clock(Clock::System).rules(rules()).level_2(store),
            |asked: Asked| async move {
                tokio::time::sleep(millis(300)).await;
                let variant = asked.header("x-variant").expect("a variant").to_owned();
                Ok(reply(&[("cache-control", "max-age=60"), ("vary", "x-variant")], variant))
            },
        )
    };
    let (one, two) = (node(), node());
    becomes("the levels are up", || one.stats().levels[1].up && two.stats().levels[1].up).await;
    let ask = |node: &World, variant: &'static str| {
        let node = node.clone();
        tokio::spawn(async move { (variant, node.get_with("/a", &[("x-variant", variant)]).await.body) })
    };
    let first = ask(&one, "a");
    becomes("the first node fetches", || one.calls() == 1).await;
    let waiting = [ask(&two, "a"), ask(&two, "b"), ask(&two, "a"), ask(&two, "c"), ask(&two, "b")];
    for answer in futures_util::future::join_all(waiting.into_iter().chain([first])).await {
        let (variant, body) = answer.expect("no panic");
        assert_eq!(body, variant);
    }
    assert_eq!(two.calls(), 2, "one for each variant that the other node did not store");
}

#[tokio::test]
async fn what_cannot_be_stored_keeps_no_one_waiting_and_is_remembered() {
    let (server, service) = (Counted::new(), Service::default());
    let answer = |call: usize| Ok(reply(&[("cache-control", "no-store")], call.to_string()));
    let one = service.node(&server, millis(3_000), answer).await;
    let two = service.node(&server, millis(3_000), answer).await;
    one.get("/a").await;
    becomes("it is known", || server.calls.lock().expect("not poisoned").contains(&"release")).await;
    let began = Instant::now();
    let all = futures_util::future::join_all((0..5).map(|_| two.clone().get_owned("/a".to_owned()))).await;
    assert!(all.iter().all(|got| !got.is_hit()));
    assert!(began.elapsed() < millis(600), "the other node fetches at once, in parallel: {:?}", began.elapsed());
    assert_eq!(service.calls(), 6, "each its own");
}

#[tokio::test]
async fn a_failure_lets_the_next_node_try() {
    let (server, service) = (Counted::new(), Service::default());
    let answer = |call: usize| if call == 0 { Ok(reply(&[(":status", "503")], "down")) } else { storable(call) };
    let one = service.node(&server, millis(20_000), answer).await;
    let two = service.node(&server, millis(20_000), answer).await;
    let first = tokio::spawn(one.clone().get_owned("/a".to_owned()));
    becomes("the first node fetches", || service.calls() == 1).await;
    let began = Instant::now();
    assert_eq!(two.get("/a").await.body, "1");
    assert!(began.elapsed() < millis(1_500), "{:?}", began.elapsed());
    assert_eq!(first.await.expect("no panic").status, 503);
}

#[tokio::test]
async fn a_node_waits_no_longer_than_the_lease_and_than_wait() {
    for (lease, wait) in [(400, 3_000), (20_000, 400)] {
        let (mut server, service) = (Counted::new(), Service::default());
        server.dead_holder = true;
        let node = service.node_with(&server, millis(lease), millis(wait), storable).await;
        let began = Instant::now();
        assert_eq!(node.get("/a").await.body, "0");
        let took = began.elapsed();
        assert!(took >= millis(400 + 250) && took < millis(1_500), "lease {lease} ms, wait {wait} ms: {took:?}");
    }
}

#[tokio::test]
async fn a_store_that_fails_grants() {
    let (mut server, service) = (Counted::new(), Service::default());
    server.fails = true;
    let node = service.node(&server, millis(3_000), storable).await;
    let began = Instant::now();
    assert_eq!(node.get("/a").await.body, "0");
    assert!(began.elapsed() < millis(600), "{:?}", began.elapsed());
}

#[test]
fn a_lease_without_a_store_that_is_shared_is_a_mistake() {
    let rules = Rules::new().route("/a", Rule::ttl(millis(1_000)).lease_ttl(millis(1_000)));
    let clock = ManualClock::new();
    let built = CacheLayer::builder().rules(rules).clock(Clock::Manual(clock)).build();
    let message = built.expect_err("nobody to lease it from").to_string();
    assert!(message.contains("\"/a\": lease_ttl()"), "{message}");
}
