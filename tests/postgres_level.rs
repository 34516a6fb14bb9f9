//! The PostgreSQL level against a server of its own: contracts, order, leases, migration, roles, space.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/postgres.rs"]
mod postgres;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use postgres::{Postgres, wanted};
use tollgate::cache::{ByteLog, ByteStore, CacheKey, CacheStore, GetOrClaim, Lease, LeaseState};
use tollgate::store::RemoteStore;
use tollgate::store::postgres::Postgres as Settings;
use tollgate::testing::contract;

const TTL: Duration = Duration::from_secs(60);

fn settings(server: &Postgres) -> Settings {
    Settings::new(&server.url()).expect("a URL")
}

async fn connect(settings: Settings) -> impl ByteStore {
    settings.connect().await.expect("a server")
}

fn log(node: &impl ByteStore) -> &dyn ByteLog {
    node.log().expect("a log")
}

/// The store, once it has joined its fleet.
async fn joined(settings: Settings) -> Arc<RemoteStore> {
    let store = Arc::new(RemoteStore::postgres(settings).expect("settings"));
    for _ in 0..5_000 {
        if store.stats()[0].up {
            return store;
        }
        let _ = store.get(&CacheKey::from_bytes(b"any", 3), tollgate::Timestamp::ZERO).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("not joined within 10 s: {:?}", store.guard_stats());
}

#[tokio::test]
async fn it_keeps_the_contracts() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    contract::bytes(Arc::new(connect(settings(&server)).await)).await;
    contract::cache(joined(settings(&server).schema("other")).await).await;
}

#[tokio::test]
async fn eight_processes_may_migrate_at_once_and_again() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let all = join_all((0..8).map(|_| async { settings(&server).schema("shop").migrate().await })).await;
    for migrated in all {
        migrated.expect("migrated");
    }
    let sql = settings(&server).schema("shop").sql();
    server.sql(&sql);
    let bytes = connect(settings(&server).schema("shop")).await;
    assert!(bytes.put("a".to_owned(), Bytes::from_static(b"1"), TTL).await.expect("put"));
    server.sql(&sql);
    assert_eq!(server.sql("SELECT count(*) FROM shop.tollgate_cache"), "1", "it keeps what is there");
    assert_eq!(server.sql("SELECT to_regclass('public.tollgate_cache') IS NULL"), "t");
    // Tables of an older version.
    server.sql("DROP FUNCTION shop.tollgate_get(text)");
    let bytes = connect(settings(&server).schema("shop")).await;
    assert!(
        bytes.get_many(vec!["a".to_owned()]).await.expect("read")[0].is_some(),
        "the first connection adds what is new"
    );
}

#[tokio::test]
async fn a_lease_goes_to_one_of_eight_connections_in_one_round_trip() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    settings(&server).migrate().await.expect("migrated");
    let mut nodes = Vec::new();
    for _ in 0..8 {
        nodes.push(connect(settings(&server)).await);
    }
    for round in 0..50 {
        let name = format!("lease:{round}");
        let asks = nodes.iter().zip(1..).map(|(node, token)| {
            let lease = Lease::new(name.clone(), token, TTL);
            async { node.get_or_claim("entry:none".to_owned(), lease).await.expect("an answer") }
        });
        let granted = |answer: &&GetOrClaim<Bytes>| matches!(answer, GetOrClaim::Missing(Some(LeaseState::Granted)));
        let answers = join_all(asks).await;
        assert_eq!(answers.iter().filter(granted).count(), 1, "{answers:?}");
    }
    // A found value writes nothing, and takes no lease.
    nodes[0].put("entry:one".to_owned(), Bytes::from_static(b"1"), TTL).await.expect("put");
    let before = server.sql("SELECT pg_current_wal_insert_lsn(), count(*) FROM tollgate_leases");
    let lease = Lease::new("lease:one".to_owned(), 1, TTL);
    let found = nodes[1].get_or_claim("entry:one".to_owned(), lease).await.expect("an answer");
    assert_eq!(found, GetOrClaim::Found(Bytes::from_static(b"1")));
    assert_eq!(server.sql("SELECT pg_current_wal_insert_lsn(), count(*) FROM tollgate_leases"), before);
}

