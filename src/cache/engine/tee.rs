//! Tee: reads a body once and delivers it to several readers while it arrives.
//!
//! A pump reads the inner body and copies its chunks into accounted blocks ([`BodyMemory`]), which become the stored
//! body. Every reader keeps its own position, so a slow one does not block others.
//!
//! | body length | memory | followers |
//! |---|---|---|
//! | declared | reserved before the response is published, or the body is neither shared nor stored | start with the first byte, and read along |
//! | unknown | reserved as it grows | start once it is complete |
//!
//! Effects on readers:
//!
//! | the inner body | the leader's client | followers that have received bytes | other followers |
//! |---|---|---|---|
//! | completes | completes | complete | start |
//! | ends in an error | gets that error | get an error | fetch without sharing |
//! | of unknown length exceeds a bound | continues from the inner body, in constant memory | none exist | fetch without sharing |
//! | makes no progress for a second | waits | continue by a range request under the same strong `ETag`, else wait | share a new fetch |
//! | makes none until the idle timeout | waits | get an error | – |
//!
//! After the leader's client has left, the pump continues for its followers, or to store the body, while it makes
//! progress and the number of such fetches is within its bound.
//!
//! Cost: one copy and one lock per chunk; a reader of the unfinished block copies the bytes it reads.

use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;

use super::body_buffer::BodyBuffer;
use super::body_memory::BodyMemory;
use super::body_pump::BodyPumpStep;
use super::body_reader::{BodyReader, FetchRest};
use super::record::StoredBody;
use crate::base::body::Stream;
use crate::base::error::BoxError;
use crate::base::lock::{Mutex, MutexGuard};

/// End of the shared part of a body.
pub(super) enum TeeEnd {
    /// Complete, with these trailers.
    Complete(Option<HeaderMap>),
    /// Failed, with the error for the leader's client.
    Failed(Option<BoxError>),
    /// Exceeded a bound: the leader's client continues with this chunk, then the inner body.
    Detached(Option<(Bytes, Stream)>),
}

/// Progress of a body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TeeProgress {
    Flowing,
    /// No bytes for a second.
    Stalled,
    /// No bytes until the idle timeout.
    Idle,
}

pub(super) struct TeeState {
    pub(super) buffer: BodyBuffer,
    pub(super) tee_progress: TeeProgress,
    pub(super) end: Option<TeeEnd>,
    /// Whether the leader's client still reads.
    pub(super) has_leader: bool,
    /// Number of other clients that read.
    pub(super) followers: usize,
    wakers: Vec<Waker>,
    pub(super) pump: Option<Waker>,
}

/// Shared part of a body.
pub(crate) struct Tee {
    state: Mutex<TeeState>,
    pub(super) promised: Option<u64>,
}

/// Whether followers can read a shared body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShareState {
    /// Readable: the first byte has arrived.
    Ready,
    /// The body makes no progress.
    Stalled,
    /// The body will not be shared.
    TooLarge,
    /// The body failed.
    Failed,
}

impl Tee {
    /// Creates a tee for a body of this declared length; `None` if no memory is available.
    pub(crate) fn new(promised: Option<u64>, body_memory: &Arc<BodyMemory>) -> Option<Arc<Self>> {
        let buffer = BodyBuffer::new(promised, body_memory)?;
        let state = TeeState {
            buffer,
            tee_progress: TeeProgress::Flowing,
            end: None,
            has_leader: true,
            followers: 0,
            wakers: Vec::new(),
            pump: None,
        };
        Some(Arc::new(Self { state: Mutex::new(state), promised }))
    }

    /// Creates the reader of the leader's client, which continues beyond the shared part. Called once.
    pub(crate) fn leader(self: &Arc<Self>) -> BodyReader {
        BodyReader::leader(self.clone())
    }

