//! Ends a server well: on SIGINT or SIGTERM it stops accepting, lets requests in flight finish, and exits after a grace
//! period at the latest, also if a client holds its connection open.
#![allow(dead_code, reason = "each example uses its part")]

use std::future::IntoFuture;
use std::time::Duration;

/// Time for requests in flight to finish. Kubernetes sends SIGKILL 30 s after SIGTERM.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Resolves when the process is asked to end: by Ctrl-C, or by SIGTERM, as sent by systemd, Docker and Kubernetes.
pub(crate) async fn signal() {
    let interrupt = async { drop(tokio::signal::ctrl_c().await) };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}

/// Waits for a server that stops after [`signal`] and then drains; `None` if that takes longer than `grace`.
pub(crate) async fn within<S: IntoFuture>(grace: Duration, server: S) -> Option<S::Output> {
    let overdue = async {
        signal().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        ended = server.into_future() => Some(ended),
        () = overdue => None,
    }
}
