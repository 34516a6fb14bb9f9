//! Isolates user-supplied stores: panics and timeouts become errors.
//!
//! A store that panics or does not answer is treated like one that returns an error: the request continues without
//! it. The stores of this crate have a deadline and a breaker of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures_util::FutureExt;

use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;

/// Timeout of a store's answer.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(250);

/// Returns the store's answer, or an error after a panic or a timeout.
pub(crate) fn isolate<T: Send + 'static>(
    store: &'static str,
    ask: impl FnOnce() -> MaybeReady<Result<T, Error>>,
) -> MaybeReady<Result<T, Error>> {
    isolate_within(TIMEOUT, store, ask)
}

/// As [`isolate`], with another timeout.
pub(crate) fn isolate_within<T: Send + 'static>(
    timeout: Duration,
    store: &'static str,
    ask: impl FnOnce() -> MaybeReady<Result<T, Error>>,
) -> MaybeReady<Result<T, Error>> {
    match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(MaybeReady::Ready(answer)) => MaybeReady::Ready(answer),
        Ok(MaybeReady::Pending(answer)) => MaybeReady::Pending(Box::pin(async move {
            match tokio::time::timeout(timeout, AssertUnwindSafe(answer).catch_unwind()).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(panicked(store)),
                Err(late) => Err(Error::store(format!("the store of the {store} did not answer in time"), late)),
            }
        })),
        Err(_) => MaybeReady::Ready(Err(panicked(store))),
    }
}

/// Returns the store's immediate answer, or the default if the store panics.
pub(crate) fn isolate_now<T: Default>(ask: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_default()
}

/// Returns the error of a panic; the panic hook has printed the message.
fn panicked(store: &'static str) -> Error {
    Error::store(format!("the store of the {store} panicked"), "panicked")
}
