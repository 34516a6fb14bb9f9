//! Random operations over random stacks of levels against a model: two processes, restarts, time, invalidations, faults.
//!
//! Held at every answer:
//! 1. it is a body of the key that was asked for, whole;
//! 2. it was not fetched before an invalidation of the key that was acknowledged before the request, by any process, nor
//!    before one that this process was asked for, acknowledged or not;
//! 3. it is not older than its life;
//! 4. no request fails.
//!
//! `TOLLGATE_MODEL_CASES=1000 cargo test --release --test levels_model` runs a thousand stacks.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/directory.rs"]
mod directory;
#[path = "support/faulty_bytes.rs"]
mod faulty_bytes;
#[path = "support/memcached.rs"]
mod memcached;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/redis.rs"]
mod redis;
#[path = "support/cache_world.rs"]
mod world;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use directory::TestDirectory;
use faulty_bytes::{Fault, FaultyBytes};
use proptest::prelude::*;
use tollgate::cache::CacheBuilder;
use tollgate::store::file::FileLevel;
use tollgate::store::{RemoteSettings, RemoteStore};
use tollgate::testing::MemoryBytes;
use tollgate::{Clock, ManualClock};
use world::{World, reply};

const LIFE: u64 = 60;
const KEYS: u8 = 4;
const LEVEL_NAMES: [&str; 3] = ["first", "second", "third"];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    Logged,
    Directory,
}

#[derive(Clone, Copy, Debug)]
enum Scope {
    Key(u8),
    Tag(u8),
    Prefix,
    Soft(u8),
}

#[derive(Clone, Debug)]
enum Step {
    Ask { process: usize, key: u8 },
    Invalidate { process: usize, scope: Scope },
    Turn(u64),
    Restart(usize),
    Break { level: usize, fault: Fault },
}

fn step() -> impl Strategy<Value = Step> {
    let scope = prop_oneof![
        2 => (0..KEYS).prop_map(Scope::Key),
        2 => (0..2_u8).prop_map(Scope::Tag),
        1 => Just(Scope::Prefix),
        1 => (0..2_u8).prop_map(Scope::Soft),
    ];
    let fault = prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::Refuse),
        1 => Just(Fault::Hang),
        1 => Just(Fault::Garble),
        1 => Just(Fault::Swap),
    ];
    prop_oneof![
        14 => (0..2_usize, 0..KEYS).prop_map(|(process, key)| Step::Ask { process, key }),
        4 => (0..2_usize, scope).prop_map(|(process, scope)| Step::Invalidate { process, scope }),
        1 => (1..40_u64).prop_map(Step::Turn),
        2 => (0..2_usize).prop_map(Step::Restart),
        2 => (0..3_usize, fault).prop_map(|(level, fault)| Step::Break { level, fault }),
    ]
}

fn kinds() -> impl Strategy<Value = Vec<Kind>> {
    let kind = prop_oneof![3 => Just(Kind::Plain), 3 => Just(Kind::Logged), 1 => Just(Kind::Directory)];
    // One directory serves one level.
    proptest::collection::vec(kind, 1..=3)
        .prop_filter("one directory", |kinds| kinds.iter().filter(|kind| matches!(kind, Kind::Directory)).count() <= 1)
}

/// What processes have in common.
struct Fleet {
    servers: Vec<Server>,
    clock: ManualClock,
    origin: Arc<Mutex<Origin>>,
}

enum Server {
    Bytes(FaultyBytes),
    Directory(TestDirectory),
}

/// Fetches, in order: when each was answered.
#[derive(Default)]
struct Origin(Vec<u64>);

impl Fleet {
    fn new(kinds: &[Kind]) -> Self {
        let clock = ManualClock::new();
        let server = |kind: &Kind| match kind {
            Kind::Plain => Server::Bytes(FaultyBytes::over(MemoryBytes::new(), clock.clone())),
            Kind::Logged => Server::Bytes(FaultyBytes::over(MemoryBytes::with_log(), clock.clone())),
            Kind::Directory => Server::Directory(TestDirectory::new()),
        };
        Self { servers: kinds.iter().map(server).collect(), clock: clock.clone(), origin: Arc::default() }
    }

    fn now(&self) -> u64 {
        now(&self.clock)
    }

