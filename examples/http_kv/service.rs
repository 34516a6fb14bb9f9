//! The key-value service, in this process: any that answers `GET`, `PUT` and `DELETE` would do.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use tollgate::{Clock, Timestamp};

type Values = Arc<Mutex<HashMap<String, (Bytes, Timestamp)>>>;

/// Starts the service on a free port.
pub(crate) async fn serve() -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let routes = get(read).put(write).delete(remove);
    let app =
        Router::new().route("/{name}", routes).layer(DefaultBodyLimit::max(16 << 20)).with_state(Values::default());
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

async fn read(State(values): State<Values>, Path(name): Path<String>) -> Result<Bytes, StatusCode> {
    let values = values.lock().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let found = values.get(&name).filter(|(_, until)| Clock::System.now() < *until);
    found.map(|(value, _)| value.clone()).ok_or(StatusCode::NOT_FOUND)
}

async fn write(
    State(values): State<Values>,
    Path(name): Path<String>,
    headers: HeaderMap,
    value: Bytes,
) -> Result<(), StatusCode> {
    let ttl = headers.get("tollgate-ttl").and_then(|ttl| ttl.to_str().ok()?.parse().ok());
    let until = Clock::System.now() + Duration::from_millis(ttl.ok_or(StatusCode::BAD_REQUEST)?);
    values.lock().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?.insert(name, (value, until));
    Ok(())
}

async fn remove(State(values): State<Values>, Path(name): Path<String>) -> Result<(), StatusCode> {
    let mut values = values.lock().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    values.remove(&name).map(drop).ok_or(StatusCode::NOT_FOUND)
}
