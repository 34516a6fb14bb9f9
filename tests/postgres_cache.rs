//! A fleet over one PostgreSQL: what nodes share, what they tell one another, and what transactions tell them.
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "a test may fail, and guards against hanging")]

#[path = "support/cache_world.rs"]
mod cache_world;
#[path = "support/fleet.rs"]
mod fleet;
#[path = "support/pgbouncer.rs"]
mod pgbouncer;
#[path = "support/postgres.rs"]
mod postgres;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cache_world::{Asked, Fault, Reply, World, reply};
use fleet::{until, until_async};
use pgbouncer::PgBouncer;
use postgres::{Postgres, wanted};
use tokio_postgres::{Client, NoTls};
use tollgate::cache::{CacheBuilder, DataCache, LevelStats, Rule, Rules};
use tollgate::store::RemoteStore;
use tollgate::store::postgres::Postgres as Settings;
use tollgate::{Clock, ManualClock, Tollgate};

const TAGGED: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("cache-tag", "prices")];

/// Nodes over one server, whose origin is one: it answers the number of the call.
struct Fleet {
    server: Postgres,
    clock: ManualClock,
    calls: Arc<AtomicUsize>,
}

impl Fleet {
    fn new() -> Self {
        Self { server: Postgres::start(), clock: ManualClock::new(), calls: Arc::default() }
    }

    async fn node(&self) -> World {
        self.node_at(&self.server.url()).await
    }

    async fn node_at(&self, url: &str) -> World {
        let store = RemoteStore::postgres(Settings::new(url).expect("a URL")).expect("settings");
        let set = |builder: CacheBuilder| {
            builder.memory(1 << 20).clock(Clock::Manual(self.clock.clone())).level_2(Arc::new(store))
        };
        let node = World { clock: self.clock.clone(), ..World::with(set, self.origin()) };
        until("the node has joined", || level(&node).up).await;
        node
    }

    fn origin(&self) -> impl Fn(Asked) -> std::future::Ready<Result<Reply, Fault>> + Send + Sync + 'static {
        let calls = self.calls.clone();
        move |_| std::future::ready(Ok(reply(TAGGED, calls.fetch_add(1, Ordering::SeqCst).to_string())))
    }

    /// Waits until so many entries are in the table: they are put there behind the client's back.
    async fn shared(&self, entries: usize) {
        let count = || self.server.sql("SELECT count(*) FROM tollgate_cache WHERE name LIKE 'tollgate:entry:%'");
        until("the entry is in PostgreSQL", || count() == entries.to_string()).await;
    }

    async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.server.url(), NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client
    }
}

fn level(world: &World) -> LevelStats {
    world.stats().levels.into_iter().find(|level| level.name == "postgres").expect("a level in PostgreSQL")
}

/// Waits until a node answers with another body than this; returns how long that took.
async fn replaced(node: &World, path: &str, body: &str) -> Duration {
    let since = Instant::now();
    until_async("an old response is no longer served", async || node.get(path).await.body != body).await;
    since.elapsed()
}

/// What two nodes serve, once neither puts a response that replaces the other's.
async fn settled(a: &World, b: &World, path: &str) -> (String, String) {
    let both = async || (a.get(path).await.body, b.get(path).await.body);
    let mut served = both().await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        served = both().await;
    }
    served
}

#[tokio::test]
async fn nodes_share_entries_tags_prefixes_and_soft_purges() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let (a, b) = (fleet.node().await, fleet.node().await);
    assert_eq!(a.get("/a").await.body, "0");
    fleet.shared(1).await;
    let second = b.get("/a").await;
    assert!(second.is_hit() && second.body == "0", "{}", second.status_line());
    assert_eq!((level(&a).hits, level(&b).hits), (0, 1));
    a.layer.invalidate().tag("prices").await.expect("logged");
    assert_eq!(a.get("/a").await.body, "1");
    assert!(replaced(&b, "/a", "0").await < Duration::from_secs(1), "through LISTEN");
    let (old_a, old_b) = (a.get("/a").await.body, b.get("/a").await.body);
    b.layer.invalidate().prefix("/a").await.expect("logged");
    assert!(replaced(&a, "/a", &old_a).await.max(replaced(&b, "/a", &old_b).await) < Duration::from_secs(1));
    let (old_a, old_b) = (a.get("/a").await.body, b.get("/a").await.body);
    a.layer.invalidate().soft().tag("prices").await.expect("logged");
    assert!(replaced(&a, "/a", &old_a).await.max(replaced(&b, "/a", &old_b).await) < Duration::from_secs(1));
}

