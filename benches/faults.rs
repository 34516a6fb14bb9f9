//! What requests feel of a Redis, a PostgreSQL, a memcached or a disk that fails, beside what is promised: `cargo bench --bench faults`.
//!
//! Starts its own servers and proxies. Each row breaks one thing under a load of four clients, for the limits alone and
//! for the cache alone, and measures how long requests took (the service behind answers at once, so all of it is added)
//! and how long it took, once the fault was over, until the fleet's store was used again. One request that fails, or
//! gets a wrong body, ends the bench with an error.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a bench prints, and may fail"
)]

#[path = "faults/disk.rs"]
mod disk;
#[path = "../tests/support/fault_proxy.rs"]
mod fault_proxy;
#[path = "../tests/support/gate.rs"]
mod gate;
#[path = "faults/levels.rs"]
mod levels;
#[path = "../tests/support/memcached.rs"]
mod memcached;
#[path = "../tests/support/pgbouncer.rs"]
mod pgbouncer;
#[path = "../tests/support/postgres.rs"]
mod postgres;
#[path = "../tests/support/redis.rs"]
mod redis;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fault_proxy::{Fault, FaultProxy};
use gate::Gate;
use redis::{RedisCluster, RedisSentinel, RedisServer};
use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Limit, Quota};

/// How long each fault lasts.
const LASTS: Duration = Duration::from_secs(2);
const CLIENTS: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Limits,
    Cache,
}

/// Something that breaks and heals.
struct Row {
    name: &'static str,
    promise: &'static str,
    world: fn() -> World,
    hurt: fn(&World),
    heal: fn(&World),
}

/// Servers, and where nodes find them.
enum World {
    One(RedisServer, FaultProxy),
    Sentinel(Box<RedisSentinel>),
    Cluster(RedisCluster),
}

impl World {
    fn one() -> Self {
        let server = RedisServer::start();
        let proxy = FaultProxy::before(server.port());
        Self::One(server, proxy)
    }

