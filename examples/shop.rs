//! A shop with users, plans, articles, a login, exports and a websocket, over sqlx and SQLite: `cargo run --example shop`.
//!
//! Authentication is an axum extractor, as in many services. Everything that Tollgate adds is in `shop/gate.rs` and, around the
//! routes and in the websocket, in `shop/api.rs`: thirty lines.
//!
//! ```text
//! cargo run --example shop
//! curl -i http://127.0.0.1:3005/articles/1
//! curl -i -d '{"name":"ada","password":"secret"}' -H 'content-type: application/json' http://127.0.0.1:3005/login
//! ```
//!
//! With another password, the sixth failed login of an address in a quarter of an hour is refused. A user has two exports at a
//! time. Articles are cached for a minute, unless one is written. A user has two sockets at a time, and sixty messages a minute over
//! them (`websocat -H 'authorization: Bearer TOKEN' ws://127.0.0.1:3005/ws`).
#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use std::net::SocketAddr;

use sqlx::sqlite::SqlitePoolOptions;

#[path = "shop/api.rs"]
mod api;
#[path = "shop/gate.rs"]
mod gate;
#[path = "common/shutdown.rs"]
mod shutdown;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let listen: SocketAddr = match (std::env::args().nth(1).as_deref(), std::env::args().nth(2)) {
        (None, _) => ([127, 0, 0, 1], 3005).into(),
        (Some("--listen"), Some(address)) => address.parse()?,
        _ => return Err("usage: shop [--listen ADDRESS:PORT]".into()),
    };
    // One connection: a database in memory belongs to it.
    let db = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    for statement in api::SCHEMA {
        sqlx::query(statement).execute(&db).await?;
    }
    let gate = gate::gate()?;
    let app = api::app(db, &gate);
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    println!("Tollgate's shop listens on http://{address}. Try:\n");
    println!("  curl -i http://{address}/articles/1");
    println!(
        "  curl -i -d '{{\"name\":\"ada\",\"password\":\"secret\"}}' -H 'content-type: application/json' http://{address}/login"
    );
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
    shutdown::within(shutdown::GRACE, server.with_graceful_shutdown(shutdown::signal())).await.unwrap_or(Ok(()))?;
    gate.shutdown().await;
    Ok(())
}