#[tokio::test]
async fn typed_values_are_shared_and_invalidated() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let node = async || {
        let store = RemoteStore::postgres(Settings::new(&fleet.server.url()).expect("a URL")).expect("settings");
        let data = DataCache::builder().memory(8 << 20).level_2(Arc::new(store)).build();
        let prices =
            data.cached::<String>("prices").ttl(Duration::from_secs(60)).tag("prices").build().expect("a name");
        until_async("the node has joined", async || {
            prices.get(0_u64).await;
            data.levels().iter().any(|level| level.name == "postgres" && level.up)
        })
        .await;
        (data, prices)
    };
    let ((_one, a), (_two, b)) = (node().await, node().await);
    a.put(7_u64, "seven".to_owned()).await.expect("stored");
    assert_eq!(b.get(7_u64).await.as_deref().map(String::as_str), Some("seven"));
    b.invalidate().tag("prices").await.expect("logged");
    until_async("the value is gone", async || a.get(7_u64).await.is_none()).await;
}

#[tokio::test]
async fn one_line_is_enough_also_beside_redis() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let rules = || Rules::new().route("/a", Rule::ttl(Duration::from_secs(60)));
    let gate = Tollgate::builder().cache(rules()).postgres(fleet.server.url()).build().expect("a gate");
    until("the gate has joined", || gate.stats().cache.iter().any(|level| level.name == "postgres" && level.up)).await;
    let upstream = Tollgate::upstream("market").cache(rules()).postgres(fleet.server.url()).build();
    assert!(upstream.is_ok(), "{upstream:?}");
    let both = Tollgate::builder().cache(rules()).redis("redis://127.0.0.1").postgres("postgres://127.0.0.1").build();
    let names = |gate: Tollgate| gate.stats().cache.into_iter().map(|level| level.name).collect::<Vec<_>>();
    assert_eq!(both.map(names).expect("a gate"), ["memory", "redis", "postgres"]);
    let twice = Tollgate::builder().redis("redis://127.0.0.1").redis("redis://127.0.0.2").build();
    assert!(twice.is_err_and(|error| error.is_config() && error.to_string().contains("called twice")));
    let wrong = Tollgate::builder().cache(rules()).postgres("mysql://127.0.0.1").build();
    assert!(wrong.is_err_and(|error| error.to_string().contains("must begin with postgres://")));
}

#[tokio::test]
async fn a_row_of_a_transaction_invalidates_on_commit_on_all_nodes_and_on_rollback_nowhere() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let (a, b) = (fleet.node().await, fleet.node().await);
    let mut writer = fleet.client().await;
    for insert in [
        "INSERT INTO tollgate_outbox (tag) VALUES ('prices')",
        "INSERT INTO tollgate_outbox (path) VALUES ('/a?x=1')",
        "INSERT INTO tollgate_outbox (prefix, soft) VALUES ('/a', true)",
    ] {
        let (old_a, old_b) = settled(&a, &b, "/a?x=1").await;
        let transaction = writer.transaction().await.expect("a transaction");
        transaction.batch_execute(insert).await.expect("inserted");
        transaction.rollback().await.expect("rolled back");
        // A later invalidation has arrived everywhere; the one that was rolled back would have, too.
        let transaction = writer.transaction().await.expect("a transaction");
        transaction.batch_execute("INSERT INTO tollgate_outbox (tag) VALUES ('other')").await.expect("inserted");
        transaction.commit().await.expect("committed");
        let last = || {
            fleet
                .server
                .sql("SELECT coalesce(max(position) FILTER (WHERE tag = 'other'), 0) FROM tollgate_invalidations")
        };
        until("it is numbered", || last() != "0").await;
        let last: u64 = last().parse().expect("a number");
        until("it has arrived", || [&a, &b].iter().all(|node| level(node).invalidations_received >= last)).await;
        assert_eq!(
            (a.get("/a?x=1").await.body, b.get("/a?x=1").await.body),
            (old_a.clone(), old_b.clone()),
            "{insert}"
        );
        let transaction = writer.transaction().await.expect("a transaction");
        transaction.batch_execute(insert).await.expect("inserted");
        transaction.commit().await.expect("committed");
        let took = replaced(&a, "/a?x=1", &old_a).await.max(replaced(&b, "/a?x=1", &old_b).await);
        assert!(took < Duration::from_secs(1), "{insert}: {took:?}");
    }
}

