//! `cargo bench --bench redis`: what a decision over Redis costs, beside what Redis itself costs, in one run against a
//! server of the bench's own.
//!
//! | row | a decision is |
//! |---|---|
//! | `PING`, `INCR` | one command, for comparison |
//! | `EVALSHA each` | one call of the script |
//! | `coalesced, bare` | one sixty-fourth of a call of the script: a hand-written loop, nobody waits for a decision of their own |
//! | `exact` | [`LimitMode::Exact`] |
//! | `leased, hot` | [`LimitMode::Leased`], ten keys |
//! | `leased, Zipf` | [`LimitMode::Leased`], ten thousand keys, asked as Zipf's law has it |
//!
//! The runtime has one worker, so that on two cores the server has the other.
//!
//! Names after `--` choose rows: `cargo bench --bench redis -- exact`.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench prints, reads clocks and may fail"
)]

#[path = "../tests/support/redis.rs"]
mod server;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use redis::aio::MultiplexedConnection;
use server::RedisServer;
use tollgate::Clock;
use tollgate::identity::KeyHash;
use tollgate::limit::{Check, LimitStore, Quota};
use tollgate::store::RemoteLimits;
use tollgate::store::redis::{LimitMode, Redis};

const SCRIPT: &str = include_str!("../src/store/redis/limits/script.lua");
/// Each row is measured three times, in turn with the others; what is printed is the median by its rate.
const ROUNDS: usize = 3;
const SPAN: Duration = Duration::from_millis(500);
const KEYS: u64 = 10_000;
const BATCH: u64 = 64;

/// A limit that is never reached: what is measured is the way, not the refusal.
fn bucket() -> Quota {
    Quota::per_second(10_000_000).bucket(10_000_000)
}

fn window() -> Quota {
    Quota::per_minute(1_000_000_000)
}

/// xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `n`, as Zipf's law with exponent 1 has it.
    fn zipf(&mut self, n: u64) -> u64 {
        let share = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        ((n as f64).powf(share) as u64 - 1).min(n - 1)
    }
}

struct Row {
    name: &'static str,
    callers: u64,
    rate: f64,
    p50: u64,
    p99: u64,
    commands: f64,
    /// What the server worked for a decision, in microseconds.
    server: f64,
}

/// Lets so many callers ask again and again, each call worth so many decisions.
async fn measure<F, Fut>(
    name: &'static str,
    callers: u64,
    worth: u64,
    server: &RedisServer,
    make: impl Fn(u64) -> F,
) -> Row
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (over, warm) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let tasks: Vec<_> = (0..callers.div_ceil(worth))
        .map(|seed| {
            let (over, warm, mut ask) = (over.clone(), warm.clone(), make(seed + 1));
            tokio::spawn(async move {
                // A clock and a histogram for each decision would cost more than many a decision: one in eight is timed.
                let (mut took, mut asked) = (Vec::with_capacity(4_096), 0_u64);
                while !over.load(Ordering::Relaxed) {
                    if !warm.load(Ordering::Relaxed) {
                        ask().await;
                        continue;
                    }
                    let start = asked.is_multiple_of(8).then(Instant::now);
                    ask().await;
                    asked += 1;
                    took.extend(start.map(|start| start.elapsed().as_nanos() as u64));
                }
                (asked, took)
            })
        })
        .collect();
    tokio::time::sleep(SPAN / 5).await;
    let (before, worked_before) = (commands(server), worked(server));
    warm.store(true, Ordering::Relaxed);
    let start = Instant::now();
    tokio::time::sleep(SPAN).await;
    over.store(true, Ordering::Relaxed);
    let span = start.elapsed();
    let (mut all, mut asked) = (histogram(), 0);
    for task in tasks {
        let (count, took) = task.await.expect("no panic");
        asked += count;
        took.into_iter().for_each(|nanos| all.saturating_record(nanos));
    }
    let decisions = asked as f64 * worth as f64;
    let commands = (commands(server) - before) as f64 / decisions;
    let worked = (worked(server) - worked_before) as f64 / decisions;
    let (p50, p99) = (all.value_at_quantile(0.5), all.value_at_quantile(0.99));
    Row { name, callers, rate: decisions / span.as_secs_f64(), p50, p99, commands, server: worked }
}

/// Up to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

