//! A cache level over a plain HTTP key-value service: `GET`, `PUT` and `DELETE` of `/NAME`, with `Tollgate-Ttl` in
//! milliseconds. The recipe for DynamoDB, an object store or a REST service of your own.
//!
//! ```text
//! cargo run --example http_kv
//! ```
//!
//! The service keeps no log, so invalidations by tag stay in their process, and other processes keep copies in memory
//! for five seconds at most. A removal removes.

#![expect(clippy::print_stdout, reason = "an example speaks to its terminal")]

#[path = "http_kv/client.rs"]
mod client;
#[path = "http_kv/service.rs"]
mod service;

use std::sync::Arc;
use std::time::Duration;

use axum::{Router, routing::get};
use client::HttpKv;
use http::Request;
use tollgate::cache::{CacheLayer, Rule, Rules};
use tollgate::store::{RemoteSettings, RemoteStore};
use tower::ServiceExt;

/// A node: an application whose cache has the service behind its memory.
fn node(address: std::net::SocketAddr) -> Result<Router, tollgate::Error> {
    let settings = RemoteSettings::new("http-kv").secret("the same on every node");
    let store = RemoteStore::new(HttpKv::new(format!("http://{address}")), settings)?;
    let rules = Rules::new().route("/price", Rule::ttl(Duration::from_secs(60)));
    let layer = CacheLayer::builder().rules(rules).cache_status(true).level_2(Arc::new(store)).build()?;
    let price = || async {
        println!("the upstream is asked");
        "42"
    };
    Ok(Router::new().route("/price", get(price)).layer(layer))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = service::serve().await?;
    for name in ["one", "two", "one, restarted"] {
        let request = Request::get("/price").header("host", "example.com").body(axum::body::Body::empty())?;
        let response = node(address)?.oneshot(request).await?;
        println!("node {name}: {}", response.headers()["cache-status"].to_str()?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tollgate::testing::contract::bytes(Arc::new(HttpKv::new(format!("http://{address}")))).await;
    println!("the contract of byte stores is kept");
    Ok(())
}