#[tokio::test]
async fn a_watched_table_invalidates_what_its_rows_name() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let node = fleet.node().await;
    let server = &fleet.server;
    server.sql("CREATE TABLE articles (id bigint, price text); INSERT INTO articles VALUES (1, 'prices'), (2, NULL)");
    let settings = Settings::new(&server.url()).expect("a URL");
    settings.watch("articles", ["other"]).await.expect("watched");
    settings.watch("public.articles", ["article:{id}", "{price}", "all"]).await.expect("watched again");
    server.sql("CREATE ROLE writer LOGIN; GRANT INSERT, UPDATE, DELETE, SELECT ON articles TO writer");
    let tags = |statement: &str| {
        server.sql("TRUNCATE tollgate_outbox");
        // Numbered by no node: the transaction is still open.
        let seen = server.sql(&format!(
            "BEGIN; SET ROLE writer; {statement}; RESET ROLE;
             SELECT string_agg(tag, ' ' ORDER BY tag) FROM tollgate_outbox; ROLLBACK"
        ));
        seen.lines().next_back().unwrap_or_default().to_owned()
    };
    assert_eq!(tags("UPDATE articles SET id = id + 10"), "all article:1 article:11 article:12 article:2 prices");
    assert_eq!(tags("INSERT INTO articles VALUES (3, 'x'), (3, 'x')"), "all article:3 x");
    assert_eq!(tags("DELETE FROM articles WHERE id = 2"), "all article:2");
    assert_eq!(tags("DELETE FROM articles WHERE id = 99"), "");
    let old = node.get("/a").await.body;
    server.sql("UPDATE articles SET price = 'dearer' WHERE id = 1");
    assert!(replaced(&node, "/a", &old).await < Duration::from_secs(1));
}

#[tokio::test]
async fn the_views_show_what_is_stored() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let store = RemoteStore::postgres(Settings::new(&fleet.server.url()).expect("a URL")).expect("settings");
    let fields = &[("cache-control", "max-age=60"), ("content-type", "application/json")];
    let answer = move |_| std::future::ready(Ok::<_, Fault>(reply(fields, r#"{"price": 42}"#)));
    let node = World::with(|builder| builder.memory(1 << 20).level_2(Arc::new(store)), answer);
    until("the node has joined", || level(&node).up).await;
    node.get("/prices/ACME?in=eur").await;
    fleet.shared(1).await;
    let row = "SELECT namespace, url, status, content_type, is_fresh, body ->> 'price',
        fresh_until - now() BETWEEN interval '55 s' AND interval '61 s' FROM api_cache";
    let expected = "example.com|http://example.com/prices/ACME?in=eur|200|application/json|t|42|t";
    assert_eq!(fleet.server.sql(row), expected);
    assert_eq!(fleet.server.sql("SELECT namespace, entries, fresh_percent FROM cache_stats"), "example.com|1|100.0");
}

#[tokio::test]
async fn a_transaction_that_was_open_across_hundreds_of_commits_loses_nothing() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let node = fleet.node().await;
    let old = node.get("/slow").await.body;
    let (mut slow, fast) = (fleet.client().await, fleet.client().await);
    let transaction = slow.transaction().await.expect("a transaction");
    transaction.batch_execute("INSERT INTO tollgate_outbox (tag) VALUES ('prices')").await.expect("inserted");
    for n in 0..300 {
        fast.batch_execute(&format!("INSERT INTO tollgate_outbox (tag) VALUES ('n{n}')")).await.expect("inserted");
    }
    until("the others are numbered", || {
        fleet.server.sql("SELECT count(*) FROM tollgate_invalidations WHERE tag LIKE 'n%'") == "300"
    })
    .await;
    assert_eq!(node.get("/slow").await.body, old, "not yet committed");
    transaction.commit().await.expect("committed");
    assert!(replaced(&node, "/slow", &old).await < Duration::from_secs(1));
    let gaps = "SELECT max(position) - min(position) + 1 = count(*) FROM tollgate_invalidations";
    assert_eq!(
        (fleet.server.sql(gaps), fleet.server.sql("SELECT count(*) FROM tollgate_outbox")),
        ("t".into(), "0".into())
    );
}

#[tokio::test]
async fn acknowledged_invalidations_survive_a_kill_and_memory_goes_on() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let (a, b) = (fleet.node().await, fleet.node().await);
    let old = a.get("/a").await.body;
    let kept = a.get("/kept").await.body;
    fleet.shared(2).await;
    assert_eq!(b.get("/kept").await.body, kept);
    a.layer.invalidate().key("/a").await.expect("acknowledged");
    fleet.server.kill();
    for _ in 0..50 {
        let since = Instant::now();
        assert_eq!(b.get("/kept").await.body, kept, "from its memory");
        a.get("/new").await;
        assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
    }
    let pending = a.layer.invalidate().key("/kept").await.expect_err("not acknowledged").to_string();
    assert!(pending.contains("when postgres is back (1 pending)"), "{pending}");
    fleet.server.restart();
    let since = Instant::now();
    until("both are back", || level(&a).up && level(&b).up).await;
    let took = since.elapsed();
    println!("back after {took:?}");
    assert!(took < Duration::from_secs(1), "back after {took:?}");
    assert!(replaced(&b, "/kept", &kept).await < Duration::from_secs(2), "the pending one was appended");
    let fresh = fleet.node().await;
    assert_ne!(fresh.get("/a").await.body, old, "what was acknowledged stays invalidated");
}