#[tokio::test]
async fn positions_have_no_gaps_whoever_appends() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    settings(&server).migrate().await.expect("migrated");
    let mut nodes = Vec::new();
    for _ in 0..8 {
        nodes.push(connect(settings(&server)).await);
    }
    let append = async |log: &dyn ByteLog, n: u8| {
        let mut positions = Vec::new();
        for _ in 0..25 {
            positions.push(log.append(Bytes::from_static(b"first"), vec![n; 40].into()).await.expect("appended"));
        }
        positions
    };
    let mut all = join_all(nodes.iter().zip(0..).map(|(node, n)| append(log(node), n))).await.concat();
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{all:?}");
    let read = log(&nodes[0]).read(Some(all[0])).await.expect("read");
    assert_eq!(read.iter().map(|(position, _)| *position).collect::<Vec<_>>(), all);
    // A longer record than a message can carry is announced, and read.
    let long = Bytes::from(vec![7; 20_000]);
    let position = log(&nodes[0]).append(Bytes::new(), long.clone()).await.expect("appended");
    assert_eq!(log(&nodes[1]).read(Some(position)).await.expect("read"), [(position, long)]);
    // A log that was lost begins above what is known.
    server.sql("TRUNCATE tollgate_invalidations");
    log(&nodes[0]).restart(Bytes::from_static(b"first"), position + 5).await.expect("restarted");
    let read = log(&nodes[0]).read(None).await.expect("read");
    assert!(read.len() == 1 && read[0].0 > position + 5, "{read:?}");
}

#[tokio::test]
async fn a_role_with_the_documented_grants_is_enough_and_less_is_said() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    server.sql("CREATE ROLE service LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    let role = || Settings::new(&server.url_of("service")).expect("a URL");
    let refused = role().connect().await.expect_err("no tables").to_string();
    assert!(refused.contains("Postgres::sql()") && refused.contains("permission denied"), "{refused}");
    settings(&server).migrate().await.expect("migrated");
    server.sql(include_str!("../src/store/postgres/grants.sql"));
    contract::cache(joined(role()).await).await;
    contract::bytes(Arc::new(connect(role()).await)).await;
    server.sql(
        "SET ROLE service; SELECT FROM api_cache, cache_stats, credit_usage, cache_usage, background_jobs;
         SELECT tollgate_override(1, '', 1000000, NULL, 10); SELECT FROM tollgate_overrides",
    );
    // A role that only invalidates.
    server.sql(
        "CREATE ROLE writer LOGIN; GRANT USAGE ON SCHEMA public TO writer; GRANT INSERT ON tollgate_outbox TO writer",
    );
    server.sql("SET ROLE writer; INSERT INTO tollgate_outbox (tag) VALUES ('prices')");
    let node = connect(role()).await;
    log(&node).restart(Bytes::new(), 0).await.expect("a log");
    log(&node).read(None).await.expect("read");
    assert_eq!(server.sql("SELECT tag FROM tollgate_invalidations WHERE tag IS NOT NULL"), "prices");
}

#[tokio::test]
async fn an_owner_of_another_table_watches_it_with_the_documented_privileges() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let settings = settings(&server).schema("shop");
    settings.migrate().await.expect("migrated");
    server.sql("CREATE ROLE author LOGIN; CREATE TABLE articles (id bigint); ALTER TABLE articles OWNER TO author");
    let watch = settings.watch_sql("public.articles", ["article:{id}"]).expect("a table and a tag");
    server.sql("GRANT USAGE ON SCHEMA shop TO author; GRANT INSERT ON shop.tollgate_outbox TO author");
    server.sql(&format!(
        "SET ROLE author; DO $test$BEGIN EXECUTE $sql${watch}$sql$; RAISE 'accepted';
         EXCEPTION WHEN insufficient_privilege THEN NULL; END$test$"
    ));
    server.sql("GRANT CREATE ON SCHEMA shop TO author");
    server.sql(&format!("SET ROLE author; {watch}"));
    server.sql("SET ROLE author; INSERT INTO articles VALUES (7)");
    assert_eq!(server.sql("SELECT tag FROM shop.tollgate_outbox"), "article:7");
}

