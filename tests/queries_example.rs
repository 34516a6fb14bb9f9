//! The example of queries, on SQLite and on a PostgreSQL started for it: a finding for one route, and none for its twin.
#![expect(clippy::expect_used, reason = "a test may fail")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use sqlx::any::AnyPoolOptions;
use tollgate::Event;
use tollgate::timing::{FindingKind, TimingLayer, harvest};
use tower::ServiceExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;

#[path = "../examples/queries/api.rs"]
mod api;
#[path = "support/postgres.rs"]
mod postgres;

/// What the service prints, as a developer reads it.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    fn taken(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().expect("not poisoned"))).expect("text")
    }
}

impl std::io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn ask(app: &axum::Router, path: &str) -> (String, String) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let (head, body) = app.clone().oneshot(request).await.expect("an answer").into_parts();
    assert_eq!(head.status, StatusCode::OK);
    let said = head.headers.get("server-timing").map(|value| value.to_str().expect("ASCII").to_owned());
    let body = body.collect().await.expect("a body").to_bytes();
    (said.unwrap_or_default(), String::from_utf8(body.to_vec()).expect("text"))
}

async fn check(url: &str, printed: &Printed) {
    let pool = AnyPoolOptions::new().max_connections(2).acquire_time_level(log::LevelFilter::Debug);
    let pool = pool.connect(url).await.expect("a database");
    for statement in api::SCHEMA {
        sqlx::query(statement).execute(&pool).await.expect(statement);
    }
    let long = Duration::from_secs(3_600);
    let timing = TimingLayer::builder().server_timing(true).slow_after(long).slow_query_after(long).starved_after(long);
    let timing = timing.hook(|event: &Event<'_>| assert!(!format!("{event:?}").contains("Austen"))).build();
    let app = api::app(pool, &timing.expect("a layer"));

    let (said, fixed) = ask(&app, "/authors-fixed").await;
    assert!(said.contains("desc=\"1 query\"") && said.contains("pool;dur="), "{said}");
    assert_eq!(printed.taken(), "", "nothing to find");

    let (said, looped) = ask(&app, "/authors").await;
    assert_eq!(looped, fixed, "the same answer");
    assert!(said.contains("desc=\"9 queries\""), "{said}");
    let warning = printed.taken();
    let query = "query=\"SELECT title FROM books WHERE author = ? ORDER BY title\"";
    assert!(warning.contains("WARN") && warning.contains("N+1") && warning.contains(query), "{warning}");
    assert!(warning.contains("route=\"/authors\" ") && warning.contains("count=8"), "{warning}");
    assert_eq!(warning.lines().count(), 1, "{warning}");

    let (_, stats) = ask(&app, "/stats.json").await;
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats["findings"][0]["kind"], FindingKind::NPlusOne.as_str());
    let (_, metrics) = ask(&app, "/metrics").await;
    assert!(metrics.contains("tollgate_findings_total{http_route=\"/authors\",kind=\"n_plus_one\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loop_is_found_and_its_twin_is_not() {
    let printed = Printed::default();
    let writer = printed.clone();
    let print = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry().with(print.with_filter(LevelFilter::INFO)).with(harvest());
    tracing::subscriber::set_global_default(subscriber).expect("the only subscriber");
    sqlx::any::install_default_drivers();

    let file = std::env::temp_dir().join(format!("tollgate-queries-test-{}.sqlite", std::process::id()));
    check(&format!("sqlite://{}?mode=rwc", file.display()), &printed).await;
    std::fs::remove_file(&file).expect("the file was there");
    if std::env::var_os("TOLLGATE_TEST_POSTGRES").is_some() {
        let server = postgres::Postgres::start();
        check(&server.url(), &printed).await;
    }
}