/// Commands that clients have sent; what a script calls is not counted.
fn commands(server: &RedisServer) -> u64 {
    ["ping", "incr", "evalsha", "eval"].iter().map(|command| server.calls(command)).sum()
}

/// The server's own time for them, in microseconds.
fn worked(server: &RedisServer) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let of = |command: &str| {
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")))?;
        line.split("usec=").nth(1)?.split(',').next()?.parse::<u64>().ok()
    };
    ["ping", "incr", "evalsha", "eval"].iter().filter_map(|command| of(command)).sum()
}

fn print(row: &Row) {
    let us = |nanos: u64| nanos as f64 / 1e3;
    println!(
        "{:<26}{:>8}{:>14.0}{:>12.1}{:>12.1}{:>14.4}{:>12.2}",
        row.name,
        row.callers,
        row.rate,
        us(row.p50),
        us(row.p99),
        row.commands,
        row.server
    );
}

async fn raw(server: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("a URL");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

/// The script's question about so many keys drawn at random: what the store writes, written by hand.
fn question(random: &mut Random, batch: u64, quota: Quota) -> (Vec<String>, Vec<u8>) {
    let mut blob = Vec::new();
    blob.extend_from_slice(&1_u16.to_le_bytes());
    blob.extend_from_slice(&(batch as u16).to_le_bytes());
    let is_bucket = quota.to_string().contains("burst");
    let step = if is_bucket { -(1e9 / f64::from(quota.limit())).ceil() } else { quota.period().as_micros() as f64 };
    blob.extend_from_slice(&f64::from(quota.capacity()).to_le_bytes());
    blob.extend_from_slice(&step.to_le_bytes());
    let keys: Vec<String> = (0..batch).map(|_| format!("bare:l:{:016x}", random.next() % KEYS)).collect();
    for key in 1..=batch as u8 {
        blob.extend_from_slice(&[key, 1, 3]);
        blob.extend_from_slice(&1_u32.to_le_bytes());
    }
    (keys, blob)
}

async fn bare(name: &'static str, callers: u64, batch: u64, server: &RedisServer, quota: Quota) -> Row {
    let connection = raw(server).await;
    let hash: String =
        redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async(&mut connection.clone()).await.expect("loaded");
    measure(name, callers, batch, server, |seed| {
        let (connection, hash) = (connection.clone(), hash.clone());
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        move || {
            let (keys, blob) = question(&mut random, batch, quota);
            let (mut connection, hash) = (connection.clone(), hash.clone());
            async move {
                let mut command = redis::cmd("EVALSHA");
                command.arg(&hash).arg(keys.len()).arg(&keys).arg(&blob);
                let answer: Vec<i64> = command.query_async(&mut connection).await.expect("an answer");
                assert_eq!(answer.len() as u64, batch + 2);
            }
        }
    })
    .await
}

async fn ours(
    name: &'static str,
    callers: u64,
    server: &RedisServer,
    mode: LimitMode,
    quota: Quota,
    pick: fn(&mut Random) -> u64,
) -> Row {
    let redis = Redis::new(&server.url()).expect("a URL").limit_mode(mode).secret("a bench's secret").prefix("ours");
    // A bench wants answers, not fallbacks.
    let store = Arc::new(RemoteLimits::redis(&redis.limit_deadline(Duration::from_secs(5))).expect("a store"));
    while !store.remote().is_some_and(|remote| remote.up) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let failed = Arc::new(AtomicU64::new(0));
    let row = measure(name, callers, 1, server, |seed| {
        let (store, failed) = (store.clone(), failed.clone());
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        move || {
            let key = KeyHash::from_bits(pick(&mut random).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            let (store, failed) = (store.clone(), failed.clone());
            async move {
                let check = Check::new(key, quota).in_fleet(key);
                let answer = store.decide(&[check], Clock::System.now()).await;
                if !answer.is_ok_and(|verdicts| verdicts[0].admits()) {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    })
    .await;
    let failed = failed.load(Ordering::Relaxed);
    if failed > 0 {
        println!("{name}: {failed} decisions were not made by Redis");
    }
    row
}

/// The rows' names, by the algorithm of the limit.
struct Names {
    quota: Quota,
    each: &'static str,
    coalesced: &'static str,
    exact: &'static str,
    hot: &'static str,
    zipf: &'static str,
}

fn algorithms() -> [Names; 2] {
    [
        Names {
            quota: bucket(),
            each: "EVALSHA each, bucket",
            coalesced: "coalesced, bare, bucket",
            exact: "exact, bucket",
            hot: "leased, hot, bucket",
            zipf: "leased, Zipf, bucket",
        },
        Names {
            quota: window(),
            each: "EVALSHA each, window",
            coalesced: "coalesced, bare, window",
            exact: "exact, window",
            hot: "leased, hot, window",
            zipf: "leased, Zipf, window",
        },
    ]
}

async fn command(name: &'static str, callers: u64, server: &RedisServer) -> Row {
    let connection = raw(server).await;
    measure(name, callers, 1, server, |_| {
        let connection = connection.clone();
        move || {
            let mut connection = connection.clone();
            async move {
                let mut command = redis::cmd(name);
                if name == "INCR" {
                    command.arg("bare:counter");
                }
                drop(command.query_async::<redis::Value>(&mut connection).await.expect("an answer"));
            }
        }
    })
    .await
}

/// The row of that name.
async fn row(name: &'static str, of: &Names, callers: u64, server: &RedisServer) -> Row {
    let (exact, leased) = (LimitMode::Exact, LimitMode::Leased);
    if name == of.each {
        bare(name, callers, 1, server, of.quota).await
    } else if name == of.coalesced {
        bare(name, callers, BATCH.min(callers), server, of.quota).await
    } else if name == of.exact {
        ours(name, callers, server, exact, of.quota, |random| random.next() % KEYS).await
    } else if name == of.hot {
        ours(name, callers, server, leased, of.quota, |random| random.next() % 10).await
    } else {
        ours(name, callers, server, leased, of.quota, |random| random.zipf(KEYS)).await
    }
}

fn main() {
    // Under `cargo test` it is only compiled: it takes minutes, and a server.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let server = RedisServer::start();
    println!(
        "{:<26}{:>8}{:>14}{:>12}{:>12}{:>14}{:>12}",
        "a decision by", "callers", "decisions/s", "p50 us", "p99 us", "commands each", "server us"
    );
    runtime.block_on(async {
        let mut rows = Vec::new();
        for callers in [1, 64, 256] {
            let mut rounds: Vec<Vec<Row>> = Vec::new();
            for _ in 0..ROUNDS {
                let mut round = Vec::new();
                for name in ["PING", "INCR"].into_iter().filter(|name| wants(name)) {
                    round.push(command(name, callers, &server).await);
                }
                for of in algorithms() {
                    let names = [of.each, of.coalesced, of.exact, of.hot, of.zipf];
                    for name in names.into_iter().filter(|name| wants(name)) {
                        round.push(row(name, &of, callers, &server).await);
                    }
                }
                rounds.push(round);
            }
            for row in medians(rounds) {
                print(&row);
                rows.push(row);
            }
        }
        compare(&rows);
    });
}

/// Of each row its middle round.
fn medians(rounds: Vec<Vec<Row>>) -> Vec<Row> {
    let mut rows: Vec<Vec<Row>> = Vec::new();
    for round in rounds {
        for (at, row) in round.into_iter().enumerate() {
            if rows.len() <= at {
                rows.push(Vec::new());
            }
            rows[at].push(row);
        }
    }
    let middle = |mut measured: Vec<Row>| {
        measured.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        measured.swap_remove(measured.len() / 2)
    };
    rows.into_iter().map(middle).collect()
}

/// The ratios that matter, from this run.
fn compare(rows: &[Row]) {
    let rate = |name: &str, callers: u64| {
        rows.iter().find(|row| row.name == name && row.callers == callers).map(|row| row.rate)
    };
    println!();
    for kind in ["bucket", "window"] {
        for callers in [64, 256] {
            let exact = rate(&format!("exact, {kind}"), callers);
            for other in ["coalesced, bare", "EVALSHA each"] {
                if let (Some(exact), Some(other_rate)) = (exact, rate(&format!("{other}, {kind}"), callers)) {
                    println!("{kind}, {callers} callers: exact is {:.2} x {other}", exact / other_rate);
                }
            }
            if let (Some(exact), Some(leased)) = (exact, rate(&format!("leased, hot, {kind}"), callers)) {
                println!("{kind}, {callers} callers: leased on hot keys is {:.2} x exact", leased / exact);
            }
        }
    }
}
