//! [`Viewers`]: the panels of the page, rendered once a second for all who watch.
//!
//! Nothing runs while nobody watches. The number of viewers is bounded; those beyond it poll.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;

/// Interval of events.
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of viewers.
const MAX_VIEWERS: usize = 128;

/// The next event, with the receiver that waited for it.
type NextEvent = BoxFuture<Option<(watch::Receiver<Bytes>, Bytes)>>;

/// Renders one event.
type Render = Box<dyn Fn() -> String + Send + Sync>;

/// Viewers, and what they are shown.
pub(super) struct Viewers {
    render: Render,
    events: Mutex<Weak<watch::Sender<Bytes>>>,
}

/// Events of one viewer.
pub(super) struct EventStream {
    receiver: watch::Receiver<Bytes>,
    /// The task ends with its last viewer.
    _sender: Arc<watch::Sender<Bytes>>,
    is_first: bool,
    next: Option<NextEvent>,
}

impl Viewers {
    pub(super) fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { render: Box::new(render), events: Mutex::default() })
    }

    /// Returns the events for one more viewer; `None` if there are too many.
    pub(super) fn watch(self: &Arc<Self>) -> Option<EventStream> {
        let mut events = self.events.lock();
        let sender = match events.upgrade() {
            Some(sender) => sender,
            None => {
                let sender = Arc::new(watch::channel(self.event()).0);
                *events = Arc::downgrade(&sender);
                tokio::spawn(run(Arc::downgrade(self), Arc::downgrade(&sender)));
                sender
            }
        };
        // One for each viewer, and this one. A viewer that waits has two receivers.
        if Arc::strong_count(&sender) > MAX_VIEWERS {
            return None;
        }
        Some(EventStream { receiver: sender.subscribe(), _sender: sender, is_first: true, next: None })
    }

    fn event(&self) -> Bytes {
        format!("data: {}\n\n", (self.render)()).into()
    }
}

async fn run(live: Weak<Viewers>, sender: Weak<watch::Sender<Bytes>>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (Some(live), Some(sender)) = (live.upgrade(), sender.upgrade()) else { return };
        sender.send_replace(live.event());
    }
}

impl EventStream {
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if std::mem::take(&mut self.is_first) {
            let event = self.receiver.borrow_and_update().clone();
            return Poll::Ready(Some(event));
        }
        let next = self.next.get_or_insert_with(|| {
            let mut receiver = self.receiver.clone();
            Box::pin(async move {
                receiver.changed().await.ok()?;
                let event = receiver.borrow_and_update().clone();
                Some((receiver, event))
            })
        });
        let polled = Pin::as_mut(next).poll(cx);
        let Poll::Ready(event) = polled else { return Poll::Pending };
        self.next = None;
        let event = event.map(|(receiver, event)| {
            self.receiver = receiver;
            event
        });
        Poll::Ready(event)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    async fn next(stream: &mut EventStream) -> String {
        let event = poll_fn(|cx| stream.poll_next(cx)).await.expect("an event");
        String::from_utf8(event.to_vec()).expect("text")
    }

    #[tokio::test(start_paused = true)]
    async fn all_viewers_share_one_rendering_a_second_and_none_is_made_without_viewers() {
        let rendered = Arc::new(AtomicU64::new(0));
        let count = rendered.clone();
        let live = Viewers::new(move || count.fetch_add(1, Ordering::SeqCst).to_string());
        let mut viewers: Vec<_> = (0..100).map(|_| live.watch().expect("room")).collect();
        for expected in ["data: 0\n\n", "data: 1\n\n", "data: 2\n\n"] {
            for viewer in &mut viewers {
                assert_eq!(next(viewer).await, expected);
            }
        }
        viewers.clear();
        tokio::time::sleep(10 * INTERVAL).await;
        assert_eq!(rendered.load(Ordering::SeqCst), 3, "nobody watches");
        let mut again = live.watch().expect("room");
        assert_eq!(next(&mut again).await, "data: 3\n\n");
    }

    #[tokio::test]
    async fn viewers_are_bounded() {
        let live = Viewers::new(String::new);
        let mut viewers = Vec::new();
        for _ in 0..200 {
            let Some(mut viewer) = live.watch() else { continue };
            next(&mut viewer).await;
            // It waits for the second event.
            assert!(poll_fn(|cx| Poll::Ready(viewer.poll_next(cx).is_pending())).await);
            viewers.push(viewer);
        }
        assert_eq!(viewers.len(), MAX_VIEWERS);
        drop(viewers);
        assert!(live.watch().is_some());
    }
}
