//! The API of the shop. The tests use it unchanged.

use std::hash::{BuildHasher, RandomState};

use axum::body::Body;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use sqlx::SqlitePool;
use tollgate::Tollgate;
use tollgate::identity::Key;
use tollgate::limit::RateLimitLayer;

/// Two users and two articles. A service of your own hashes its passwords.
pub(crate) const SCHEMA: [&str; 5] = [
    "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, password TEXT NOT NULL, plan TEXT NOT NULL)",
    "CREATE TABLE sessions (token TEXT PRIMARY KEY, user INTEGER NOT NULL)",
    "CREATE TABLE articles (id INTEGER PRIMARY KEY, text TEXT NOT NULL)",
    "INSERT INTO users VALUES (1, 'ada', 'secret', 'pro'), (2, 'bob', 'hidden', 'free')",
    "INSERT INTO articles VALUES (1, 'a lamp'), (2, 'a chair')",
];

type Answer<T> = Result<T, StatusCode>;

/// A user, authenticated by the token of a session.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) id: u64,
    pub(crate) plan: String,
}

/// Result of the authentication, kept for the extractor.
#[derive(Clone)]
pub(crate) struct Authenticated(Answer<User>);

impl Authenticated {
    pub(crate) fn user(&self) -> Option<&User> {
        self.0.as_ref().ok()
    }
}

/// Returns the service within the gate.
pub(crate) fn app(db: SqlitePool, gate: &Tollgate) -> Router {
    Router::new()
        .route("/login", post(login))
        .route("/me", get(async |user: User| user.plan))
        .route("/articles/{id}", get(article).put(write_article))
        .route("/export", get(export))
        .route("/ws", get(socket))
        .layer(Extension(gate.limits().clone()))
        .layer(gate.layer())
        .layer(middleware::from_fn_with_state(db.clone(), authenticate))
        .with_state(db)
}

impl FromRequestParts<SqlitePool> for User {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, db: &SqlitePool) -> Answer<Self> {
        if let Some(Authenticated(known)) = parts.extensions.get() {
            return known.clone();
        }
        let field = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
        let token = field.and_then(|field| field.strip_prefix("Bearer ")).ok_or(StatusCode::UNAUTHORIZED)?;
        let sql = "SELECT id, plan FROM sessions JOIN users ON user = id WHERE token = $1";
        let found: Option<(i64, String)> = sqlx::query_as(sql).bind(token).fetch_optional(db).await.map_err(failed)?;
        found.map(|(id, plan)| Self { id: id.unsigned_abs(), plan }).ok_or(StatusCode::UNAUTHORIZED)
    }
}

/// Runs the extractor before the gate, so that limits know the user and it runs once.
async fn authenticate(State(db): State<SqlitePool>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let user = User::from_request_parts(&mut parts, &db).await;
    parts.extensions.insert(Authenticated(user));
    next.run(Request::from_parts(parts, body)).await
}

#[derive(Deserialize)]
struct Login {
    name: String,
    password: String,
}

/// Returns the token of a new session.
async fn login(State(db): State<SqlitePool>, Json(login): Json<Login>) -> Answer<String> {
    let found = sqlx::query_as("SELECT id FROM users WHERE name = $1 AND password = $2");
    let found = found.bind(login.name).bind(login.password).fetch_optional(&db).await.map_err(failed)?;
    let (user,): (i64,) = found.ok_or(StatusCode::UNAUTHORIZED)?;
    let token = format!("{:016x}{:016x}", RandomState::new().hash_one(user), RandomState::new().hash_one(user));
    let session = sqlx::query("INSERT INTO sessions VALUES ($1, $2)").bind(&token).bind(user);
    session.execute(&db).await.map_err(failed)?;
    Ok(token)
}

async fn article(State(db): State<SqlitePool>, Path(id): Path<i64>) -> Answer<String> {
    let found = sqlx::query_as("SELECT text FROM articles WHERE id = $1").bind(id).fetch_optional(&db).await;
    let (text,): (String,) = found.map_err(failed)?.ok_or(StatusCode::NOT_FOUND)?;
    Ok(text)
}

async fn write_article(_: User, State(db): State<SqlitePool>, Path(id): Path<i64>, text: String) -> Answer<()> {
    let written = sqlx::query("UPDATE articles SET text = $2 WHERE id = $1").bind(id).bind(text).execute(&db).await;
    if written.map_err(failed)?.rows_affected() == 1 { Ok(()) } else { Err(StatusCode::NOT_FOUND) }
}

/// Streams all articles.
async fn export(_: User, State(db): State<SqlitePool>) -> Answer<Body> {
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT text FROM articles ORDER BY id").fetch_all(&db).await.map_err(failed)?;
    let lines = rows.into_iter().map(|(text,)| Ok::<_, std::convert::Infallible>(text + "\n"));
    Ok(Body::from_stream(futures_util::stream::iter(lines)))
}

/// Returns every message to its sender. One beyond the limits is refused with a reference, and the socket stays open. It is in
/// progress until it is closed: its place is held beyond the handshake.
async fn socket(
    user: User,
    Extension(limits): Extension<RateLimitLayer>,
    extensions: Extensions,
    upgrade: WebSocketUpgrade,
) -> Response {
    let place = RateLimitLayer::hold_places(&extensions);
    upgrade.on_upgrade(async move |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            let Message::Text(text) = message else { continue };
            let decision = limits.subject(Key::number("user", user.id)).tier(&*user.plan).route("/ws").check(1).await;
            let answer = decision.reference().map(|reference| format!("refused {reference}").into());
            if socket.send(Message::Text(answer.unwrap_or(text))).await.is_err() {
                break;
            }
        }
        drop(place);
    })
}

fn failed(_: sqlx::Error) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}
