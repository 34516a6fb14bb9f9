//! A body read once and given to many, while it arrives: never to anyone's disadvantage.
//!
//! A pump reads the inner body and copies its chunks into blocks of its own, which are counted ([`BodyMemory`]) and become the
//! stored body. Every reader keeps its own place, so a slow one holds no other back.
//!
//! | the body's length | memory | followers |
//! |---|---|---|
//! | is promised | reserved before anyone is told of it, or the body is neither shared nor stored | begin once its first byte is there, and read along |
//! | is unknown | reserved as it grows | begin once it is complete |
//!
//! What then happens, and to whom:
//!
//! | the inner body | the leader's client | followers that were sent something | followers that were not |
//! |---|---|---|---|
//! | ends well | ends well | end well | begin |
//! | ends in an error | gets that error | end in an error | go on by themselves |
//! | of unknown length outgrows a bound | reads on, straight from the inner body, in constant memory | there are none | go on by themselves |
//! | makes no progress for a second | waits | continue by a range request of their own under the same strong `ETag`, else wait | go on by themselves |
//! | makes none until the idle deadline | waits | end in an error | – |
//!
//! When the leader's client has left, the pump goes on for its followers, or to store the body, while it makes progress and
//! the number of fetches without a client is within its bound.
//!
//! Costs: one copy and one lock per chunk; a reader that keeps up with the last, unfinished block copies what it reads of it.

use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;

use super::body_buffer::BodyBuffer;
use super::body_memory::BodyMemory;
use super::body_pump::PumpStep;
use super::body_reader::{BodyReader, Fetch};
use super::record::StoredBody;
use crate::base::body::Stream;
use crate::base::error::BoxError;
use crate::base::lock::Mutex;

/// Where the shared part of a body ends.
pub(crate) enum End {
    /// With the body itself, and these trailers.
    Clean(Option<HeaderMap>),
    /// In an error, for the leader's client to take.
    Broken(Option<BoxError>),
    /// Here; the rest is for the leader's client alone: this chunk, then the inner body.
    Handed(Option<(Bytes, Stream)>),
}

/// How fast the body comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pace {
    Flowing,
    /// For a second, nothing came.
    Stalled,
    /// Until the idle deadline, nothing came.
    Idle,
}

pub(crate) struct State {
    pub(crate) buffer: BodyBuffer,
    pub(crate) pace: Pace,
    pub(crate) end: Option<End>,
    /// Whether the leader's client still reads.
    pub(crate) led: bool,
    /// How many other clients read.
    pub(crate) followers: usize,
    wakers: Vec<Waker>,
    pub(crate) pump: Option<Waker>,
}

/// The shared part of a body.
pub(crate) struct Tee {
    state: Mutex<State>,
    pub(crate) promised: Option<u64>,
}

/// Whether a shared body serves those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// It can be read: at least its first byte is there.
    Ready,
    /// It makes no progress.
    Stalled,
    /// It will not be shared.
    TooLarge,
    /// It failed.
    Failed,
}

impl Tee {
    /// A tee for a body of this length, where one is promised; nothing where there is no memory for it.
    pub(crate) fn new(promised: Option<u64>, gauge: &Arc<BodyMemory>) -> Option<Arc<Self>> {
        let buffer = BodyBuffer::new(promised, gauge)?;
        let state =
            State { buffer, pace: Pace::Flowing, end: None, led: true, followers: 0, wakers: Vec::new(), pump: None };
        Some(Arc::new(Self { state: Mutex::new(state), promised }))
    }

    /// The body for the client whose fetch it is: it reads on where the shared part ends early. Made once.
    pub(crate) fn leader(self: &Arc<Self>) -> BodyReader {
        BodyReader::leader(self.clone())
    }

    /// A body for another client; `resume` fetches what follows that many bytes where the shared part stalls.
    pub(crate) fn follower(self: &Arc<Self>, resume: Option<Fetch>) -> BodyReader {
        self.lock().followers += 1;
        BodyReader::follower(self.clone(), resume)
    }

    /// Whether the length of the body is known.
    pub(crate) const fn is_promised(&self) -> bool {
        self.promised.is_some()
    }

    /// Waits until it is known whether followers can read it.
    pub(crate) async fn shared(&self) -> Share {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            match state.share(self.promised) {
                Some(share) => Poll::Ready(share),
                None => {
                    state.wait(cx);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The whole body, once it was read; its blocks are the store's from now on.
    pub(crate) fn collected(&self, gauge: &Arc<BodyMemory>) -> (StoredBody, u64) {
        let mut state = self.lock();
        state.buffer.seal();
        (StoredBody::held(state.buffer.blocks.clone(), gauge), state.buffer.length)
    }

    /// Reads `body` as far as it has come; nothing while it goes on.
    pub(crate) fn poll_body(
        &self,
        body: &mut Option<Stream>,
        most: u64,
        moved: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<PumpStep> {
        loop {
            let Some(stream) = body.as_mut() else { return Poll::Ready(PumpStep::Broken) };
            let frame = ready!(stream.as_mut().poll_frame(cx));
            *moved = true;
            let frame = match frame {
                None => {
                    self.end(End::Clean(None));
                    return Poll::Ready(PumpStep::Whole);
                }
                Some(Err(error)) => {
                    self.end(End::Broken(Some(error)));
                    return Poll::Ready(PumpStep::Broken);
                }
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(data) => {
                    if let Err((rest, full)) = self.append(data, most) {
                        self.end(End::Handed(body.take().map(|body| (rest, body))));
                        return Poll::Ready(full);
                    }
                }
                Err(frame) => {
                    self.end(End::Clean(frame.into_trailers().ok()));
                    return Poll::Ready(PumpStep::Trailers);
                }
            }
        }
    }

    /// Appends a chunk; as an error, what of it did not fit, and why.
    fn append(&self, mut data: Bytes, most: u64) -> Result<(), (Bytes, PumpStep)> {
        let mut state = self.lock();
        let before = state.buffer.length;
        let pushed = state.buffer.push(&data, most);
        let taken = (state.buffer.length - before) as usize;
        state.pace = Pace::Flowing;
        wake(state);
        pushed.map_err(|full| (data.split_off(taken), full))
    }

    /// Ends the body in an error for everyone, unless it has ended already.
    pub(crate) fn break_off(&self) {
        let ended = self.lock().end.is_some();
        if !ended {
            self.end(End::Broken(None));
        }
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        // The last block is read by reference from now on.
        if matches!(end, End::Clean(_)) {
            state.buffer.seal();
        }
        state.end = Some(end);
        wake(state);
    }

    pub(crate) fn slow_down(&self, pace: Pace) {
        let mut state = self.lock();
        state.pace = pace;
        wake(state);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Whether followers can read the body; nothing while that is open.
    fn share(&self, promised: Option<u64>) -> Option<Share> {
        match &self.end {
            Some(End::Clean(None)) if promised.is_none_or(|promised| promised == self.buffer.length) => {
                Some(Share::Ready)
            }
            Some(End::Clean(_) | End::Broken(_)) => Some(Share::Failed),
            Some(End::Handed(_)) => Some(Share::TooLarge),
            None if self.pace > Pace::Flowing => Some(Share::Stalled),
            None => (promised.is_some() && self.buffer.length > 0).then_some(Share::Ready),
        }
    }

    pub(crate) fn wait(&mut self, cx: &Context<'_>) {
        if !self.wakers.iter().any(|known| known.will_wake(cx.waker())) {
            self.wakers.push(cx.waker().clone());
        }
    }
}

/// Wakes every reader, outside the lock.
fn wake(mut state: MutexGuard<'_, State>) {
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
}