#[tokio::test]
async fn a_wrong_password_is_an_outage_until_it_is_right() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    server.sql("CREATE ROLE app LOGIN SUPERUSER PASSWORD 'right'");
    server.guard("app");
    let store = RemoteStore::postgres(Settings::new(&server.url_of("app:wrong")).expect("a URL")).expect("settings");
    for _ in 0..2_500 {
        let _ = store.get(&CacheKey::from_bytes(b"any", 3), tollgate::Timestamp::ZERO).await;
        if store.guard_stats().last_error.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let stats = format!("{:?}", store.guard_stats());
    assert!(!store.guard_stats().up && stats.contains("password authentication failed"), "{stats}");
    server.sql("ALTER ROLE app PASSWORD 'wrong'");
    for _ in 0..1_000 {
        let _ = store.get(&CacheKey::from_bytes(b"any", 3), tollgate::Timestamp::ZERO).await;
        if store.stats()[0].up {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("not back: {:?}", store.guard_stats());
}

#[tokio::test]
async fn over_tls_the_authority_must_be_the_right_one() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let authority = server.speak_tls();
    let url = format!("{}?sslmode=require", server.url());
    let trusting = |pem: &str| Settings::new(&url).expect("a URL").ca_certificate(pem);
    let bytes = trusting(&authority).connect().await.expect("a server");
    contract::bytes(Arc::new(bytes)).await;
    assert_eq!(server.sql("SELECT count(*) > 0 FROM pg_stat_ssl WHERE ssl"), "t", "it was encrypted");
    // Another authority, of the same name.
    let other = Postgres::start().speak_tls();
    let refused = trusting(&other).connect().await.expect_err("another authority").to_string();
    assert!(refused.contains("certificate"), "{refused}");
    let refused = trusting("no certificate").connect().await.expect_err("no authority").to_string();
    assert!(refused.contains("none found"), "{refused}");
}

#[tokio::test]
async fn what_expired_goes_and_the_bound_holds() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let bytes = connect(settings(&server).max_bytes(4 << 20)).await;
    let value = Bytes::from(vec![7; 16 << 10]);
    for n in 0..500 {
        bytes.put(format!("short:{n}"), value.clone(), Duration::from_millis(1)).await.expect("put");
    }
    for n in 0..1_000 {
        bytes.put(format!("long:{n}"), value.clone(), TTL).await.expect("put");
    }
    for _ in 0..500 {
        // A sweep follows a put; wait for the last.
        let live: u64 = server.sql("SELECT sum(bytes) FROM tollgate_cache").parse().expect("a number");
        let expired = server.sql("SELECT count(*) FROM tollgate_cache WHERE name LIKE 'short:%'");
        if live <= (4 << 20) + (4 << 20) / 16 && expired == "0" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{}", server.sql("SELECT count(*), sum(bytes) FROM tollgate_cache"));
}

/// Puts as fast as possible over so many connections with a sweeper each; returns the most bytes that were ever live, and the
/// part of the puts that were stored.
async fn most_live_bytes(server: &Arc<Postgres>, bound: u64, processes: usize) -> (u64, f64) {
    let reader = "DO $$DECLARE most bigint := 0; ended timestamptz := clock_timestamp() + interval '4 seconds'; BEGIN
           WHILE clock_timestamp() < ended LOOP
             most := greatest(most, (SELECT sum(bytes) FROM tollgate_cache));
             PERFORM pg_sleep(0.002);
           END LOOP;
           PERFORM set_config('test.most', most::text, false);
         END$$;
         SELECT current_setting('test.most')";
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let write = async |process: usize| {
        let bytes = connect(settings(server).max_bytes(bound)).await;
        let stream = async |stream: usize| {
            let mut puts = 0_u32;
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                let name = format!("tollgate:entry:{process}:{stream}:{puts}");
                let size = 1_024 + (puts as usize * 7_919) % 15_000;
                bytes.put(name, vec![7; size].into(), TTL).await.expect("a put never fails");
                puts += 1;
            }
            puts
        };
        join_all((0..8).map(stream)).await.into_iter().sum::<u32>()
    };
    let read = async {
        let server = server.clone();
        let most = tokio::task::spawn_blocking(move || server.sql(reader)).await.expect("read");
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        most
    };
    let writes = join_all((0..processes).map(write));
    let (most, puts) = tokio::join!(read, writes);
    let most = most.parse().expect("a number");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let inserted: f64 = server
        .sql("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'tollgate_cache'")
        .parse()
        .expect("a number");
    (most, inserted / f64::from(puts.into_iter().sum::<u32>()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_bytes_stay_within_the_bound_while_puts_are_fast() {
    if !wanted() {
        return;
    }
    const BOUND: u64 = 2 << 20;
    const ROOM: u64 = 512 << 10;
    for (processes, most) in [(1, BOUND), (3, BOUND + 2 * ROOM)] {
        let server = Arc::new(Postgres::start());
        settings(&server).migrate().await.expect("migrated");
        let (live, stored) = most_live_bytes(&server, BOUND, processes).await;
        println!("{processes} processes: at most {live} bytes of {BOUND}, {:.0} % of the puts stored", stored * 100.0);
        assert!(live > BOUND / 2, "{live}: the level was full");
        assert!(live <= most, "{processes} processes: {live} of {most}");
        assert!(stored > 0.25, "{stored}");
    }
}

#[tokio::test]
async fn churn_does_not_grow_the_tables_beyond_half_again() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    let bytes = Arc::new(connect(settings(&server)).await);
    let put = async |round: usize, numbers: std::ops::Range<usize>| {
        let puts = numbers.map(|n| {
            let size = 1_024 + (n * 7_919) % 15_000;
            bytes.put(format!("tollgate:entry:{n:032x}"), vec![u8::try_from(round).unwrap_or(0); size].into(), TTL)
        });
        for stored in join_all(puts).await {
            assert!(stored.expect("put"));
        }
    };
    put(0, 0..3_000).await;
    for round in 1..=5 {
        // What autovacuum does when 2 % of the rows are dead, not waited for: three times a round.
        for third in 0..3 {
            put(round, round * 400 + third * 300..round * 400 + (third + 1) * 300).await;
            server.sql("VACUUM tollgate_cache");
        }
    }
    let ratio = server.sql(
        "SELECT round(pg_total_relation_size('tollgate_cache') / (SELECT sum(bytes + length(name)) FROM tollgate_cache)::numeric, 2)",
    );
    println!("bytes on disk: {ratio} × live");
    assert!(ratio.parse::<f64>().expect("a number") <= 1.5, "{ratio} × live");
    let options = server.sql("SELECT reloptions FROM pg_class WHERE relname = 'tollgate_cache'");
    assert!(options.contains("autovacuum_vacuum_scale_factor=0.02"), "{options}");
}

#[tokio::test]
async fn tags_are_encoded_as_those_of_routes_are_and_rows_that_invalidate_nothing_are_refused() {
    if !wanted() {
        return;
    }
    let server = Postgres::start();
    settings(&server).migrate().await.expect("migrated");
    assert_eq!(server.sql("SELECT tollgate_encode('a b,ü%{z}')"), "a%20b%2C%C3%BC%25{z}");
    assert_eq!(server.sql("SELECT tollgate_encode(''), tollgate_encode(NULL) IS NULL"), "|t");
    server.sql("CREATE TABLE articles (id text); INSERT INTO articles VALUES ('a b')");
    settings(&server).watch("articles", ["article:{id}"]).await.expect("watched");
    server.sql(&format!("UPDATE articles SET id = id; INSERT INTO articles VALUES ('{}')", "x".repeat(300)));
    assert_eq!(server.sql("SELECT string_agg(tag, ' ') FROM tollgate_outbox"), "article:a%20b", "too long is no tag");
    for (column, value) in [("tag", "a b"), ("tag", ""), ("tag", "ü"), ("tag", "a,b"), ("path", "p/1"), ("prefix", "p")]
    {
        let refused = format!(
            "DO $$BEGIN INSERT INTO tollgate_outbox ({column}) VALUES ('{value}'); RAISE 'accepted';
             EXCEPTION WHEN check_violation THEN NULL; END$$"
        );
        server.sql(&refused);
    }
}
