//! Several levels behind the memory of one cache: asked in the order of the calls, validated by one log.
#![expect(clippy::panic, clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and measures")]

#[path = "support/cache_world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tollgate::cache::{ByteStore, LevelStats};
use tollgate::store::{RemoteSettings, RemoteStore};
use tollgate::testing::MemoryBytes;
use tollgate::{Clock, ManualClock};
use world::{World, reply};

const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("cache-tag", "prices")];

/// The servers of a fleet: two in front without a log, and one with.
#[derive(Clone)]
struct Servers {
    front: MemoryBytes,
    back: MemoryBytes,
}

impl Servers {
    fn new() -> Self {
        Self { front: MemoryBytes::new(), back: MemoryBytes::with_log() }
    }
}

fn store(name: &'static str, bytes: impl ByteStore) -> Arc<RemoteStore> {
    let settings = RemoteSettings::new(name).secret("the same on every node");
    Arc::new(RemoteStore::new(bytes, settings).expect("settings"))
}

/// A node whose memory has both servers behind it; answers are numbered over all nodes of a test.
fn node(servers: &Servers, clock: &ManualClock) -> World {
    node_with(store("front", servers.front.clone()), store("back", servers.back.clone()), clock)
}

fn node_with(front: Arc<RemoteStore>, back: Arc<RemoteStore>, clock: &ManualClock) -> World {
    static NODES: AtomicUsize = AtomicUsize::new(0);
    let (clock, node) = (clock.clone(), NODES.fetch_add(1, Ordering::SeqCst));
    World::with(
        |builder| builder.clock(Clock::Manual(clock)).level_2(front).level_2(back),
        move |asked| async move { Ok(reply(MINUTE, format!("answer {} of node {node}", asked.call))) },
    )
}

/// Waits, in real time, until something that a task does has happened.
async fn becomes(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if happened().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 5 s: {what}");
}

async fn ready(world: &World) {
    becomes("all levels are up", async || world.stats().levels.iter().all(|level| level.up)).await;
}

fn level(world: &World, at: usize) -> LevelStats {
    world.stats().levels.swap_remove(at)
}

#[tokio::test]
async fn levels_are_asked_in_the_order_of_the_calls_and_filled_from_behind() {
    let (servers, clock) = (Servers::new(), ManualClock::new());
    let one = node(&servers, &clock);
    ready(&one).await;
    let names: Vec<String> = one.stats().levels.into_iter().map(|level| level.name).collect();
    assert_eq!(names, ["memory", "front", "back"]);
    let first = one.get("/a").await.body;
    becomes("it is in both", async || !servers.front.names().is_empty() && !servers.back.names().is_empty()).await;
    // The level in front answers: the one behind is not asked.
    let two = node(&servers, &clock);
    ready(&two).await;
    let shared = two.get("/a").await;
    assert!(shared.is_hit() && shared.body == first);
    assert_eq!((level(&two, 1).hits, level(&two, 2).hits, level(&two, 2).misses), (1, 0, 0));
    // It lost everything: the one behind answers, and fills it again.
    servers.front.clear();
    let three = node(&servers, &clock);
    ready(&three).await;
    assert_eq!(three.get("/a").await.body, first);
    assert_eq!((level(&three, 1).misses, level(&three, 2).hits), (1, 1));
    becomes("it is filled again", async || !servers.front.names().is_empty()).await;
    let four = node(&servers, &clock);
    ready(&four).await;
    assert!(four.get("/a").await.body == first && level(&four, 1).hits == 1);
}

#[tokio::test]
async fn one_log_invalidates_all_levels_also_one_that_has_none() {
    let (servers, clock) = (Servers::new(), ManualClock::new());
    let (one, two) = (node(&servers, &clock), node(&servers, &clock));
    ready(&one).await;
    ready(&two).await;
    let first = one.get("/a").await.body;
    becomes("it is in both", async || !servers.front.names().is_empty() && !servers.back.names().is_empty()).await;
    assert_eq!(two.get("/a").await.body, first);
    one.layer.invalidate().tag("prices").await.expect("the log of the level behind has it");
    becomes("the other node has it", async || !two.get("/a").await.is_hit()).await;
    // Neither server's copy comes back, not even to a process that starts now.
    let three = node(&servers, &clock);
    ready(&three).await;
    assert_ne!(three.get("/a").await.body, first);
}

