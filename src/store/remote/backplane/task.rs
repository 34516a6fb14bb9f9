//! Task of a backplane: subscribes to the log, and reads it after every connection, after a missing message, and once a
//! second.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::BoxStream;

use super::Backplane;
use crate::base::clock::runtime_now;
use crate::base::error::Error;
use crate::cache::LogMessage;

/// Interval of reading the log.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Number of reads between two agreements on the secret.
const READS_PER_GREETING: u32 = 60;
/// Timeout of subscribing.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval between attempts to subscribe.
const SUBSCRIBE_RETRY: Duration = Duration::from_millis(200);
type Messages = BoxStream<'static, LogMessage>;

/// Held by the task while it runs.
pub(super) struct Running(pub(super) Weak<Backplane>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(backplane) = self.0.upgrade() {
            backplane.running.store(false, Ordering::Release);
        }
    }
}

/// Task of the backplane; ends when the store is dropped.
pub(super) async fn run(running: Running) {
    let Some(mut connects) = running.0.upgrade().map(|backplane| backplane.guard.connects()) else { return };
    let (mut greeted, mut reads) = (0, 0_u32);
    let mut messages: Option<Messages> = None;
    loop {
        let Some(backplane) = running.0.upgrade() else { return };
        let connection = *connects.borrow_and_update();
        // Repeated each minute: a full Redis may have evicted the secret, and the next node would draw another.
        reads = reads.wrapping_add(1);
        let greets = connection != greeted || reads.is_multiple_of(READS_PER_GREETING);
        if greets && backplane.initialize().await.is_ok() {
            greeted = connection;
        }
        let mut pause = READ_INTERVAL;
        if connection > 0 {
            if messages.is_none() {
                messages = subscribe(&backplane).await;
            }
            // Read after subscribing, so that no record is missed in between.
            let read = backplane.read_new().await.is_ok() && backplane.read_clock().await.is_ok();
            if !read || messages.is_none() || connection != greeted {
                pause = SUBSCRIBE_RETRY;
            }
        }
        let backplane = Arc::downgrade(&backplane);
        wait(&backplane, &mut messages, &mut connects, pause).await;
    }
}

/// Receives messages until the next read is due.
async fn wait(
    backplane: &Weak<Backplane>,
    messages: &mut Option<Messages>,
    connects: &mut tokio::sync::watch::Receiver<u64>,
    pause: Duration,
) {
    let mut over = pin!(async {
        let (notified, connected) = (pin!(notified(backplane)), pin!(connects.changed()));
        select(select(notified, connected), pin!(tokio::time::sleep(pause))).await;
    });
    loop {
        let next = poll_fn(|cx| match messages.as_mut() {
            Some(messages) => messages.poll_next_unpin(cx),
            None => Poll::Pending,
        });
        let update = match select(next, over.as_mut()).await {
            Either::Left((update, _)) => update,
            Either::Right(_) => return,
        };
        match (update, backplane.upgrade()) {
            (Some(message), Some(backplane)) => backplane.on_message(message),
            // The subscription ended: read at once, and subscribe again.
            _ => {
                *messages = None;
                return;
            }
        }
    }
}

async fn notified(backplane: &Weak<Backplane>) {
    match backplane.upgrade() {
        // Holds a reference while waiting, at most until the next read.
        Some(backplane) => backplane.wake.notified().await,
        None => std::future::pending().await,
    }
}

async fn subscribe(backplane: &Backplane) -> Option<Messages> {
    let subscribing = backplane.call_by(runtime_now() + SUBSCRIBE_TIMEOUT, |bytes| match bytes.log() {
        Some(log) => log.subscribe(),
        None => Box::pin(std::future::ready(Err(Error::store("the store has lost its log", "no log")))),
    });
    subscribing.await.ok()
}