    fn url(&self) -> String {
        match self {
            Self::One(_, proxy) => proxy.url(),
            Self::Sentinel(sentinel) => sentinel.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    fn server(&self) -> &RedisServer {
        match self {
            Self::One(server, _) => server,
            Self::Sentinel(sentinel) => &sentinel.primary,
            Self::Cluster(cluster) => &cluster.nodes[0],
        }
    }

    fn set(&self, fault: Fault) {
        match self {
            Self::One(_, proxy) => proxy.set(fault),
            _ => panic!("no proxy stands before it"),
        }
    }
}

fn heal(world: &World) {
    world.set(Fault::None);
}

/// Where nothing answers.
const AWAY: &str = "p99 0.1, max D; back 500";

fn rows() -> Vec<Row> {
    let mut rows = rows_of_one_server();
    rows.extend(rows_of_several_servers());
    rows
}

fn rows_of_one_server() -> Vec<Row> {
    let row = |name, promise, hurt, heal| Row { name, promise, world: World::one, hurt, heal };
    vec![
        row("nothing fails", "-", |_| {}, |_| {}),
        row("killed, and restarted", AWAY, |world| world.server().kill(), |world| world.server().restart()),
        row("hangs (SIGSTOP)", AWAY, |world| world.server().stop(), |world| world.server().cont()),
        row(
            "2 s for every reply",
            AWAY,
            |world| world.set(Fault::Slow { one_in: 1, by: Duration::from_secs(2) }),
            heal,
        ),
        row(
            "5 % of replies 100 ms late",
            "p90 1, max D",
            |world| world.set(Fault::Slow { one_in: 20, by: Duration::from_millis(100) }),
            heal,
        ),
        row(
            "READONLY",
            AWAY,
            |world| world.set(Fault::Answer("-READONLY You can't write against a read only replica.")),
            heal,
        ),
        row(
            "out of memory",
            AWAY,
            |world| world.set(Fault::Answer("-OOM command not allowed when used memory > 'maxmemory'.")),
            heal,
        ),
        row(
            "wrong password",
            AWAY,
            |world| {
                world.server().cli(&["CONFIG", "SET", "requirepass", "other"]);
                world.server().cli(&["-a", "other", "CLIENT", "KILL", "TYPE", "normal"]);
            },
            |world| {
                world.server().cli(&["-a", "other", "CONFIG", "SET", "requirepass", ""]);
            },
        ),
        row("partition", AWAY, |world| world.set(Fault::Partition), heal),
        row("connections reset", AWAY, |world| world.set(Fault::Reset), heal),
        row("half a reply", AWAY, |world| world.set(Fault::Half), heal),
        row("one byte flipped in every reply", "max D; back 500", |world| world.set(Fault::Flip), heal),
        row("replies swapped", "max D; back 500", |world| world.set(Fault::Swap), heal),
        row(
            "replies byte by byte",
            "max D; back 500",
            |world| world.set(Fault::Drip { pause: Duration::from_millis(5) }),
            heal,
        ),
    ]
}

fn rows_of_several_servers() -> [Row; 2] {
    [
        Row {
            name: "sentinel failover",
            promise: "max D; back failover + 500",
            world: || World::Sentinel(Box::new(RedisSentinel::start())),
            hurt: |world| world.server().kill(),
            heal: |world| match world {
                World::Sentinel(sentinel) => redis::wait_until("the replica is primary", || {
                    sentinel.primary_port() == sentinel.replica.port()
                        && sentinel.replica.cli(&["ROLE"]).starts_with("master")
                }),
                _ => unreachable!("made so above"),
            },
        },
        Row {
            name: "cluster slots move",
            promise: "max D",
            world: || World::Cluster(RedisCluster::start()),
            hurt: |world| match world {
                World::Cluster(cluster) => {
                    ["a", "b", "tollgate:{cache}:log"].iter().for_each(|key| cluster.move_slot(key))
                }
                _ => unreachable!("made so above"),
            },
            heal: |_| {},
        },
    ]
}

fn node(url: &str, kind: Kind) -> Gate {
    let builder = Tollgate::builder().redis(url);
    let rules = Rules::new().otherwise(Rule::ttl(Duration::from_secs(60)).same_for_everyone());
    Gate::build(match kind {
        Kind::Limits => builder.limit(Limit::per_ip(Quota::per_hour(1_000_000_000))),
        Kind::Cache => builder.cache(rules),
    })
}

fn is_up(node: &Gate, kind: Kind) -> bool {
    match kind {
        Kind::Limits => node.gate.stats().remote.is_some_and(|remote| remote.up),
        Kind::Cache => node.level().up,
    }
}

/// Requests until `over`, each for something that this node has not seen; when each ended, and how long it took.
async fn load(node: &Gate, over: Instant, number: &Arc<AtomicUsize>) -> Vec<(Instant, Duration)> {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (node, number) = (node.clone(), number.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < over {
                    let path = format!("/{}", number.fetch_add(1, Ordering::Relaxed));
                    let since = Instant::now();
                    node.get(&path).await;
                    took.push((Instant::now(), since.elapsed()));
                    // A service under load, not a race: some thousand requests a second.
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for client in clients {
        took.extend(client.await.expect("no request failed"));
    }
    took
}

/// Breaks something under load. Returns, sorted, how long the requests took that ended once it was broken.
async fn load_while(node: &Gate, number: &Arc<AtomicUsize>, hurt: impl FnOnce() + Send + 'static) -> Vec<Duration> {
    load(node, Instant::now() + Duration::from_millis(300), number).await;
    let hurting = tokio::spawn({
        let (node, number) = (node.clone(), number.clone());
        async move { load(&node, Instant::now() + LASTS, &number).await }
    });
    let broken = tokio::task::spawn_blocking(move || {
        hurt();
        Instant::now()
    });
    let broken = broken.await.expect("broken");
    let ended = hurting.await.expect("no request failed").into_iter();
    let mut took: Vec<_> = ended.filter(|(ended, _)| *ended >= broken).map(|(_, took)| took).collect();
    took.sort_unstable();
    took
}

async fn back(node: &Gate, kind: Kind, number: &Arc<AtomicUsize>) -> Duration {
    let since = Instant::now();
    while !is_up(node, kind) {
        assert!(since.elapsed() < Duration::from_secs(30), "not back");
        node.get(&format!("/{}", number.fetch_add(1, Ordering::Relaxed))).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    since.elapsed()
}

async fn run(row: &Row, kind: Kind) {
    let number = Arc::new(AtomicUsize::new(0));
    let world = Arc::new((row.world)());
    let node = node(&world.url(), kind);
    back(&node, kind, &number).await;
    let (hurt, broken) = (row.hurt, world.clone());
    let took = load_while(&node, &number, move || hurt(&broken)).await;
    let (heal, healed) = (row.heal, world.clone());
    tokio::task::spawn_blocking(move || heal(&healed)).await.expect("healed");
    let recovery = back(&node, kind, &number).await;
    tell(row.name, kind, &took, recovery, row.promise);
}

fn tell(name: &str, kind: Kind, took: &[Duration], recovery: Duration, promise: &str) {
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let (what, deadline) = if kind == Kind::Limits { ("limits", 25) } else { ("cache", 50) };
    println!(
        "| {name:<31} | {what:<6} | {:>6} | {:>7.3} | {:>7.3} | {:>7.3} | {:>7.1} | {:>6.0} | {} |",
        took.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        recovery.as_secs_f64() * 1e3,
        promise.replace('D', &deadline.to_string()),
    );
}

/// A server that is not there when nodes start.
async fn absent(kind: Kind) {
    let number = Arc::new(AtomicUsize::new(0));
    let server = RedisServer::absent();
    let node = node(&server.url(), kind);
    let took = load_while(&node, &number, || {}).await;
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let server = server.await.expect("started");
    let recovery = back(&node, kind, &number).await;
    tell("down at the start", kind, &took, recovery, AWAY);
    drop(server);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // Under `cargo test` it is only compiled: it takes minutes, and servers.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let only = arguments.iter().skip(1).find(|argument| !argument.starts_with('-')).cloned().unwrap_or_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    if disk::is_inside() {
        return runtime.block_on(disk::run_all(&only));
    }
    println!("Milliseconds; {CLIENTS} clients, {LASTS:?} a fault.");
    println!("| fault | of | requests | p50 | p90 | p99 | max | back after | promised |");
    println!("|---|---|--:|--:|--:|--:|--:|--:|---|");
    runtime.block_on(async {
        for kind in [Kind::Limits, Kind::Cache] {
            if "down at the start".contains(&only) {
                absent(kind).await;
            }
        }
        for row in rows().iter().filter(|row| row.name.contains(&only)) {
            for kind in [Kind::Limits, Kind::Cache] {
                run(row, kind).await;
            }
        }
        levels::run_all(&only).await;
        disk::run_all(&only).await;
    });
}
