//! A body read once and given to many, while it arrives: never to anyone's disadvantage.
//!
//! A pump reads the inner body and copies its chunks into blocks of its own, which are counted ([`Gauge`]) and become the
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

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::entry::Kept;
use super::gauge::{BLOCK_OVERHEAD, Gauge, Reservation};
use super::slots::{Slot, Slots};
use crate::answer::BoxFuture;
use crate::body::Stream;
use crate::error::BoxError;

/// The most bytes in a block, unless a chunk is larger.
const BLOCK: usize = 256 * 1024;
/// The first block of a body of unknown length has at least this many.
const FIRST: usize = 1024;
/// The most bytes copied out of an unfinished block at a time.
const GLIMPSE: usize = 16 * 1024;
/// How often a body that makes no progress is looked at.
const TICK: Duration = Duration::from_millis(500);
/// After so many ticks without progress, at least a second, it takes no new followers.
const STALLED: u32 = 3;

/// Where the shared part of a body ends.
enum End {
    /// With the body itself, and these trailers.
    Clean(Option<HeaderMap>),
    /// In an error, for the leader's client to take.
    Broken(Option<BoxError>),
    /// Here; the rest is for the leader's client alone: this chunk, then the inner body.
    Handed(Option<(Bytes, Stream)>),
}

/// How fast the body comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pace {
    Flowing,
    /// For a second, nothing came.
    Stalled,
    /// Until the idle deadline, nothing came.
    Idle,
}

struct State {
    buffer: Buffer,
    pace: Pace,
    end: Option<End>,
    /// Whether the leader's client still reads.
    led: bool,
    /// How many other clients read.
    followers: usize,
    wakers: Vec<Waker>,
    pump: Option<Waker>,
}

/// The shared part of a body.
pub(crate) struct Tee {
    state: Mutex<State>,
    promised: Option<u64>,
}

/// What a pump's turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
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

/// What bounds a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The most bytes of a stored body.
    pub(crate) entry: u64,
    /// How long it may make no progress.
    pub(crate) idle: Duration,
}

impl Tee {
    /// A tee for a body of this length, where one is promised; nothing where there is no memory for it.
    pub(crate) fn new(promised: Option<u64>, gauge: &Arc<Gauge>) -> Option<Arc<Self>> {
        let reservation = match promised {
            Some(length) => gauge.reserve(allocated(length), length)?,
            None => gauge.empty(),
        };
        let buffer = Buffer { blocks: Vec::new(), tail: Vec::new(), length: 0, promised, reservation };
        let state =
            State { buffer, pace: Pace::Flowing, end: None, led: true, followers: 0, wakers: Vec::new(), pump: None };
        Some(Arc::new(Self { state: Mutex::new(state), promised }))
    }

    /// The body for the client whose fetch it is: it reads on where the shared part ends early. Made once.
    pub(crate) fn leader(self: &Arc<Self>) -> Reader {
        Reader {
            tee: self.clone(),
            block: 0,
            offset: 0,
            sent: 0,
            leads: true,
            rest: None,
            resume: Resume::No,
            done: false,
        }
    }

