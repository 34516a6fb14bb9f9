//! The service: one route, whose answers come from the paid API and are cached for an hour.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};

use super::{BoxError, client};

/// Serves until it is killed, with `--file DIR` or `--postgres URL` behind memory; prints the address when the cache is ready.
pub(crate) async fn serve(level: &str, place: &str, api: &str) -> Result<(), BoxError> {
    let rules = Rules::new().route("/prices/{symbol}", Rule::ttl(Duration::from_secs(3_600)).same_for_everyone());
    let gate = Tollgate::builder().cache(rules).memory(64 << 20);
    let gate = match level {
        "--file" => gate.file(place, 64 << 20),
        #[cfg(feature = "postgres")]
        "--postgres" => gate.postgres(place),
        other => return Err(format!("{other}: no such level; PostgreSQL needs the feature postgres").into()),
    };
    let gate = gate.build()?;
    let app = Router::new().route("/prices/{symbol}", get(price)).layer(gate.layer()).with_state(Arc::from(api));
    // Levels are opened in the background: a request that comes earlier is a miss.
    while !gate.stats().cache.iter().all(|level| level.up) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn price(State(api): State<Arc<str>>, Path(symbol): Path<String>) -> Result<String, StatusCode> {
    client::get(&api, &format!("/v1/prices/{symbol}")).await.map_err(|_| StatusCode::BAD_GATEWAY)
}
