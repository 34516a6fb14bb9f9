//! Makes connections in the background.

use std::pin::pin;
use std::sync::{Arc, Weak};

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::Inner;
use crate::base::error::Error;
use crate::base::outage::Outage;

/// Starts to connect, unless there is a connection, a running attempt, or no runtime.
pub(super) fn start<C: Clone + Send + Sync + 'static>(inner: &Arc<Inner<C>>) {
    if !inner.lock().wants_dialling() {
        return;
    }
    let Ok(runtime) = Handle::try_current() else { return };
    let Some(turn) = inner.lock().start_dialling() else { return };
    let task = runtime.spawn(run(Dialling { inner: Arc::downgrade(inner), turn }));
    inner.lock().set_dialling_task(turn, task.abort_handle());
}

/// Marks the dialling task as running; released when the task ends, also with its runtime.
struct Dialling<C> {
    inner: Weak<Inner<C>>,
    turn: u64,
}

impl<C> Drop for Dialling<C> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.lock().stop_dialling(self.turn);
        }
    }
}

/// Attempts that are left out after the server rejected the credentials: proving a password (SCRAM) takes milliseconds of
/// computation, during which a worker serves no request.
const LEFT_OUT_WHEN_DENIED: u32 = 3;

/// Starts one attempt every `retry_every`, concurrently, until one succeeds or the guard is dropped.
async fn run<C: Clone + Send + Sync + 'static>(dialling: Dialling<C>) {
    let mut attempts = FuturesUnordered::new();
    let due = {
        let Some(inner) = dialling.inner.upgrade() else { return };
        inner.lock().dial_due(inner.now(), inner.settings.retry_every)
    };
    // A server that accepts and then fails would otherwise be dialled on every call.
    if !due.is_zero() {
        sleep(due).await;
    }
    loop {
        let pause = {
            let Some(inner) = dialling.inner.upgrade() else { return };
            inner.lock().dialled(inner.now());
            attempts.push(timeout(inner.settings.dial_timeout, (inner.dial)()));
            inner.settings.retry_every
        };
        let left_out = pause * LEFT_OUT_WHEN_DENIED;
        let mut pause = pin!(sleep(pause));
        let mut denied = false;
        loop {
            let ended = match select(pause.as_mut(), attempts.next()).await {
                Either::Left(_) => break,
                Either::Right((None, _)) => {
                    pause.as_mut().await;
                    break;
                }
                Either::Right((Some(ended), _)) => ended,
            };
            let Some(inner) = dialling.inner.upgrade() else { return };
            match ended {
                Ok(Ok(connection)) => return inner.connected(connection, dialling.turn),
                Ok(Err(error)) => {
                    denied |= error.is_denied();
                    inner.not_connected(error);
                }
                Err(_) => inner.not_connected(Error::outage(inner.name, Outage::Deadline)),
            }
        }
        if denied {
            sleep(left_out).await;
        }
    }
}

impl<C> Inner<C> {
    fn connected(&self, connection: C, turn: u64) {
        let edge = self.change(|health, now| health.connected(connection, turn, now));
        self.connects.send_modify(|generation| *generation += 1);
        self.report(edge, None);
    }

    fn not_connected(&self, error: Error) {
        let edge = self.change(|health, now| health.not_connected(now));
        self.report(edge, Some(error));
    }
}
