//! The API, over SQLite or PostgreSQL. The tests use it unchanged.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use sqlx::{AnyPool, Row};
use tollgate::timing::TimingLayer;

/// Eight authors with two books each.
pub(crate) const SCHEMA: [&str; 4] = [
    "CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
    "CREATE TABLE books (title TEXT NOT NULL, author INTEGER NOT NULL)",
    "INSERT INTO authors VALUES (1, 'Austen'), (2, 'Borges'), (3, 'Calvino'), (4, 'Dickens'), (5, 'Eco'), \
     (6, 'Faulkner'), (7, 'Gogol'), (8, 'Hesse')",
    "INSERT INTO books SELECT 'First of ' || name, id FROM authors UNION ALL SELECT 'Second of ' || name, id FROM authors",
];

type Answer = Result<Json<Value>, StatusCode>;

/// Returns the measured service.
pub(crate) fn app(pool: AnyPool, timing: &TimingLayer) -> Router {
    let (for_stats, for_metrics) = (timing.clone(), timing.clone());
    Router::new()
        .route("/authors", get(one_by_one))
        .route("/authors-fixed", get(all_at_once))
        .layer(timing.clone())
        .route("/stats.json", get(async move || Json(json!(for_stats.stats()))))
        .route("/metrics", get(async move || for_metrics.prometheus()))
        .with_state(pool)
}

/// N+1: one query for the authors, and one for each of them.
async fn one_by_one(State(pool): State<AnyPool>) -> Answer {
    let authors = sqlx::query("SELECT id, name FROM authors ORDER BY id").fetch_all(&pool).await.map_err(failed)?;
    let mut list = Vec::new();
    for author in authors {
        let query = sqlx::query("SELECT title FROM books WHERE author = $1 ORDER BY title");
        let books = query.bind(author.get::<i32, _>(0)).fetch_all(&pool).await.map_err(failed)?;
        let titles: Vec<String> = books.iter().map(|book| book.get(0)).collect();
        list.push(json!({ "name": author.get::<String, _>(1), "books": titles }));
    }
    Ok(Json(json!(list)))
}

/// The same result from one query.
async fn all_at_once(State(pool): State<AnyPool>) -> Answer {
    let sql = "SELECT name, title FROM authors JOIN books ON author = id ORDER BY id, title";
    let rows = sqlx::query(sql).fetch_all(&pool).await.map_err(failed)?;
    let mut list: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        let (name, title): (String, String) = (row.get(0), row.get(1));
        match list.last_mut() {
            Some((last, titles)) if *last == name => titles.push(title),
            _ => list.push((name, vec![title])),
        }
    }
    Ok(Json(list.into_iter().map(|(name, titles)| json!({ "name": name, "books": titles })).collect()))
}

fn failed(error: sqlx::Error) -> StatusCode {
    tracing::error!(%error, "the database");
    StatusCode::INTERNAL_SERVER_ERROR
}
