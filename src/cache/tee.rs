//! A body read once and given to many, while it arrives.
//!
//! One pump reads the inner body and appends its chunks; every reader keeps its own place, so a slow one holds nobody
//! back. Up to the bound of an entry all chunks are kept. What then happens, and to whom:
//!
//! | the inner body | the leader's client | the others |
//! |---|---|---|
//! | ends well | ends well | end well |
//! | ends in an error | gets that error | end in an error |
//! | outgrows the bound (or all bodies in flight outgrow theirs) | reads on, straight from the inner body, in constant memory | go on by a range request of their own under the same strong `ETag`, else end in an error: never in a clean end that would pass for the whole |
//!
//! Costs: one lock per chunk and reader, no copy.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::answer::BoxFuture;
use crate::body::Stream;
use crate::error::BoxError;

/// Where the shared part of a body ends.
enum End {
    /// With the body itself, and these trailers.
    Clean(Option<HeaderMap>),
    /// In an error, for the first reader to take.
    Broken(Option<BoxError>),
    /// Here; the rest is for the leader's client alone.
    Handed(Option<Stream>),
}

#[derive(Default)]
struct State {
    chunks: Vec<Bytes>,
    length: u64,
    end: Option<End>,
    wakers: Vec<Waker>,
}

/// The shared part of a body.
pub(crate) struct Tee {
    state: Mutex<State>,
    promised: Option<u64>,
    /// All bytes held by all tees.
    held: Arc<AtomicU64>,
}

/// What a pump's turn came to.
pub(crate) enum Turn {
    /// Everything was read.
    Whole,
    /// It ended with trailers.
    Trailers,
    /// It ended in an error.
    Broken,
    /// It outgrew a bound, and the rest was handed over.
    TooLarge,
}

/// What may be held.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) entry: u64,
    pub(crate) all: u64,
}

impl Tee {
    pub(crate) fn new(promised: Option<u64>, held: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), promised, held })
    }

    /// The body for the client whose fetch it is: it reads on where the shared part ends early.
    pub(crate) fn leader(self: &Arc<Self>) -> Reader {
        Reader { tee: self.clone(), next: 0, sent: 0, leader: true, rest: None, resume: Resume::No, done: false }
    }

    /// A body for another client; `resume` fetches what follows that many bytes where the shared part ends early.
    pub(crate) fn follower(self: &Arc<Self>, resume: Option<Fetch>) -> Reader {
        let resume = resume.map_or(Resume::No, Resume::Ready);
        Reader { tee: self.clone(), next: 0, sent: 0, leader: false, rest: None, resume, done: false }
    }

    /// All chunks and their length.
    pub(crate) fn collected(&self) -> (Vec<Bytes>, u64) {
        let state = self.lock();
        (state.chunks.clone(), state.length)
    }

    /// Reads `body` to its end, or to the bound.
    pub(crate) fn poll_pump(&self, body: &mut Option<Stream>, bounds: Bounds, cx: &mut Context<'_>) -> Poll<Turn> {
        loop {
            let Some(stream) = body.as_mut() else { return Poll::Ready(Turn::Broken) };
            match ready!(stream.as_mut().poll_frame(cx)) {
                None => {
                    self.end(End::Clean(None));
                    return Poll::Ready(Turn::Whole);
                }
                Some(Err(error)) => {
                    self.end(End::Broken(Some(error)));
                    return Poll::Ready(Turn::Broken);
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        if !self.append(data, bounds) {
                            self.end(End::Handed(body.take()));
                            return Poll::Ready(Turn::TooLarge);
                        }
                    }
                    Err(frame) => {
                        self.end(End::Clean(frame.into_trailers().ok()));
                        return Poll::Ready(Turn::Trailers);
                    }
                },
            }
        }
    }

    /// Ends the body in an error for everybody, unless it has ended already.
    pub(crate) fn break_off(&self) {
        if self.lock().end.is_none() {
            self.end(End::Broken(None));
        }
    }

    /// Appends and tells whether more may be held. The chunk that passes the bound is still shared.
    fn append(&self, data: Bytes, bounds: Bounds) -> bool {
        let size = data.len() as u64;
        let held = self.held.fetch_add(size, Ordering::Relaxed) + size;
        let mut state = self.lock();
        state.length += size;
        state.chunks.push(data);
        let fits = state.length <= bounds.entry && held <= bounds.all;
        wake(state);
        fits
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        state.end = Some(end);
        wake(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        let length = self.lock().length;
        self.held.fetch_sub(length, Ordering::Relaxed);
    }
}

/// Wakes every reader, outside the lock.
fn wake(mut state: MutexGuard<'_, State>) {
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
}

/// Fetches the bytes of the same representation that follow so many; `None` where that cannot be had.
pub(crate) type Fetch = Box<dyn FnOnce(u64) -> BoxFuture<Option<Stream>> + Send>;

/// How a follower goes on where the shared part ends early.
enum Resume {
    No,
    Ready(Fetch),
    Asking(BoxFuture<Option<Stream>>),
}

/// One client's view of a shared body.
pub(crate) struct Reader {
    tee: Arc<Tee>,
    next: usize,
    sent: u64,
    leader: bool,
    rest: Option<Stream>,
    resume: Resume,
    done: bool,
}

