//! What a PostgreSQL level costs, beside a bare loop of queries on the same server: `cargo bench --bench postgres`.
//!
//! Starts a server of its own, with its disk turned on. Compare rows of one run only. The engine is one statement per call; the
//! level adds encoding, checksum, deadline and circuit breaker. Values are 1 KiB.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench may fail, prints, and measures"
)]

#[path = "../tests/support/postgres.rs"]
mod postgres;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use postgres::Postgres;
use tokio_postgres::NoTls;
use tokio_postgres::types::Type;
use tollgate::cache::{ByteStore, Cached, DataCache};
use tollgate::store::RemoteStore;
use tollgate::store::postgres::Postgres as Settings;

const ENTRIES: u64 = 5_000;
const VALUE: usize = 1_024;
const HOUR: Duration = Duration::from_secs(3_600);
/// Calls in flight at once.
const PIPELINED: u64 = 32;

#[tokio::main(worker_threads = 2)]
async fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let server = Postgres::start();
    server.sql("ALTER SYSTEM SET fsync = on");
    server.sql("SELECT pg_reload_conf()");
    println!("{ENTRIES} values of {VALUE} bytes; microseconds\n");
    println!("{:<44}{:>9}{:>9}{:>9}{:>9}", "", "put p50", "p99", "get p50", "p99");
    bare(&server).await;
    engine(&server).await;
    level(&server).await;
    println!(
        "\n{} bytes on disk an entry",
        server.sql("SELECT pg_total_relation_size('tollgate_cache') / count(*) FROM tollgate_cache")
    );
}

async fn spans<F: Future>(mut call: impl FnMut(u64) -> F) -> Vec<Duration> {
    let mut spans = Vec::new();
    for n in 0..ENTRIES {
        let begun = Instant::now();
        call(n).await;
        spans.push(begun.elapsed());
    }
    spans.sort_unstable();
    spans
}

fn row(name: &str, puts: &[Duration], gets: &[Duration]) {
    let micros = |spans: &[Duration], percent: usize| spans[spans.len() * percent / 100].as_nanos() as f64 / 1_000.0;
    println!(
        "{name:<44}{:>9.0}{:>9.0}{:>9.0}{:>9.0}",
        micros(puts, 50),
        micros(puts, 99),
        micros(gets, 50),
        micros(gets, 99)
    );
}

/// The floor: one upsert and one select a call, unnamed as behind a pooler, committed without waiting for the disk.
async fn bare(server: &Postgres) {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.expect("a connection");
    tokio::spawn(connection);
    let create = "CREATE TABLE bare (name text PRIMARY KEY, value bytea NOT NULL); SET synchronous_commit = off";
    client.batch_execute(create).await.expect("created");
    let (client, value) = (&client, &vec![7_u8; VALUE]);
    let upsert = "INSERT INTO bare VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    let select = "SELECT value FROM bare WHERE name = $1";
    let puts = spans(|n| async move {
        client.query_typed(upsert, &[(&n.to_string(), Type::TEXT), (value, Type::BYTEA)]).await.expect("stored")
    })
    .await;
    let get = |n: u64| async move {
        client.query_typed(select, &[(&n.to_string(), Type::TEXT)]).await.expect("read")[0].get::<_, Vec<u8>>(0)
    };
    let gets = spans(get).await;
    row("bare loop of queries", &puts, &gets);
    let begun = Instant::now();
    for n in 0..ENTRIES / PIPELINED {
        join_all((0..PIPELINED).map(|at| get(n * PIPELINED + at))).await;
    }
    rate(begun);
}

fn rate(begun: Instant) {
    let calls = (ENTRIES / PIPELINED * PIPELINED) as f64;
    println!("    {:.0} gets a second, {PIPELINED} at once", calls / begun.elapsed().as_secs_f64());
}

async fn engine(server: &Postgres) {
    let bytes = Settings::new(&server.url()).expect("a URL").connect().await.expect("a server");
    let (bytes, value) = (&bytes, Bytes::from(vec![7; VALUE]));
    let puts = spans(|n| bytes.put(format!("engine:{n:032x}"), value.clone(), HOUR)).await;
    let get = |n: u64| async move {
        let found = bytes.get_many(vec![format!("engine:{n:032x}")]).await.expect("read");
        assert!(found[0].is_some());
    };
    let gets = spans(get).await;
    row("engine", &puts, &gets);
    let begun = Instant::now();
    for n in 0..ENTRIES / PIPELINED {
        join_all((0..PIPELINED).map(|at| get(n * PIPELINED + at))).await;
    }
    rate(begun);
}

/// Typed values through the whole level; the memory in front holds none.
async fn level(server: &Postgres) {
    let settings = Settings::new(&server.url()).expect("a URL").deadline(Duration::from_secs(1));
    let store = RemoteStore::postgres(settings).expect("settings");
    let data = DataCache::builder().memory(1).level_2(Arc::new(store)).build();
    let values: Cached<String> = data.cached("bench").ttl(HOUR).build().expect("a namespace");
    while !data.levels()[1].up {
        values.get(0_u64).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (values, value) = (&values, "x".repeat(VALUE));
    let puts = spans(|n| values.put(n, value.clone())).await;
    let gets = spans(|n| async move { assert!(values.get(n).await.is_some()) }).await;
    row("level: typed values through RemoteStore", &puts, &gets);
}