#[tokio::test]
async fn a_soft_purge_makes_entries_of_a_level_without_a_log_stale() {
    let (servers, clock) = (Servers::new(), ManualClock::new());
    let one = node(&servers, &clock);
    ready(&one).await;
    one.get("/a").await;
    becomes("it is stored", async || !servers.front.names().is_empty()).await;
    one.layer.invalidate().soft().tag("prices").await.expect("logged");
    // Only the level without a log still has it.
    for name in servers.back.names() {
        servers.back.remove(vec![name]).await.expect("removed");
    }
    // By a clock that goes on, as it does between the request and the answer of the server.
    let (front, back) = (store("front", servers.front.clone()), store("back", servers.back.clone()));
    let two = World::with(
        |builder| builder.clock(Clock::System).level_2(front).level_2(back),
        async |_| Ok(reply(MINUTE, "revalidated")),
    );
    ready(&two).await;
    assert_eq!(two.get("/a").await.body, "revalidated");
    assert_eq!(level(&two, 1).hits, 1, "the entry is there to be revalidated");
}

#[tokio::test]
async fn a_removal_reaches_every_level() {
    let (servers, clock) = (Servers::new(), ManualClock::new());
    let one = node(&servers, &clock);
    ready(&one).await;
    one.get("/a").await;
    becomes("it is in both", async || !servers.front.names().is_empty() && !servers.back.names().is_empty()).await;
    one.layer.invalidate().key("http://example.com/a").await.expect("logged");
    becomes("it is in neither", async || servers.front.names().is_empty() && servers.back.names().is_empty()).await;
}

#[tokio::test]
async fn an_entry_that_another_log_numbered_is_a_miss() {
    let (servers, clock) = (Servers::new(), ManualClock::new());
    let one = node(&servers, &clock);
    ready(&one).await;
    let first = one.get("/a").await.body;
    becomes("it is stored", async || !servers.front.names().is_empty()).await;
    // The same server in front of another log, with the same secret for names.
    let other = Servers { front: servers.front.clone(), back: MemoryBytes::with_log() };
    let stranger = node(&other, &clock);
    ready(&stranger).await;
    assert_ne!(stranger.get("/a").await.body, first);
    assert_eq!(level(&stranger, 1).decode_errors, 1);
}

#[tokio::test]
async fn a_level_that_fails_is_a_miss_and_the_others_answer() {
    let (servers, clock) = (Servers::new(), ManualClock::new());
    let one = node(&servers, &clock);
    ready(&one).await;
    let first = one.get("/a").await.body;
    becomes("it is stored", async || !servers.back.names().is_empty()).await;
    for fault in [Fault::Refuse, Fault::Hang] {
        let front = store("front", Broken(fault));
        let two = node_with(front, store("back", servers.back.clone()), &clock);
        becomes("the level behind is up", async || level(&two, 2).up).await;
        let began = std::time::Instant::now();
        let answer = two.get("/a").await;
        assert!(began.elapsed() < Duration::from_millis(500));
        match fault {
            Fault::Refuse => assert_eq!(answer.body, first),
            // It has used up the deadline that all levels share.
            Fault::Hang => assert_eq!(answer.status, 200),
        }
        becomes("its breaker opens", async || {
            two.get("/b").await;
            two.get(&format!("/{}", level(&two, 1).errors)).await;
            level(&two, 1).errors >= 6
        })
        .await;
        assert_eq!(two.get("/a").await.status, 200);
    }
}

#[tokio::test]
async fn of_two_fetches_the_later_one_stays_also_where_a_level_lost_it() {
    let servers = Servers::new();
    let (front, back) = (store("front", servers.front.clone()), store("back", servers.back.clone()));
    let gate = Arc::new(tokio::sync::Notify::new());
    let held = gate.clone();
    let slow = World::with(
        |builder| builder.clock(Clock::System).level_2(front).level_2(back),
        move |_| {
            let held = held.clone();
            async move {
                held.notified().await;
                Ok(reply(MINUTE, "older"))
            }
        },
    );
    let (front, back) = (store("front", servers.front.clone()), store("back", servers.back.clone()));
    let quick = World::with(
        |builder| builder.clock(Clock::System).level_2(front).level_2(back),
        async |_| Ok(reply(MINUTE, "newer")),
    );
    ready(&slow).await;
    ready(&quick).await;
    let older = async { slow.get("/a").await.body };
    let newer = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(quick.get("/a").await.body, "newer");
        becomes("it is in both", async || !servers.front.names().is_empty() && !servers.back.names().is_empty()).await;
        servers.back.remove(servers.back.names()).await.expect("removed");
        gate.notify_one();
    };
    assert_eq!(tokio::join!(older, newer).0, "older");
    // The level that has the newer one refuses the older one, which then leaves the other level too.
    becomes("it is refused", async || level(&slow, 1).superseded == 1).await;
    becomes("nothing older remains", async || servers.back.names().is_empty()).await;
    assert_eq!(slow.get("/a").await.body, "newer");
}