impl Reader {
    fn poll_shared(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.tee.lock();
        if let Some(chunk) = state.chunks.get(self.next) {
            self.next += 1;
            self.sent += chunk.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        match &mut state.end {
            None => {
                if !state.wakers.iter().any(|known| known.will_wake(cx.waker())) {
                    state.wakers.push(cx.waker().clone());
                }
                Poll::Pending
            }
            Some(End::Clean(trailers)) => {
                let trailers = trailers.clone();
                self.done = true;
                // A body shorter than promised ends cleanly only for the client whose fetch it is: that is what the
                // inner service sent it. To the others it must not pass for the whole.
                if !self.leader && self.tee.promised.is_some_and(|promised| promised != state.length) {
                    return Poll::Ready(Some(Err("the shared response was cut short".into())));
                }
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Some(End::Broken(error)) => {
                self.done = true;
                let error = if self.leader { error.take() } else { None };
                Poll::Ready(Some(Err(error.unwrap_or_else(|| "the shared response broke off".into()))))
            }
            Some(End::Handed(rest)) => match if self.leader { rest.take() } else { None } {
                Some(rest) => {
                    self.rest = Some(rest);
                    drop(state);
                    // What was shared is no longer needed by this reader; the others hold the tee for themselves.
                    self.tee = Tee::new(self.tee.promised, self.tee.held.clone());
                    self.poll_rest(cx)
                }
                None => {
                    drop(state);
                    self.poll_resume(cx)
                }
            },
        }
    }

    /// Goes on by range, or ends in an error: never in a clean end that would pass for the whole.
    fn poll_resume(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Resume::Ready(_) = self.resume
            && let Resume::Ready(fetch) = std::mem::replace(&mut self.resume, Resume::No)
        {
            self.resume = Resume::Asking(fetch(self.sent));
        }
        if let Resume::Asking(asked) = &mut self.resume
            && let Some(rest) = ready!(asked.as_mut().poll(cx))
        {
            self.resume = Resume::No;
            self.rest = Some(rest);
            return self.poll_rest(cx);
        }
        self.resume = Resume::No;
        self.done = true;
        Poll::Ready(Some(Err("the shared response grew beyond what is shared".into())))
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
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

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            return Poll::Ready(None);
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
        matches!(state.end, Some(End::Clean(None)))
            && self.next >= state.chunks.len()
            && self.tee.promised.is_none_or(|promised| promised == state.length || self.leader)
    }

    fn size_hint(&self) -> SizeHint {
        self.tee
            .promised
            .map_or_else(SizeHint::default, |promised| SizeHint::with_exact(promised.saturating_sub(self.sent)))
    }
}

/// Reads a body into a tee for as long as it lives; dropped early, it breaks the body off.
pub(crate) struct Pump {
    tee: Arc<Tee>,
    body: Option<Stream>,
    bounds: Bounds,
}

impl Pump {
    pub(crate) fn new(tee: Arc<Tee>, body: Stream, bounds: Bounds) -> Self {
        Self { tee, body: Some(body), bounds }
    }

    /// Reads to the end.
    pub(crate) async fn run(&mut self) -> Turn {
        std::future::poll_fn(|cx| self.tee.poll_pump(&mut self.body, self.bounds, cx)).await
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.tee.break_off();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn body(frames: Vec<Result<&'static str, &'static str>>) -> Stream {
        let frames = frames.into_iter().map(|frame| match frame {
            Ok(data) => Ok(Frame::data(Bytes::from_static(data.as_bytes()))),
            Err(error) => Err(BoxError::from(error)),
        });
        Box::pin(StreamBody::new(futures_util::stream::iter(frames)))
    }

    async fn pumped(frames: Vec<Result<&'static str, &'static str>>, promised: Option<u64>) -> Arc<Tee> {
        let tee = Tee::new(promised, Arc::default());
        Pump::new(tee.clone(), body(frames), Bounds { entry: 4, all: 100 }).run().await;
        tee
    }

    async fn read(reader: Reader) -> Result<Bytes, String> {
        reader.collect().await.map(|all| all.to_bytes()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn every_reader_gets_the_whole_body() {
        let tee = pumped(vec![Ok("a"), Ok("bc")], None).await;
        assert_eq!(read(tee.leader()).await, Ok(Bytes::from("abc")));
        assert_eq!(read(tee.follower(None)).await, Ok(Bytes::from("abc")));
    }

    #[tokio::test]
    async fn the_error_itself_goes_to_the_leader_and_nobody_sees_a_clean_end() {
        let tee = pumped(vec![Ok("a"), Err("broken")], None).await;
        assert_eq!(read(tee.follower(None)).await, Err("the shared response broke off".into()));
        assert_eq!(read(tee.leader()).await, Err("broken".into()));
    }

    #[tokio::test]
    async fn beyond_the_bound_only_the_leader_reads_on() {
        let tee = pumped(vec![Ok("abc"), Ok("def"), Ok("ghi")], None).await;
        assert!(read(tee.follower(None)).await.is_err());
        assert_eq!(read(tee.leader()).await, Ok(Bytes::from("abcdefghi")));
    }

    #[tokio::test]
    async fn a_body_cut_short_is_an_error_to_those_who_share_it() {
        let tee = pumped(vec![Ok("a")], Some(2)).await;
        assert!(read(tee.follower(None)).await.is_err());
        assert_eq!(read(tee.leader()).await, Ok(Bytes::from("a")));
    }

    #[tokio::test]
    async fn what_is_held_is_given_back() {
        let held = Arc::new(AtomicU64::new(0));
        let tee = Tee::new(None, held.clone());
        Pump::new(tee.clone(), body(vec![Ok("abc")]), Bounds { entry: 4, all: 100 }).run().await;
        assert_eq!(held.load(Ordering::Relaxed), 3);
        drop(tee);
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }
}
