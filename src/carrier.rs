//! What goes along when work leaves the request's task.
//!
//! A cache fetches in a detached task, so that a client that leaves cancels nothing. That work still belongs to the
//! request that caused it: its queries are counted there and its log lines stand under that request's span. The
//! timing layer runs each request inside a scope; [`carry`] captures the scope (and, with the feature `tracing`, the
//! current span) and runs a future inside it, wherever that future is polled.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;

/// The request's own log, opaque here: the timing room knows its type.
pub(crate) type Scope = Arc<dyn Any + Send + Sync>;

tokio::task_local! {
    static SCOPE: Option<Scope>;
}

/// Runs `future` inside `scope`.
pub(crate) fn within<F: Future>(scope: Scope, future: F) -> Within<F> {
    SCOPE.scope(Some(scope), future)
}

/// The future [`within`] returns.
pub(crate) type Within<F> = tokio::task::futures::TaskLocalFuture<Option<Scope>, F>;

/// The scope that the current task runs in.
pub(crate) fn current() -> Option<Scope> {
    SCOPE.try_with(Clone::clone).ok().flatten()
}

/// Makes `future` run in the scope and span that are current now.
pub(crate) fn carry<F: Future + Send>(future: F) -> impl Future<Output = F::Output> + Send {
    in_span(SCOPE.scope(current(), future))
}

#[cfg(feature = "tracing")]
fn in_span<F: Future + Send>(future: F) -> impl Future<Output = F::Output> + Send {
    use tracing::Instrument;
    future.in_current_span()
}

#[cfg(not(feature = "tracing"))]
fn in_span<F: Future + Send>(future: F) -> F {
    future
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_spawned_task_finds_the_scope_of_its_cause() {
        let scope: Scope = Arc::new(7_u8);
        let found = within(scope, async { tokio::spawn(carry(async { current() })).await })
            .await
            .expect("the task ended")
            .and_then(|scope| scope.downcast::<u8>().ok());
        assert_eq!(found.as_deref(), Some(&7));
    }

    #[tokio::test]
    async fn outside_a_request_there_is_no_scope() {
        assert!(carry(async { current() }).await.is_none());
    }
}