    /// A body for another client; `resume` fetches what follows that many bytes where the shared part stalls.
    pub(crate) fn follower(self: &Arc<Self>, resume: Option<Fetch>) -> Reader {
        let resume = resume.map_or(Resume::No, Resume::Ready);
        self.lock().followers += 1;
        Reader { tee: self.clone(), block: 0, offset: 0, sent: 0, leads: false, rest: None, resume, done: false }
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
    pub(crate) fn collected(&self, gauge: &Arc<Gauge>) -> (Kept, u64) {
        let mut state = self.lock();
        state.buffer.seal();
        (Kept::held(state.buffer.blocks.clone(), gauge), state.buffer.length)
    }

    /// Reads `body` as far as it has come; nothing while it goes on.
    fn poll_body(&self, body: &mut Option<Stream>, most: u64, moved: &mut bool, cx: &mut Context<'_>) -> Poll<Turn> {
        loop {
            let Some(stream) = body.as_mut() else { return Poll::Ready(Turn::Broken) };
            let frame = ready!(stream.as_mut().poll_frame(cx));
            *moved = true;
            let frame = match frame {
                None => {
                    self.end(End::Clean(None));
                    return Poll::Ready(Turn::Whole);
                }
                Some(Err(error)) => {
                    self.end(End::Broken(Some(error)));
                    return Poll::Ready(Turn::Broken);
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
                    return Poll::Ready(Turn::Trailers);
                }
            }
        }
    }

    /// Appends a chunk; as an error, what of it did not fit, and why.
    fn append(&self, mut data: Bytes, most: u64) -> Result<(), (Bytes, Turn)> {
        let mut state = self.lock();
        let before = state.buffer.length;
        let pushed = state.buffer.push(&data, most);
        let taken = (state.buffer.length - before) as usize;
        state.pace = Pace::Flowing;
        wake(state);
        pushed.map_err(|full| (data.split_off(taken), full))
    }

    /// Ends the body in an error for everyone, unless it has ended already.
    fn break_off(&self) {
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

    fn slow_down(&self, pace: Pace) {
        let mut state = self.lock();
        state.pace = pace;
        wake(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn wait(&mut self, cx: &Context<'_>) {
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

/// What a body of this length allocates.
fn allocated(length: u64) -> u64 {
    length + (length / BLOCK as u64 + 1) * BLOCK_OVERHEAD
}

/// The bytes that have come: finished blocks, and the block that is being filled.
struct Buffer {
    blocks: Vec<Bytes>,
    tail: Vec<u8>,
    length: u64,
    promised: Option<u64>,
    reservation: Reservation,
}

impl Buffer {
    /// Copies a chunk in.
    ///
    /// # Errors
    /// [`Turn::TooLarge`] or [`Turn::NoRoom`], once it has taken in what fits.
    fn push(&mut self, mut data: &[u8], most: u64) -> Result<(), Turn> {
        if self.promised.is_none() && self.length + data.len() as u64 > most {
            return Err(Turn::TooLarge);
        }
        while !data.is_empty() {
            let room = self.room(data.len())?;
            let (now, later) = data.split_at(room.min(data.len()));
            self.tail.extend_from_slice(now);
            self.length += now.len() as u64;
            data = later;
            let is_last = self.promised == Some(self.length);
            if is_last || self.tail.len() == self.tail.capacity() && self.tail.len() >= BLOCK {
                self.seal();
            }
        }
        Ok(())
    }

    /// How many bytes the block that is being filled has room for, after making room for some of `wanted`.
    fn room(&mut self, wanted: usize) -> Result<usize, Turn> {
        let free = self.tail.capacity() - self.tail.len();
        if free > 0 {
            return Ok(free);
        }
        let more = match self.promised {
            Some(promised) => usize::try_from(promised - self.length).unwrap_or(BLOCK).min(BLOCK),
            None if self.tail.is_empty() => wanted.max(FIRST),
            // Doubled, up to a block.
            None => self.tail.len().max(wanted).min(BLOCK - self.tail.len().min(BLOCK - 1)),
        };
        if more == 0 {
            return Err(Turn::TooLarge);
        }
        if self.promised.is_none() {
            let needed = (self.tail.len() + more) as u64 + BLOCK_OVERHEAD;
            if !self.reservation.grow(needed, self.length + wanted as u64) {
                return Err(Turn::NoRoom);
            }
        }
        self.tail.reserve_exact(more);
        Ok(self.tail.capacity() - self.tail.len())
    }

    /// Finishes the block that is being filled.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let memory = std::mem::take(&mut self.tail);
            self.blocks.push(self.reservation.block(memory));
        }
    }
}

/// Copies chunks of this length together into blocks of their own; nothing where there is no memory for them.
pub(crate) fn copied(chunks: &[Bytes], length: u64, gauge: &Arc<Gauge>) -> Option<Vec<Bytes>> {
    let reservation = gauge.reserve(allocated(length), length)?;
    let promised = Some(length);
    let mut buffer = Buffer { blocks: Vec::new(), tail: Vec::new(), length: 0, promised, reservation };
    chunks.iter().try_for_each(|chunk| buffer.push(chunk, length)).ok()?;
    buffer.seal();
    Some(buffer.blocks)
}

/// Fetches the bytes of the same representation that follow so many; `None` where that cannot be had.
pub(crate) type Fetch = Box<dyn FnOnce(u64) -> BoxFuture<Option<Stream>> + Send>;

/// How a follower goes on where the shared part stalls.
enum Resume {
    No,
    Ready(Fetch),
    Asking(BoxFuture<Option<Stream>>),
}

/// One client's view of a shared body.
pub(crate) struct Reader {
    tee: Arc<Tee>,
    /// The block it reads next, and how much of that it has read.
    block: usize,
    offset: usize,
    sent: u64,
    leads: bool,
    rest: Option<Stream>,
    resume: Resume,
    done: bool,
}

type Next = Option<Result<Frame<Bytes>, BoxError>>;

impl Reader {
    fn poll_shared(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let tee = self.tee.clone();
        let mut state = tee.lock();
        if let Some(data) = self.data(&state.buffer) {
            self.sent += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let pace = state.pace;
        match &mut state.end {
            // All that was promised was sent, whatever follows.
            _ if !self.leads && tee.promised == Some(self.sent) => self.finish(None),
            None if !self.leads && pace > Pace::Flowing => {
                state.wait(cx);
                drop(state);
                self.poll_resume(pace, cx)
            }
            None => {
                state.wait(cx);
                Poll::Pending
            }
            Some(End::Clean(trailers)) => {
                // A body shorter than promised ends cleanly only for the client whose fetch it is: that is what the inner
                // service sent it. To the others it must not pass for the whole.
                if !self.leads && tee.promised.is_some() {
                    return self.finish(Some(Err("the shared response was cut short".into())));
                }
                let trailers = trailers.clone();
                self.finish(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Some(End::Broken(error)) => {
                let error = if self.leads { error.take() } else { None };
                self.finish(Some(Err(error.unwrap_or_else(|| "the shared response broke off".into()))))
            }
            Some(End::Handed(rest)) => match if self.leads { rest.take() } else { None } {
                Some((chunk, rest)) => {
                    // No one begins any more: what was read goes.
                    if state.followers == 0 {
                        state.buffer.blocks = Vec::new();
                        state.buffer.tail = Vec::new();
                        state.buffer.reservation.release();
                    }
                    drop(state);
                    self.rest = Some(rest);
                    if chunk.is_empty() {
                        return self.poll_rest(cx);
                    }
                    self.sent += chunk.len() as u64;
                    Poll::Ready(Some(Ok(Frame::data(chunk))))
                }
                None => self.finish(Some(Err("the shared response grew beyond what is shared".into()))),
            },
        }
    }

    /// What comes next of what is there.
    fn data(&mut self, buffer: &Buffer) -> Option<Bytes> {
        while let Some(block) = buffer.blocks.get(self.block) {
            let data = block.slice(self.offset..);
            (self.block, self.offset) = (self.block + 1, 0);
            if !data.is_empty() {
                return Some(data);
            }
        }
        let unread = buffer.tail.get(self.offset..).filter(|unread| !unread.is_empty())?;
        let glimpse = &unread[..unread.len().min(GLIMPSE)];
        self.offset += glimpse.len();
        Some(Bytes::copy_from_slice(glimpse))
    }

    fn finish(&mut self, last: Next) -> Poll<Next> {
        self.done = true;
        Poll::Ready(last)
    }

    /// Goes on by a range request of its own; where that cannot be, waits for the body until the idle deadline.
    fn poll_resume(&mut self, pace: Pace, cx: &mut Context<'_>) -> Poll<Next> {
        if let Resume::Ready(_) = self.resume
            && let Resume::Ready(fetch) = std::mem::replace(&mut self.resume, Resume::No)
        {
            self.resume = Resume::Asking(fetch(self.sent));
        }
        if let Resume::Asking(asked) = &mut self.resume {
            let rest = ready!(asked.as_mut().poll(cx));
            self.resume = Resume::No;
            if rest.is_some() {
                self.rest = rest;
                return self.poll_rest(cx);
            }
        }
        match pace {
            Pace::Idle => self.finish(Some(Err("the shared response made no progress".into()))),
            _ => Poll::Pending,
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let frame = ready!(rest.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
            _ => self.done = true,
        }
        Poll::Ready(frame)
    }
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        if self.done {
            return Poll::Ready(None);
        }
        // A range request that was begun is seen through, even if the shared body moves on meanwhile.
        if let Resume::Asking(_) = self.resume {
            let pace = self.tee.lock().pace;
            match self.poll_resume(pace, cx) {
                Poll::Pending if matches!(self.resume, Resume::No) => {}
                other => return other,
            }
        }
        if self.rest.is_some() { self.poll_rest(cx) } else { self.poll_shared(cx) }
    }

    fn is_end_stream(&self) -> bool {
        if self.done {
            return true;
        }
        if let Some(rest) = &self.rest {
            return rest.is_end_stream();
        }
        let state = self.tee.lock();
        let promised = self.tee.promised;
        matches!(state.end, Some(End::Clean(None)))
            && self.sent == state.buffer.length
            && (self.leads || promised.is_none_or(|promised| promised == state.buffer.length))
    }

    fn size_hint(&self) -> SizeHint {
        self.tee
            .promised
            .map_or_else(SizeHint::default, |promised| SizeHint::with_exact(promised.saturating_sub(self.sent)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.tee.lock();
        match self.leads {
            true => state.led = false,
            false => state.followers -= 1,
        }
        let pump = state.pump.take();
        drop(state);
        if let Some(pump) = pump {
            pump.wake();
        }
    }
}

/// Reads a body into a tee for as long as it lives; dropped early, it breaks the body off.
pub(crate) struct Pump {
    tee: Arc<Tee>,
    body: Option<Stream>,
    bounds: Bounds,
    /// Fetches that may outlive their clients.
    slots: Arc<Slots>,
    slot: Option<Slot>,
    tick: Option<Pin<Box<Sleep>>>,
    /// Ticks since anything came.
    quiet: u32,
}

impl Pump {
    pub(crate) fn new(tee: Arc<Tee>, body: Stream, bounds: Bounds, slots: Arc<Slots>) -> Self {
        Self { tee, body: Some(body), bounds, slots, slot: None, tick: None, quiet: 0 }
    }

    /// Reads to the end.
    pub(crate) async fn run(&mut self) -> Turn {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
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
        if self.is_wanted(cx) { Poll::Pending } else { Poll::Ready(Turn::Abandoned) }
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
