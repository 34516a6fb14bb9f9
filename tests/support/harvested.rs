//! A shop of books over sqlx, on SQLite or PostgreSQL, behind a timing layer that hears its queries.
#![allow(dead_code, clippy::expect_used, reason = "each test binary uses its own part, and may fail")]

use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{ConnectOptions, Row};
use tollgate::Event;
use tollgate::timing::{TimingLayer, harvest};
use tower::ServiceExt;
use tracing::Instrument;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;

/// What the program prints, at `INFO`, beside the harvest: once for all tests of a binary.
pub(crate) fn install() {
    static INSTALLED: std::sync::Once = std::sync::Once::new();
    INSTALLED.call_once(|| {
        let own = tracing_subscriber::fmt::layer().with_test_writer().with_filter(LevelFilter::INFO);
        let subscriber = tracing_subscriber::registry().with(own).with(harvest());
        tracing::subscriber::set_global_default(subscriber).expect("the only subscriber");
    });
}

pub(crate) const AUTHORS: &str = "SELECT id FROM authors";
pub(crate) const BOOKS: &str = "SELECT title FROM books WHERE author = $1";

const SCHEMA: [&str; 4] = [
    "CREATE TABLE authors (id INTEGER PRIMARY KEY)",
    "CREATE TABLE books (title TEXT, author INTEGER)",
    "INSERT INTO authors VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9), (10)",
    "INSERT INTO books SELECT 'a secret title', id FROM authors",
];

/// A pool of either kind.
pub(crate) trait Database: Send + Sync {
    fn cloned(&self) -> Arc<dyn Database>;
    fn authors(&self) -> BoxFuture<'_, Vec<i32>>;
    fn books(&self, author: i32) -> BoxFuture<'_, usize>;
}

macro_rules! database {
    ($pool:ty) => {
        impl Database for $pool {
            fn cloned(&self) -> Arc<dyn Database> {
                Arc::new(self.clone())
            }

            fn authors(&self) -> BoxFuture<'_, Vec<i32>> {
                Box::pin(async move {
                    let rows = sqlx::query(AUTHORS).fetch_all(self).await.expect("authors");
                    rows.iter().map(|row| row.get(0)).collect()
                })
            }

            fn books(&self, author: i32) -> BoxFuture<'_, usize> {
                Box::pin(async move { sqlx::query(BOOKS).bind(author).fetch_all(self).await.expect("books").len() })
            }
        }
    };
}

database!(SqlitePool);
database!(PgPool);

pub(crate) async fn sqlite() -> SqlitePool {
    let options = SqliteConnectOptions::from_str("sqlite::memory:").expect("options").shared_cache(false);
    let pool = SqlitePoolOptions::new().max_connections(1).acquire_time_level(log::LevelFilter::Debug);
    let pool = pool.connect_with(options).await.expect("SQLite");
    for statement in SCHEMA {
        sqlx::query(statement).execute(&pool).await.expect(statement);
    }
    pool
}

pub(crate) async fn postgres(url: &str) -> PgPool {
    let options = PgConnectOptions::from_str(url).expect("options").log_statements(log::LevelFilter::Debug);
    let pool = PgPoolOptions::new().max_connections(4).acquire_time_level(log::LevelFilter::Debug);
    let pool = pool.connect_with(options).await.expect("PostgreSQL");
    for statement in SCHEMA {
        sqlx::query(statement).execute(&pool).await.expect(statement);
    }
    pool
}

/// The service, its timing, and what was found.
pub(crate) struct Shop {
    pub(crate) timing: TimingLayer,
    app: Router,
    said: Arc<Mutex<Vec<String>>>,
}

impl Shop {
    pub(crate) async fn open(db: &dyn Database) -> Self {
        let said = Arc::new(Mutex::new(Vec::new()));
        let sink = said.clone();
        let timing = TimingLayer::builder()
            .slow_after(Duration::from_secs(3_600))
            .slow_query_after(Duration::from_secs(3_600))
            .starved_after(Duration::from_secs(3_600))
            .hook(move |event: &Event<'_>| {
                let line = match event {
                    Event::NPlusOne { route, query, count, .. } => format!("n+1 {route} {query} {count}"),
                    Event::Warning { code, message } => format!("warning {code}: {message}"),
                    _ => return,
                };
                sink.lock().expect("not poisoned").push(line);
            })
            .build()
            .expect("a layer");
        let app = routes(&db.cloned()).layer(timing.clone());
        Self { timing, app, said }
    }

    pub(crate) async fn ask(&self, path: &str) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = self.app.clone().oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }

    pub(crate) fn queries(&self, route: &str) -> u64 {
        self.timing.stats().route(route).map_or(0, |route| route.queries)
    }

    pub(crate) fn rows(&self, query: &str) -> u64 {
        let stats = self.timing.stats();
        stats.query(query).map_or(0, |query| query.rows / query.latency.count)
    }

    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().expect("not poisoned").clone()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.said().into_iter().filter(|line| line.starts_with("warning")).collect()
    }
}

async fn each_author(db: Arc<dyn Database>) {
    for author in db.authors().await {
        db.books(author).await;
    }
}

async fn two(db: Arc<dyn Database>) {
    db.books(1).await;
    db.books(2).await;
}

fn routes(db: &Arc<dyn Database>) -> Router {
    let handler = |work: fn(Arc<dyn Database>) -> BoxFuture<'static, ()>| {
        let db = db.clone();
        get(move || work(db.clone()))
    };
    Router::new()
        .route("/one", handler(|db| Box::pin(async move { drop(db.authors().await) })))
        .route("/loop", handler(|db| Box::pin(each_author(db))))
        .route(
            "/joined",
            handler(|db| {
                Box::pin(async move {
                    tokio::join!(db.books(1), db.books(2), db.books(3), db.books(4));
                })
            }),
        )
        .route(
            "/spawned-in-span",
            handler(|db| {
                Box::pin(async move { tokio::spawn(two(db).in_current_span()).await.expect("the task ended") })
            }),
        )
        .route(
            "/spawned-bare",
            handler(|db| Box::pin(async move { tokio::spawn(two(db)).await.expect("the task ended") })),
        )
        .route(
            "/instrumented",
            handler(|db| Box::pin(two(db).instrument(tracing::info_span!("the program's own", secret = "value")))),
        )
}
