//! What it costs to hear and to count a query, beside what it costs not to: `cargo bench --bench queries`.
//!
//! Compare rows of one run only. `said` is an event as sqlx 0.9 makes it, and is made in each of its rows: unheard,
//! heard by a layer that does nothing with it (sqlx's own cost), and harvested.
#![expect(clippy::expect_used, reason = "a bench may fail")]

use std::convert::Infallible;

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use tollgate::timing::{TimingLayer, fingerprint, harvest, timed, timed_query};
use tower::{Layer, Service};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const SQL: &str = "SELECT id, title, published FROM books WHERE author = $1 ORDER BY published DESC LIMIT 10";

fn main() {
    divan::Divan::from_args().sample_size(32).sample_count(2_000).main();
}

/// Runs `work` within one request, as often as the bench wants.
fn within_a_request(bencher: Bencher<'_, '_>, work: impl Fn()) {
    let work = std::sync::Mutex::new(Some((bencher, work)));
    let inner = tower::service_fn(|_: Request<()>| {
        if let Some((bencher, work)) = work.lock().expect("not poisoned").take() {
            bencher.bench_local(work);
        }
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let timing = TimingLayer::builder().repeats(tollgate::timing::Repeats::off()).build().expect("a layer");
    let _ = timing.layer(inner).call(Request::new(())).now_or_never();
}

mod counted {
    use super::*;

    #[divan::bench]
    fn by_a_word(bencher: Bencher<'_, '_>) {
        within_a_request(bencher, || _ = timed("books of an author", std::future::ready(())).now_or_never());
    }

    #[divan::bench]
    fn by_its_statement(bencher: Bencher<'_, '_>) {
        within_a_request(bencher, || _ = timed_query(black_box(SQL), std::future::ready(())).now_or_never());
    }
}

#[divan::bench]
fn fingerprint_of_a_statement(bencher: Bencher<'_, '_>) {
    bencher.bench(|| fingerprint(black_box(SQL)));
}

/// What sqlx does when a query has ended, line by line.
fn said() {
    if !tracing::enabled!(target: "sqlx::query", tracing::Level::DEBUG) {
        return;
    }
    let elapsed = std::time::Duration::from_micros(black_box(250));
    let mut summary = SQL.split_whitespace().take(4).collect::<Vec<&str>>().join(" ");
    summary.push_str(" …");
    let sql = format!("\n\n{SQL}\n");
    tracing::event!(
        target: "sqlx::query",
        tracing::Level::DEBUG,
        summary,
        db.statement = sql,
        rows_affected = 0_u64,
        rows_returned = 10_u64,
        ?elapsed,
        elapsed_secs = elapsed.as_secs_f64(),
    );
}

mod said {
    use super::*;

    /// Takes every event, and does nothing.
    struct Deaf;

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Deaf {}

    #[divan::bench]
    fn a_unheard(bencher: Bencher<'_, '_>) {
        let subscriber = tracing_subscriber::registry().with(Deaf.with_filter(LevelFilter::INFO));
        tracing::subscriber::with_default(subscriber, || within_a_request(bencher, said));
    }

    #[divan::bench]
    fn b_heard_by_nobody_in_particular(bencher: Bencher<'_, '_>) {
        let all = filter_fn(|metadata| metadata.target() == "sqlx::query");
        let subscriber = tracing_subscriber::registry().with(Deaf.with_filter(all));
        tracing::subscriber::with_default(subscriber, || within_a_request(bencher, said));
    }

    #[divan::bench]
    fn c_harvested(bencher: Bencher<'_, '_>) {
        let subscriber = tracing_subscriber::registry().with(Deaf.with_filter(LevelFilter::INFO)).with(harvest());
        tracing::subscriber::with_default(subscriber, || within_a_request(bencher, said));
    }
}

/// A request that makes one query over sqlx, on SQLite in memory: most of it is the way to SQLite's thread and back.
mod sqlite {
    use sqlx::sqlite::SqlitePoolOptions;
    use tower::ServiceExt;

    use super::*;

    fn one_query(bencher: Bencher<'_, '_>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let pool = SqlitePoolOptions::new().max_connections(1);
        let pool = runtime.block_on(pool.connect("sqlite::memory:")).expect("SQLite");
        let timing = TimingLayer::new().layer(tower::service_fn(move |_: Request<()>| {
            let pool = pool.clone();
            async move {
                let rows = sqlx::query("SELECT 1 WHERE 2 = $1").bind(3).fetch_all(&pool).await;
                black_box(rows.expect("no rows"));
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        }));
        bencher.bench_local(|| runtime.block_on(timing.clone().oneshot(Request::new(()))));
    }

    /// First, for it has no subscriber.
    #[divan::bench(sample_count = 300)]
    fn a_bare(bencher: Bencher<'_, '_>) {
        one_query(bencher);
    }

    /// With the process's subscriber: SQLite's thread knows no other.
    #[divan::bench(sample_count = 300)]
    fn b_harvested(bencher: Bencher<'_, '_>) {
        let subscriber = tracing_subscriber::registry().with(harvest());
        let _ = tracing::subscriber::set_global_default(subscriber);
        one_query(bencher);
    }
}
