//! [`Pump`]: reads a body into a [`Tee`], for as long as someone wants it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::background_slots::{BackgroundSlot, BackgroundSlots};
use super::tee::{Pace, Tee};
use crate::base::body::Stream;

/// How often a body that makes no progress is looked at.
const TICK: Duration = Duration::from_millis(500);
/// After so many ticks without progress, at least a second, it takes no new followers.
const STALLED: u32 = 3;

/// What a pump's turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PumpStep {
    /// Everything was read.
    Whole,
    /// It ended with trailers.
    Trailers,
    /// It ended in an error.
    Broken,
    /// It outgrew the bound of an entry, or its promise; the rest was handed over.
    TooLarge,
    /// There was no memory for it; the rest was handed over.
    NoRoom,
    /// Its client left, and no one waits for it any more.
    Abandoned,
}

/// What bounds a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The most bytes of a stored body.
    pub(crate) entry: u64,
    /// How long it may make no progress.
    pub(crate) idle: Duration,
}

/// Reads a body into a tee for as long as it lives; dropped early, it breaks the body off.
pub(crate) struct Pump {
    tee: Arc<Tee>,
    body: Option<Stream>,
    bounds: Bounds,
    /// Fetches that may outlive their clients.
    slots: Arc<BackgroundSlots>,
    slot: Option<BackgroundSlot>,
    tick: Option<Pin<Box<Sleep>>>,
    /// Ticks since anything came.
    quiet: u32,
}

impl Pump {
    pub(crate) fn new(tee: Arc<Tee>, body: Stream, bounds: Bounds, slots: Arc<BackgroundSlots>) -> Self {
        Self { tee, body: Some(body), bounds, slots, slot: None, tick: None, quiet: 0 }
    }

    /// Reads to the end.
    pub(crate) async fn run(&mut self) -> PumpStep {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PumpStep> {
        let mut moved = false;
        if let Poll::Ready(turn) = self.tee.poll_body(&mut self.body, self.bounds.entry, &mut moved, cx) {
            return Poll::Ready(turn);
        }
        if moved {
            self.quiet = 0;
        }
        while !self.is_idle() {
            let tick = self.tick.get_or_insert_with(|| Box::pin(tokio::time::sleep(TICK)));
            if tick.as_mut().poll(cx).is_pending() {
                break;
            }
            self.tick = None;
            self.tick_over();
        }
        if self.is_wanted(cx) { Poll::Pending } else { Poll::Ready(PumpStep::Abandoned) }
    }

    /// A tick has passed without anything coming.
    fn tick_over(&mut self) {
        self.quiet = self.quiet.saturating_add(1);
        if self.is_idle() {
            self.tee.slow_down(Pace::Idle);
        } else if self.quiet == STALLED {
            self.tee.slow_down(Pace::Stalled);
        }
    }

    /// Whether the idle deadline has passed. The tick in which something came last does not count.
    fn is_idle(&self) -> bool {
        TICK * self.quiet.saturating_sub(1) >= self.bounds.idle
    }

    /// Whether anyone still waits for the body, or it may go on without.
    fn is_wanted(&mut self, cx: &Context<'_>) -> bool {
        let mut state = self.tee.lock();
        if !state.pump.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            state.pump = Some(cx.waker().clone());
        }
        if state.led {
            return true;
        }
        let (pace, followers) = (state.pace, state.followers);
        drop(state);
        if pace == Pace::Idle {
            return false;
        }
        self.slot = self.slot.take().or_else(|| self.slots.take());
        followers > 0 || self.slot.is_some()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.tee.break_off();
    }
}