    fn start(&self) -> World {
        let stack = |mut builder: CacheBuilder| {
            builder = builder.memory(1 << 20).clock(Clock::Manual(self.clock.clone()));
            for (server, name) in self.servers.iter().zip(LEVEL_NAMES) {
                let settings = RemoteSettings::new(name).secret("the same on every node");
                builder = builder.level_2(Arc::new(match server {
                    Server::Bytes(bytes) => {
                        RemoteStore::new(bytes.clone(), settings.deadline(Duration::from_millis(20))).expect("settings")
                    }
                    Server::Directory(directory) => {
                        let clock = Clock::Manual(self.clock.clone());
                        let level = FileLevel::new(directory.path(), directory::BOUND).clock(clock);
                        RemoteStore::file(level).expect("settings")
                    }
                }));
            }
            builder
        };
        process(stack, self.origin.clone(), self.clock.clone())
    }
}

fn now(clock: &ManualClock) -> u64 {
    let wall = Clock::Manual(clock.clone()).wall();
    wall.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// A process whose service answers with the key and the number of the fetch.
fn process(set: impl FnOnce(CacheBuilder) -> CacheBuilder, origin: Arc<Mutex<Origin>>, clock: ManualClock) -> World {
    World::with(set, move |asked| {
        let mut origin = origin.lock().expect("not poisoned");
        origin.0.push(now(&clock));
        let key: u8 = asked.path.rsplit('/').next().and_then(|key| key.parse().ok()).expect("a key");
        let tag = format!("tag-{}", key % 2);
        let life = format!("max-age={LIFE}");
        let answer = reply(&[("cache-control", &life), ("cache-tag", &tag)], format!("{key} {}", origin.0.len() - 1));
        async move { Ok(answer) }
    })
}

/// What may be answered: by key, the first fetch that is new enough.
#[derive(Default)]
struct Model {
    acknowledged: HashMap<u8, usize>,
    /// The same, in each process: also what was not acknowledged.
    own: [HashMap<u8, usize>; 2],
}

impl Model {
    fn invalidate(floors: &mut HashMap<u8, usize>, scope: Scope, next: usize) {
        let concerned = (0..KEYS).filter(|key| match scope {
            Scope::Key(one) => *key == one,
            Scope::Tag(tag) | Scope::Soft(tag) => key % 2 == tag,
            Scope::Prefix => true,
        });
        concerned.for_each(|key| _ = floors.insert(key, next));
    }

    fn check(&self, process: usize, key: u8, body: &str, origin: &Origin, now: u64) {
        let (said, fetch) = body.split_once(' ').expect("a whole body");
        assert_eq!(said, key.to_string(), "the body of another key");
        let fetch: usize = fetch.parse().expect("a whole body");
        let floor = |floors: &HashMap<u8, usize>| floors.get(&key).copied().unwrap_or(0);
        assert!(
            fetch >= floor(&self.acknowledged),
            "acknowledged: {body:?} was fetched before {}",
            floor(&self.acknowledged)
        );
        assert!(
            fetch >= floor(&self.own[process]),
            "its own: {body:?} was fetched before {}",
            floor(&self.own[process])
        );
        assert!(now < origin.0[fetch] + LIFE * 1_000, "{body:?} is {} ms old", now - origin.0[fetch]);
    }
}

async fn invalidate(process: &World, scope: Scope) -> bool {
    let handle = process.layer.invalidate();
    match scope {
        Scope::Key(key) => handle.key(&format!("http://example.com/k/{key}")).await,
        Scope::Tag(tag) => handle.tag(&format!("tag-{tag}")).await,
        Scope::Prefix => handle.prefix("http://example.com/k/").await,
        Scope::Soft(tag) => handle.soft().tag(&format!("tag-{tag}")).await,
    }
    .is_ok()
}

fn received(process: &World) -> u64 {
    process.stats().levels.iter().map(|level| level.invalidations_received).max().unwrap_or(0)
}

/// Waits until the other process has what this one was acknowledged.
async fn deliver(from: &World, to: &World) {
    let number = received(from);
    for _ in 0..2_000 {
        if received(to) >= number {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 10 s: {number} is delivered: {:?}", to.stats().levels);
}

/// Gives a process that starts the time to read the log.
async fn settle(process: &World) {
    for _ in 0..20 {
        if process.stats().levels.iter().all(|level| level.up) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn run(kinds: &[Kind], steps: Vec<Step>) {
    let (fleet, mut model) = (Fleet::new(kinds), Model::default());
    // A journal of a directory is read by the process that holds its lock: a second one is told when it takes over.
    let shared = kinds.iter().any(|kind| matches!(kind, Kind::Logged))
        || !kinds.iter().any(|kind| matches!(kind, Kind::Directory));
    let count = if shared { 2 } else { 1 };
    let mut processes: Vec<World> = (0..count).map(|_| fleet.start()).collect();
    for process in &processes {
        settle(process).await;
    }
    for step in steps {
        // Without a log, positions are microseconds of the calendar.
        fleet.clock.advance(Duration::from_millis(1));
        match step {
            Step::Ask { process, key } => {
                let process = process % count;
                let answer = processes[process].get(&format!("/k/{key}")).await;
                assert_eq!(answer.status, 200);
                let origin = fleet.origin.lock().expect("not poisoned");
                model.check(process, key, &answer.body, &origin, fleet.now());
            }
            Step::Invalidate { process, scope } => {
                let process = process % count;
                let acknowledged = invalidate(&processes[process], scope).await;
                let next = fleet.origin.lock().expect("not poisoned").0.len();
                Model::invalidate(&mut model.own[process], scope, next);
                if acknowledged {
                    Model::invalidate(&mut model.acknowledged, scope, next);
                    if count == 2 {
                        deliver(&processes[process], &processes[1 - process]).await;
                    }
                }
            }
            Step::Turn(seconds) => fleet.clock.advance(Duration::from_secs(seconds)),
            Step::Restart(process) => {
                let process = process % count;
                processes.remove(process);
                model.own[process].clear();
                for server in &fleet.servers {
                    if let (Server::Directory(directory), 1) = (server, count) {
                        directory.released().await;
                    }
                }
                processes.insert(process, fleet.start());
                settle(&processes[process]).await;
            }
            Step::Break { level, fault } => {
                if let Some(Server::Bytes(bytes)) = fleet.servers.get(level) {
                    bytes.set(fault);
                }
            }
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn cases() -> u32 {
    std::env::var("TOLLGATE_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 60, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn no_stack_answers_what_it_must_not(kinds in kinds(), steps in proptest::collection::vec(step(), 1..60)) {
        runtime().block_on(run(&kinds, steps));
    }
}

/// The same over real servers, started once: memcached, Redis and PostgreSQL behind memory.
#[test]
fn nor_do_real_servers() {
    if !(postgres::wanted() && redis::wanted() && memcached::wanted()) {
        return;
    }
    let (cached, redis, database) =
        (memcached::Memcached::start(), redis::RedisServer::start(), postgres::Postgres::start());
    let start = |origin: &Arc<Mutex<Origin>>, clock: &ManualClock| {
        let servers = tollgate::store::memcached::Memcached::new([cached.address()]).secret("the same on every node");
        let set = |builder: CacheBuilder| {
            let builder = builder.memory(1 << 20).clock(Clock::System);
            builder.memcached(servers).redis(redis.url().as_str()).postgres(database.url().as_str())
        };
        process(set, origin.clone(), clock.clone())
    };
    let mut random = random_numbers(7);
    runtime().block_on(async {
        let (clock, origin, mut model) = (ManualClock::new(), Arc::<Mutex<Origin>>::default(), Model::default());
        let mut processes = [start(&origin, &clock), start(&origin, &clock)];
        for process in &processes {
            wait_until_up(process).await;
        }
        for _ in 0..600 {
            let (which, key) = (random(2), u8::try_from(random(u64::from(KEYS))).expect("small"));
            let which = usize::try_from(which).expect("small");
            match random(20) {
                0..14 => {
                    let answer = processes[which].get(&format!("/k/{key}")).await;
                    let origin = origin.lock().expect("not poisoned");
                    model.check(which, key, &answer.body, &origin, now(&clock));
                }
                14..18 => {
                    let scope =
                        [Scope::Key(key), Scope::Tag(key % 2), Scope::Prefix, Scope::Soft(key % 2)][random(4) as usize];
                    let acknowledged = invalidate(&processes[which], scope).await;
                    let next = origin.lock().expect("not poisoned").0.len();
                    Model::invalidate(&mut model.own[which], scope, next);
                    if acknowledged {
                        Model::invalidate(&mut model.acknowledged, scope, next);
                        deliver(&processes[which], &processes[1 - which]).await;
                    }
                }
                18 => {
                    processes[which] = start(&origin, &clock);
                    model.own[which].clear();
                    wait_until_up(&processes[which]).await;
                }
                _ => {
                    redis.cli(&["FLUSHALL"]);
                }
            }
        }
        let hits = |name: &str| {
            processes
                .iter()
                .flat_map(|world| world.stats().levels)
                .filter(|level| level.name == name)
                .map(|level| level.hits)
                .sum::<u64>()
        };
        assert!(hits("memcached") > 0, "the levels were used");
    });
}

async fn wait_until_up(process: &World) {
    for _ in 0..2_000 {
        if process.stats().levels.iter().all(|level| level.up) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 10 s: {:?}", process.stats().levels);
}

/// Reproducible random numbers below a bound.
fn random_numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |bound| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    }
}