    /// Returns the body if it is complete, in one block, without trailers and as long as declared.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        let state = self.lock();
        let is_complete = matches!(state.end, Some(TeeEnd::Complete(None)))
            && self.promised.is_none_or(|promised| promised == state.buffer.length);
        match &*state.buffer.blocks {
            [] if is_complete => Some(Bytes::new()),
            [block] if is_complete => Some(block.clone()),
            _ => None,
        }
    }

    /// Creates a reader for another client; `resume` fetches the rest from an offset after a stall.
    pub(crate) fn follower(self: &Arc<Self>, resume: Option<FetchRest>) -> BodyReader {
        self.lock().followers += 1;
        BodyReader::follower(self.clone(), resume)
    }

    /// Whether the length of the body is known.
    pub(crate) const fn is_promised(&self) -> bool {
        self.promised.is_some()
    }

    /// Waits until it is known whether followers can read the body.
    pub(crate) async fn until_shareable(&self) -> ShareState {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            match state.share_state(self.promised) {
                Some(share_state) => Poll::Ready(share_state),
                None => {
                    state.wait(cx);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Returns the complete body; its blocks count as stored from now on.
    pub(crate) fn stored_body(&self, body_memory: &Arc<BodyMemory>) -> (StoredBody, u64) {
        let mut state = self.lock();
        state.buffer.seal();
        (StoredBody::from_blocks(&state.buffer.blocks, body_memory), state.buffer.length)
    }

    /// Reads `body` as far as available; pending until it ends.
    pub(super) fn poll_body(
        &self,
        body: &mut Option<Stream>,
        max_entry: u64,
        moved: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<BodyPumpStep> {
        loop {
            let Some(stream) = body.as_mut() else { return Poll::Ready(BodyPumpStep::BodyError) };
            let frame = ready!(stream.as_mut().poll_frame(cx));
            *moved = true;
            let frame = match frame {
                None => {
                    self.end(TeeEnd::Complete(None));
                    return Poll::Ready(BodyPumpStep::Complete);
                }
                Some(Err(error)) => {
                    self.end(TeeEnd::Failed(Some(error)));
                    return Poll::Ready(BodyPumpStep::BodyError);
                }
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(data) => {
                    if let Err((rest, full)) = self.append(data, max_entry) {
                        self.end(TeeEnd::Detached(body.take().map(|body| (rest, body))));
                        return Poll::Ready(full);
                    }
                }
                Err(frame) => {
                    self.end(TeeEnd::Complete(frame.into_trailers().ok()));
                    return Poll::Ready(BodyPumpStep::Trailers);
                }
            }
        }
    }

    /// Appends a chunk; returns the part that did not fit, and the reason, as an error.
    fn append(&self, mut data: Bytes, max_entry: u64) -> Result<(), (Bytes, BodyPumpStep)> {
        let mut state = self.lock();
        let before = state.buffer.length;
        let pushed = state.buffer.push(&data, max_entry);
        let taken = (state.buffer.length - before) as usize;
        state.tee_progress = TeeProgress::Flowing;
        wake(state);
        pushed.map_err(|full| (data.split_off(taken), full))
    }

    /// Fails the body for all readers, unless it has ended.
    pub(super) fn abort(&self) {
        let ended = self.lock().end.is_some();
        if !ended {
            self.end(TeeEnd::Failed(None));
        }
    }

    fn end(&self, end: TeeEnd) {
        let mut state = self.lock();
        // Readers get the last block by reference from now on.
        if matches!(end, TeeEnd::Complete(_)) {
            state.buffer.seal();
        }
        state.end = Some(end);
        wake(state);
    }

    pub(super) fn set_progress(&self, tee_progress: TeeProgress) {
        let mut state = self.lock();
        state.tee_progress = tee_progress;
        wake(state);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, TeeState> {
        self.state.lock()
    }
}

impl TeeState {
    /// Whether followers can read the body; `None` while that is undecided.
    fn share_state(&self, promised: Option<u64>) -> Option<ShareState> {
        match &self.end {
            Some(TeeEnd::Complete(None)) if promised.is_none_or(|promised| promised == self.buffer.length) => {
                Some(ShareState::Ready)
            }
            Some(TeeEnd::Complete(_) | TeeEnd::Failed(_)) => Some(ShareState::Failed),
            Some(TeeEnd::Detached(_)) => Some(ShareState::TooLarge),
            None if self.tee_progress > TeeProgress::Flowing => Some(ShareState::Stalled),
            None => (promised.is_some() && self.buffer.length > 0).then_some(ShareState::Ready),
        }
    }

    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        if !self.wakers.iter().any(|known| known.will_wake(cx.waker())) {
            self.wakers.push(cx.waker().clone());
        }
    }
}

/// Wakes all readers, after releasing the lock.
fn wake(mut state: MutexGuard<'_, TeeState>) {
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
}