#[tokio::test]
async fn each_level_keeps_entries_for_its_own_time_at_most() {
    let (servers, clock) = (Servers::new(), ManualClock::new());
    let capped = |name, bytes, span| {
        let settings = RemoteSettings::new(name).secret("the same on every node").max_ttl(span);
        Arc::new(RemoteStore::new(bytes, settings).expect("settings"))
    };
    let lives = (Recorder::over(servers.front.clone()), Recorder::over(servers.back.clone()));
    let (front, back) = (
        capped("front", lives.0.clone(), Duration::from_secs(10)),
        capped("back", lives.1.clone(), Duration::from_secs(3_600)),
    );
    let one = node_with(front, back, &clock);
    ready(&one).await;
    one.get("/a").await;
    becomes("it is in both", async || lives.0.last().is_some() && lives.1.last().is_some()).await;
    let retained = lives.1.last().expect("stored");
    assert_eq!(lives.0.last(), Some(Duration::from_secs(10)));
    assert!(retained > Duration::from_secs(10) && retained <= Duration::from_secs(3_600), "{retained:?}");
    // A copy from behind lives for the rest of its life: what the server's clock leaves of it.
    servers.front.clear();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let settings = || RemoteSettings::new("front").secret("the same on every node");
    let wide = Recorder::over(servers.front.clone());
    let two = node_with(
        Arc::new(RemoteStore::new(wide.clone(), settings()).expect("settings")),
        store("back", servers.back.clone()),
        &clock,
    );
    ready(&two).await;
    assert!(two.get("/a").await.is_hit());
    becomes("it is copied", async || wide.last().is_some()).await;
    let left = wide.last().expect("copied");
    assert!(left < retained && left + Duration::from_secs(5) > retained, "{left:?} of {retained:?}");
}

#[test]
fn a_life_of_nothing_is_an_error() {
    let settings = RemoteSettings::new("kv").max_ttl(Duration::ZERO);
    let error = RemoteStore::new(MemoryBytes::with_log(), settings).expect_err("refused").to_string();
    assert!(error.contains("max_ttl"), "{error}");
}

#[tokio::test]
async fn each_level_reports_its_own_figures() {
    let (servers, clock) = (Servers::new(), ManualClock::new());
    let one = node(&servers, &clock);
    ready(&one).await;
    for n in 0..8 {
        one.get(&format!("/{n}")).await;
    }
    let stats = one.stats().levels;
    assert!(stats[0].misses >= 8 && stats[1].misses >= 8 && stats[2].misses >= 8, "{stats:?}");
    assert!(stats[1].lookup_p50.is_some() && stats[2].lookup_p99 >= stats[2].lookup_p50, "{stats:?}");
    let json = serde_json::to_value(&stats[1]).expect("JSON");
    assert_eq!(json["name"], "front");
    for field in ["hits_total", "misses_total", "errors_total", "lookup_p50_ms", "lookup_p99_ms", "capacity_bytes"] {
        assert!(json[field].is_number(), "{field}: {json}");
    }
}

#[derive(Clone, Copy)]
enum Fault {
    Refuse,
    Hang,
}

/// A server that fails.
struct Broken(Fault);

impl Broken {
    fn fail<T: Send + 'static>(&self) -> tollgate::BoxFuture<Result<T, tollgate::Error>> {
        match self.0 {
            Fault::Refuse => Box::pin(async { Err(tollgate::Error::store("refused", "a fault")) }),
            Fault::Hang => Box::pin(std::future::pending()),
        }
    }
}

impl ByteStore for Broken {
    fn get_many(&self, _: Vec<String>) -> tollgate::BoxFuture<Result<Vec<Option<Bytes>>, tollgate::Error>> {
        self.fail()
    }

    fn put(&self, _: String, _: Bytes, _: Duration) -> tollgate::BoxFuture<Result<bool, tollgate::Error>> {
        self.fail()
    }

    fn remove(&self, _: Vec<String>) -> tollgate::BoxFuture<Result<u64, tollgate::Error>> {
        self.fail()
    }
}

/// A server that remembers for how long it was asked to keep the last value.
#[derive(Clone)]
struct Recorder {
    bytes: MemoryBytes,
    last: Arc<std::sync::Mutex<Option<Duration>>>,
}

impl Recorder {
    fn over(bytes: MemoryBytes) -> Self {
        Self { bytes, last: Arc::default() }
    }

    fn last(&self) -> Option<Duration> {
        *self.last.lock().expect("not poisoned")
    }
}

impl ByteStore for Recorder {
    fn get_many(&self, names: Vec<String>) -> tollgate::BoxFuture<Result<Vec<Option<Bytes>>, tollgate::Error>> {
        self.bytes.get_many(names)
    }

    fn put(&self, name: String, value: Bytes, ttl: Duration) -> tollgate::BoxFuture<Result<bool, tollgate::Error>> {
        *self.last.lock().expect("not poisoned") = Some(ttl);
        self.bytes.put(name, value, ttl)
    }

    fn remove(&self, names: Vec<String>) -> tollgate::BoxFuture<Result<u64, tollgate::Error>> {
        self.bytes.remove(names)
    }

    fn log(&self) -> Option<&dyn tollgate::cache::ByteLog> {
        self.bytes.log()
    }
}
