//! A pretend API that charges for each call.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use tokio::net::TcpListener;

use super::BoxError;

/// The running API.
pub(crate) struct PaidApi {
    pub(crate) address: SocketAddr,
    calls: Arc<AtomicUsize>,
}

impl PaidApi {
    pub(crate) async fn start() -> Result<Self, BoxError> {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let answer = move |Path(symbol): Path<String>| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::ready(price(&symbol))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let app = Router::new().route("/v1/prices/{symbol}", get(answer));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { address, calls })
    }

    /// Returns the number of calls that were paid.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// The price of a symbol.
pub(crate) fn price(symbol: &str) -> String {
    format!("{symbol} {}.00\n", symbol.len() * 100)
}
