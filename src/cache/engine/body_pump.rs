//! [`BodyPump`]: reads a body into a [`Tee`] while it has consumers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::coalesce::background_slots::{BackgroundSlot, BackgroundSlots};
use super::tee::{Tee, TeeProgress};
use crate::base::body::Stream;

/// Interval of checks for progress.
const TICK: Duration = Duration::from_millis(500);
/// Ticks without progress, at least one second, after which a body takes no new followers.
const STALLED_TICKS: u32 = 3;

/// Result of reading a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyPumpStep {
    /// The body was read completely.
    Complete,
    /// The body ended with trailers.
    Trailers,
    /// The body ended in an error.
    BodyError,
    /// The body exceeds the maximum entry or its declared length; the rest is passed to the leader.
    TooLarge,
    /// No memory is available; the rest is passed to the leader.
    OutOfMemory,
    /// All consumers have left.
    Abandoned,
}

/// Limits of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyBounds {
    /// Maximum length of a stored body.
    pub(crate) entry: u64,
    /// Maximum time without progress.
    pub(crate) idle: Duration,
}

/// Reads a body into a tee; aborts the body when dropped early.
pub(crate) struct BodyPump {
    tee: Arc<Tee>,
    body: Option<Stream>,
    bounds: BodyBounds,
    /// Slots for fetches that outlive their clients.
    slots: Arc<BackgroundSlots>,
    slot: Option<BackgroundSlot>,
    tick: Option<Pin<Box<Sleep>>>,
    /// Ticks since the last progress.
    idle_ticks: u32,
}

impl BodyPump {
    pub(crate) fn new(tee: Arc<Tee>, body: Stream, bounds: BodyBounds, slots: Arc<BackgroundSlots>) -> Self {
        Self { tee, body: Some(body), bounds, slots, slot: None, tick: None, idle_ticks: 0 }
    }

    /// Reads the body to its end.
    pub(crate) async fn run(&mut self) -> BodyPumpStep {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyPumpStep> {
        let mut progressed = false;
        if let Poll::Ready(step) = self.tee.poll_body(&mut self.body, self.bounds.entry, &mut progressed, cx) {
            return Poll::Ready(step);
        }
        if progressed {
            self.idle_ticks = 0;
        }
        while !self.is_idle() {
            let tick = self.tick.get_or_insert_with(|| Box::pin(tokio::time::sleep(TICK)));
            if tick.as_mut().poll(cx).is_pending() {
                break;
            }
            self.tick = None;
            self.on_idle_tick();
        }
        if self.has_consumer(cx) { Poll::Pending } else { Poll::Ready(BodyPumpStep::Abandoned) }
    }

    /// Counts a tick without progress.
    fn on_idle_tick(&mut self) {
        self.idle_ticks = self.idle_ticks.saturating_add(1);
        if self.is_idle() {
            self.tee.set_progress(TeeProgress::Idle);
        } else if self.idle_ticks == STALLED_TICKS {
            self.tee.set_progress(TeeProgress::Stalled);
        }
    }

    /// Whether the idle timeout has passed. The tick of the last progress does not count.
    fn is_idle(&self) -> bool {
        TICK * self.idle_ticks.saturating_sub(1) >= self.bounds.idle
    }

    /// Whether a client reads the body, or a background slot allows continuing without one.
    fn has_consumer(&mut self, cx: &Context<'_>) -> bool {
        let mut state = self.tee.lock();
        if !state.pump.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            state.pump = Some(cx.waker().clone());
        }
        if state.has_leader {
            return true;
        }
        let (tee_progress, followers) = (state.tee_progress, state.followers);
        drop(state);
        if tee_progress == TeeProgress::Idle {
            return false;
        }
        self.slot = self.slot.take().or_else(|| self.slots.try_acquire());
        followers > 0 || self.slot.is_some()
    }
}

impl Drop for BodyPump {
    fn drop(&mut self) {
        self.tee.abort();
    }
}
