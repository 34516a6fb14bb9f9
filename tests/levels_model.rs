//! Random operations over random stacks of levels against a model: responses, some with leases or stale windows, and typed
//! values; two processes, restarts, time, invalidations, faults, and fetches that are held open and end in another order.
//!
//! Held at every answer:
//! 1. it is a body of the key that was asked for, whole;
//! 2. it was not fetched before an invalidation of the key that was acknowledged before the request, by any process, nor
//!    before one that this process was asked for, acknowledged or not;
//! 3. it is not older than its life, or its stale window;
//! 4. no request fails;
//! 5. it was not fetched before one that began later and that its process has seen in every level: order by start. Faults and
//!    invalidations, which other rules cover, end what is known of the order.
//!
//! `TOLLGATE_MODEL_CASES=1000 cargo test --release --test levels_model` runs a thousand stacks.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/directory.rs"]
mod directory;
#[path = "support/faulty_bytes.rs"]
mod faulty_bytes;
#[path = "support/held_fetches.rs"]
mod held_fetches;
#[path = "support/levels_run.rs"]
mod levels_run;
#[path = "support/memcached.rs"]
mod memcached;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/redis.rs"]
mod redis;
#[path = "support/cache_world.rs"]
mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use directory::TestDirectory;
use faulty_bytes::{Fault, FaultyBytes};
use levels_run::{ALL, KEYS, Origin, Process, Run, Scope, process, settle};
use proptest::prelude::*;
use tollgate::cache::CacheBuilder;
use tollgate::store::file::FileLevel;
use tollgate::store::{RemoteSettings, RemoteStore};
use tollgate::testing::MemoryBytes;
use tollgate::{Clock, ManualClock};

const LEVEL_NAMES: [&str; 3] = ["first", "second", "third"];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    Logged,
    Directory,
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        process: usize,
        key: u8,
    },
    /// Asks, and holds the fetch open.
    Begin {
        process: usize,
        key: u8,
    },
    /// Lets one of the held fetches end.
    Finish(usize),
    Invalidate {
        process: usize,
        scope: Scope,
    },
    Turn(u64),
    Restart(usize),
    Break {
        level: usize,
        fault: Fault,
    },
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
        14 => (0..2_usize, 0..ALL).prop_map(|(process, key)| Step::Ask { process, key }),
        6 => (0..2_usize, 0..ALL).prop_map(|(process, key)| Step::Begin { process, key }),
        5 => (0..8_usize).prop_map(Step::Finish),
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

impl Server {
    fn is_broken(&self) -> bool {
        matches!(self, Self::Bytes(bytes) if bytes.fault() != Fault::None)
    }
}

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

    fn start(&self) -> Process {
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

async fn run(kinds: &[Kind], steps: Vec<Step>) {
    let fleet = Fleet::new(kinds);
    let has = |one: fn(&Kind) -> bool| kinds.iter().any(one);
    let (has_log, has_directory) =
        (has(|kind| matches!(kind, Kind::Logged)), has(|kind| matches!(kind, Kind::Directory)));
    // A journal of a directory is read by the process that holds its lock: a second one is told when it takes over.
    let count = if has_log || !has_directory { 2 } else { 1 };
    let processes = (0..count).map(|_| fleet.start()).collect();
    let mut run = Run::new(processes, fleet.origin.clone(), fleet.clock.clone());
    run.has_log = has_log || has_directory;
    run.is_ordered = count == 1 || !has_directory;
    for process in &run.processes {
        settle(process).await;
    }
    for step in steps {
        // Without a log, positions are microseconds of the calendar.
        fleet.clock.advance(Duration::from_millis(1));
        match step {
            Step::Ask { process, key } => run.ask(process % count, key).await,
            Step::Begin { process, key } => run.begin(process % count, key).await,
            Step::Finish(which) => run.finish_one(which).await,
            Step::Invalidate { process, scope } => run.invalidate(process % count, scope).await,
            Step::Turn(seconds) => fleet.clock.advance(Duration::from_secs(seconds)),
            Step::Restart(process) => {
                let process = process % count;
                run.finish_all(process).await;
                run.processes.remove(process);
                for server in &fleet.servers {
                    if let (Server::Directory(directory), 1) = (server, count) {
                        directory.released().await;
                    }
                }
                run.processes.insert(process, fleet.start());
                run.restarted(process);
                settle(&run.processes[process]).await;
            }
            Step::Break { level, fault } => {
                if let Some(Server::Bytes(bytes)) = fleet.servers.get(level) {
                    bytes.set(fault);
                    run.order.forget_all();
                    run.is_broken = fleet.servers.iter().any(Server::is_broken);
                }
            }
        }
    }
    for process in 0..count {
        run.finish_all(process).await;
        for key in 0..ALL {
            run.ask(process, key).await;
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
        let (clock, origin) = (ManualClock::new(), Arc::<Mutex<Origin>>::default());
        let processes = vec![start(&origin, &clock), start(&origin, &clock)];
        let mut run = Run::new(processes, origin.clone(), clock.clone());
        for process in &run.processes {
            wait_until_up(process).await;
        }
        for _ in 0..800 {
            let (which, key) = (random(2), u8::try_from(random(u64::from(ALL))).expect("small"));
            let which = usize::try_from(which).expect("small");
            match random(28) {
                0..14 => run.ask(which, key).await,
                14..19 => run.begin(which, key).await,
                19..23 => run.finish_one(random(8) as usize).await,
                23..26 => {
                    let scope = [Scope::Key(key % KEYS), Scope::Tag(key % 2), Scope::Prefix, Scope::Soft(key % 2)]
                        [random(4) as usize];
                    run.invalidate(which, scope).await;
                }
                26 => {
                    run.finish_all(which).await;
                    run.processes[which] = start(&origin, &clock);
                    run.restarted(which);
                    wait_until_up(&run.processes[which]).await;
                }
                _ => {
                    redis.cli(&["FLUSHALL"]);
                }
            }
        }
        let processes = &run.processes;
        assert!(run.order.late > 0, "fetches ended in another order than they began");
        let hits = |name: &str| {
            processes
                .iter()
                .flat_map(|process| process.world.stats().levels)
                .filter(|level| level.name == name)
                .map(|level| level.hits)
                .sum::<u64>()
        };
        assert!(hits("memcached") > 0, "the levels were used");
    });
}

async fn wait_until_up(process: &Process) {
    for _ in 0..2_000 {
        if process.world.stats().levels.iter().all(|level| level.up) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 10 s: {:?}", process.world.stats().levels);
}

/// Reproducible random numbers below a bound.
fn random_numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |bound| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    }
}
