//! The harvest hears sqlx: on SQLite, which works on a thread of its own, and on a PostgreSQL started for the test.
//!
//! PostgreSQL's half runs where `TOLLGATE_TEST_POSTGRES` is set, as `test.sh` does, and fails there where no server is
//! installed.

#[path = "support/harvested.rs"]
mod harvested;
#[path = "support/postgres.rs"]
mod postgres;

use harvested::{Database, Shop};
use postgres::Postgres;
use sqlx::{PgPool, SqlitePool};

/// One server for all tests of this file; it ends with the last of them.
async fn postgres() -> Option<(Postgres, PgPool)> {
    std::env::var_os("TOLLGATE_TEST_POSTGRES")?;
    let server = Postgres::start();
    let pool = harvested::postgres(&server.url()).await;
    Some((server, pool))
}

async fn each(check: impl AsyncFn(&dyn Database)) {
    harvested::install();
    let sqlite: SqlitePool = harvested::sqlite().await;
    check(&sqlite).await;
    if let Some((_server, pool)) = postgres().await {
        check(&pool).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_belong_to_the_request_that_makes_them() {
    each(async |db| {
        let shop = Shop::open(db).await;
        shop.ask("/one").await;
        shop.ask("/loop").await;
        shop.ask("/joined").await;
        assert_eq!(shop.queries("/one"), 1);
        assert_eq!(shop.queries("/loop"), 11);
        assert_eq!(shop.queries("/joined"), 4);
        assert_eq!(shop.rows("SELECT id FROM authors"), 10);
        let said = shop.said();
        assert_eq!(said, ["n+1 /loop SELECT title FROM books WHERE author = ? 10"]);
        assert_eq!(shop.timing.stats().harvest, tollgate::timing::HarvestState::Active);
        assert!(shop.timing.stats().pool.wait.count >= 16, "waits for connections are heard");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_do_not_mix() {
    each(async |db| {
        let shop = Shop::open(db).await;
        let asked = (0..60).map(|n| shop.ask(["/one", "/loop", "/joined"][n % 3]));
        futures_util::future::join_all(asked).await;
        assert_eq!((shop.queries("/one"), shop.queries("/loop"), shop.queries("/joined")), (20, 220, 80));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawned_task_in_the_span_belongs_and_a_bare_one_does_not() {
    each(async |db| {
        let shop = Shop::open(db).await;
        shop.ask("/spawned-in-span").await;
        assert_eq!(shop.queries("/spawned-in-span"), 2);
        let before = shop.timing.stats().unattributed.count;
        shop.ask("/spawned-bare").await;
        assert_eq!(shop.queries("/spawned-bare"), 0);
        assert!(shop.timing.stats().unattributed.count > before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_own_spans_may_stand_between() {
    each(async |db| {
        let shop = Shop::open(db).await;
        shop.ask("/instrumented").await;
        assert_eq!(shop.queries("/instrumented"), 2);
    })
    .await;
}
