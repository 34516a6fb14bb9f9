//! The levels in servers: PostgreSQL, Redis and memcached, each started for this and beside a bare loop of its client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;
use tokio_postgres::types::Type;
use tollgate::cache::{ByteStore, Cached, DataCache};
use tollgate::store::RemoteStore;
use tollgate::store::memcached::{Memcached, MemcachedBytes};
use tollgate::store::postgres::Postgres;
use tollgate::store::redis::Redis;

use super::{HOUR, VALUE, memcached, postgres, redis_server, row, timed};

const ENTRIES: u64 = 5_000;
/// Calls in flight at once.
const PIPELINED: u64 = 32;

pub(super) async fn run() {
    println!("PostgreSQL, {ENTRIES} values");
    let server = postgres::Postgres::start();
    server.sql("ALTER SYSTEM SET fsync = on");
    server.sql("SELECT pg_reload_conf()");
    bare_postgres(&server).await;
    let settings = Postgres::new(&server.url()).expect("a URL").deadline(Duration::from_secs(1));
    engine(&settings.clone().connect().await.expect("a server")).await;
    level(RemoteStore::postgres(settings).expect("settings")).await;
    let size = "SELECT pg_total_relation_size('tollgate_cache') / count(*) FROM tollgate_cache";
    println!("    {} bytes on disk an entry", server.sql(size));

    println!("Redis, {ENTRIES} values");
    let server = redis_server::RedisServer::start();
    bare_redis(&server.url()).await;
    let settings = Redis::new(&server.url()).expect("a URL").cache_deadline(Duration::from_secs(1));
    level(RemoteStore::redis(settings).expect("settings")).await;

    println!("memcached, {ENTRIES} values");
    let server = memcached::Memcached::start();
    bare_memcached(&server.address()).await;
    let settings =
        || Memcached::new([server.address()]).secret("the same on every node").deadline(Duration::from_secs(1));
    engine(&MemcachedBytes::open(&[server.address().into()]).await.expect("a server")).await;
    level(RemoteStore::memcached(settings()).expect("settings")).await;
}

/// The floor: one upsert and one select a call, unnamed as behind a pooler, committed without waiting for the disk.
async fn bare_postgres(server: &postgres::Postgres) {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.expect("a connection");
    tokio::spawn(connection);
    let create = "CREATE TABLE bare (name text PRIMARY KEY, value bytea NOT NULL); SET synchronous_commit = off";
    client.batch_execute(create).await.expect("created");
    let (client, value) = (&client, &vec![7_u8; VALUE]);
    let upsert = "INSERT INTO bare VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    let select = "SELECT value FROM bare WHERE name = $1";
    let puts = timed(ENTRIES, |n| async move {
        client.query_typed(upsert, &[(&n.to_string(), Type::TEXT), (value, Type::BYTEA)]).await.expect("stored")
    });
    let puts = puts.await;
    let get = |n: u64| async move {
        client.query_typed(select, &[(&n.to_string(), Type::TEXT)]).await.expect("read")[0].get::<_, Vec<u8>>(0)
    };
    row("bare loop of queries", Some(puts), timed(ENTRIES, get).await);
    pipelined(get).await;
}

async fn bare_redis(url: &str) {
    let client = redis::Client::open(url).expect("a URL");
    let connection = &client.get_multiplexed_async_connection().await.expect("a connection");
    let value = &vec![7_u8; VALUE];
    let puts = timed(ENTRIES, |n| async move {
        let mut connection = connection.clone();
        redis::cmd("SET").arg(n).arg(value).arg("PX").arg(3_600_000).exec_async(&mut connection).await.expect("stored");
    });
    let puts = puts.await;
    let get = |n: u64| async move {
        let mut connection = connection.clone();
        redis::cmd("GET").arg(n).query_async::<Vec<u8>>(&mut connection).await.expect("read")
    };
    row("bare loop of commands", Some(puts), timed(ENTRIES, get).await);
    pipelined(get).await;
}

async fn bare_memcached(address: &str) {
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    let stream = &tokio::sync::Mutex::new(BufStream::new(stream));
    let put = |n: u64| async move {
        let mut stream = stream.lock().await;
        stream.write_all(format!("ms bare:{n} {VALUE} T3600\r\n").as_bytes()).await.expect("sent");
        stream.write_all(&[b'7'; VALUE]).await.expect("sent");
        stream.write_all(b"\r\n").await.expect("sent");
        stream.flush().await.expect("sent");
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("a reply");
        assert!(line.starts_with("HD"), "{line}");
    };
    let get = |n: u64| async move {
        let mut stream = stream.lock().await;
        stream.write_all(format!("mg bare:{n} v\r\n").as_bytes()).await.expect("sent");
        stream.flush().await.expect("sent");
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("a reply");
        assert!(line.starts_with("VA"), "{line}");
        let mut value = vec![0; VALUE + 2];
        stream.read_exact(&mut value).await.expect("a value");
        value
    };
    let puts = timed(ENTRIES, put).await;
    row("bare loop of commands", Some(puts), timed(ENTRIES, get).await);
}

async fn pipelined<F: Future>(get: impl Fn(u64) -> F) {
    let begun = Instant::now();
    for n in 0..ENTRIES / PIPELINED {
        join_all((0..PIPELINED).map(|at| get(n * PIPELINED + at))).await;
    }
    let calls = (ENTRIES / PIPELINED * PIPELINED) as f64;
    println!("    {:.0} gets a second, {PIPELINED} at once", calls / begun.elapsed().as_secs_f64());
}

async fn engine(bytes: &impl ByteStore) {
    let value = Bytes::from(vec![7; VALUE]);
    let name = |n: u64| format!("engine:{n:032x}");
    let puts = timed(ENTRIES, |n| bytes.put(name(n), value.clone(), HOUR)).await;
    let get = |n: u64| async move {
        let found = bytes.get_many(vec![name(n)]).await.expect("read");
        assert!(found[0].is_some());
    };
    row("engine", Some(puts), timed(ENTRIES, get).await);
    pipelined(get).await;
}

/// Typed values through the whole level; the memory in front holds none.
async fn level(store: RemoteStore) {
    let data = DataCache::builder().memory(1).level_2(Arc::new(store)).build();
    let values: Cached<String> = data.cached("bench").ttl(HOUR).build().expect("a namespace");
    while !data.levels()[1].up {
        values.get(0_u64).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (values, value) = (&values, "x".repeat(VALUE));
    let puts = timed(ENTRIES, |n| values.put(n, value.clone())).await;
    let get = |n: u64| async move { assert!(values.get(n).await.is_some()) };
    row("level: typed values through RemoteStore", Some(puts), timed(ENTRIES, get).await);
}
