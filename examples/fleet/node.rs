//! One node: an axum service behind a gate over Redis. Prints its port, and ends when its input does.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tollgate::Tollgate;
use tollgate::cache::{Rule, Rules};
use tollgate::limit::{Limit, Quota};

/// Limit of the whole fleet on `/limited`, per minute.
pub(crate) const LIMIT: u32 = 100;

pub(crate) async fn serve(url: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let rule = Rule::ttl(Duration::from_secs(600)).tag("prices").same_for_everyone();
    let gate = Tollgate::builder()
        .limit(Limit::per_ip(Quota::per_minute(LIMIT)).on("/limited"))
        .cache(Rules::new().route("/prices/{symbol}", rule))
        .redis(url)
        .build()?;
    let fetched = Arc::new(AtomicU64::new(0));
    let price = {
        let fetched = fetched.clone();
        async move |Path(symbol): Path<String>| {
            let number = fetched.fetch_add(1, Ordering::Relaxed);
            format!("{symbol} costs {number}")
        }
    };
    let (told, forgot) = (gate.clone(), gate.clone());
    let app = Router::new()
        .route("/limited", get(async || "admitted"))
        .route("/prices/{symbol}", get(price))
        .layer(gate.layer())
        .route(
            "/invalidate",
            get(async move || forgot.invalidate().tag("prices").await.map_err(|error| error.to_string())),
        )
        .route(
            "/stats",
            get(async move || {
                let stats = told.stats();
                let far = stats.cache.iter().find(|level| level.name == "redis");
                Json(json!({
                    "fetched": fetched.load(Ordering::Relaxed),
                    "up": far.is_some_and(|far| far.up) && stats.remote.is_some_and(|limits| limits.up),
                }))
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
    // The parent process holds the input open; this node ends when it is closed.
    let over = async { drop(tokio::io::stdin().read(&mut [0; 1]).await) };
    server.with_graceful_shutdown(over).await?;
    Ok(())
}