#[tokio::test]
async fn rows_that_were_committed_while_nodes_were_away_are_not_lost() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let node = fleet.node().await;
    let old = node.get("/a").await.body;
    fleet.server.kill();
    until_async("the node has noticed", async || {
        node.get("/b").await;
        !level(&node).up
    })
    .await;
    fleet.server.restart();
    fleet.server.sql("INSERT INTO tollgate_outbox (tag) VALUES ('prices')");
    assert!(replaced(&node, "/a", &old).await < Duration::from_secs(2));
    // The session that listens was cut alone.
    let old = node.get("/a").await.body;
    fleet.server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = 'tollgate' AND query LIKE 'SELECT pg_notify%'",
    );
    fleet.server.sql("INSERT INTO tollgate_outbox (tag) VALUES ('prices')");
    assert!(replaced(&node, "/a", &old).await < Duration::from_secs(3));
}

#[tokio::test]
async fn tables_that_were_dropped_are_created_again() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let node = fleet.node().await;
    node.get("/a").await;
    fleet.server.sql(
        "DO $$ BEGIN EXECUTE (SELECT string_agg('DROP TABLE ' || tablename || ' CASCADE', ';')
        FROM pg_tables WHERE schemaname = 'public'); END $$",
    );
    until_async("the tables are there again", async || {
        node.get(&format!("/{}", fleet.calls.load(Ordering::SeqCst))).await;
        fleet.server.sql("SELECT to_regclass('tollgate_cache') IS NOT NULL") == "t" && level(&node).up
    })
    .await;
    let old = node.get("/b").await.body;
    fleet.server.sql("INSERT INTO tollgate_outbox (tag) VALUES ('prices')");
    replaced(&node, "/b", &old).await;
}

#[tokio::test]
async fn a_server_that_hangs_delays_no_request_beyond_the_deadline_and_then_none() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let node = fleet.node().await;
    node.get("/a").await;
    fleet.server.stop();
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let since = Instant::now();
        node.get(&format!("/new/{n}")).await;
        slowest = slowest.max(since.elapsed());
    }
    // The deadline is 50 ms; ten times that is hanging.
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    until("the circuit is open", || !level(&node).up).await;
    let since = Instant::now();
    for n in 0..100 {
        node.get(&format!("/open/{n}")).await;
    }
    println!("slowest {slowest:?}; a hundred misses while it hangs {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_millis(1_000), "{:?}", since.elapsed());
    fleet.server.cont();
    let since = Instant::now();
    until_async("it is back", async || {
        node.get("/b").await;
        level(&node).up
    })
    .await;
    println!("back after {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn behind_a_transaction_pooler_everything_works_and_rows_invalidate_within_six_seconds() {
    if !wanted() {
        return;
    }
    let fleet = Fleet::new();
    let pooler = PgBouncer::start(&fleet.server);
    let (a, b) = (fleet.node_at(&pooler.url()).await, fleet.node_at(&pooler.url()).await);
    assert_eq!(a.get("/a").await.body, "0");
    fleet.shared(1).await;
    let shared = b.get("/a").await;
    assert!(shared.is_hit() && shared.body == "0", "{}", shared.status_line());
    for _ in 0..3 {
        let (old_a, old_b) = (a.get("/a").await.body, b.get("/a").await.body);
        fleet.server.sql("INSERT INTO tollgate_outbox (tag) VALUES ('prices')");
        let took = replaced(&a, "/a", &old_a).await.max(replaced(&b, "/a", &old_b).await);
        println!("behind a pooler: {took:?}");
        assert!(took < Duration::from_secs(6), "{took:?}");
    }
    let old = b.get("/a").await.body;
    a.layer.invalidate().tag("prices").await.expect("logged");
    assert!(replaced(&b, "/a", &old).await < Duration::from_secs(6));
    let failures = (level(&a).decode_errors, level(&b).decode_errors);
    assert_eq!(failures, (0, 0));
}
