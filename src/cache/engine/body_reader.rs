//! [`BodyReader`]: one client's view of a body that is shared while it arrives.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::body_buffer::BodyBuffer;
use super::tee::{End, Pace, Tee};
use crate::base::body::Stream;
use crate::base::error::BoxError;
use crate::base::maybe_ready::BoxFuture;

/// The most bytes copied out of an unfinished block at a time.
const GLIMPSE: usize = 16 * 1024;

/// Fetches the bytes of the same representation that follow so many; `None` where that cannot be had.
pub(crate) type Fetch = Box<dyn FnOnce(u64) -> BoxFuture<Option<Stream>> + Send>;

/// How a follower goes on where the shared part stalls.
enum Resume {
    No,
    Ready(Fetch),
    Asking(BoxFuture<Option<Stream>>),
}

/// One client's view of a shared body.
pub(crate) struct BodyReader {
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

impl BodyReader {
    /// The client whose fetch it is.
    pub(crate) fn leader(tee: Arc<Tee>) -> Self {
        Self { tee, block: 0, offset: 0, sent: 0, leads: true, rest: None, resume: Resume::No, done: false }
    }

    /// Another client.
    pub(crate) fn follower(tee: Arc<Tee>, resume: Option<Fetch>) -> Self {
        let resume = resume.map_or(Resume::No, Resume::Ready);
        Self { tee, block: 0, offset: 0, sent: 0, leads: false, rest: None, resume, done: false }
    }

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
                // A body shorter than promised ends cleanly only for the client whose fetch it is: that is what the
                // inner
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
                        state.buffer.clear();
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
    fn data(&mut self, buffer: &BodyBuffer) -> Option<Bytes> {
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

impl http_body::Body for BodyReader {
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

impl Drop for BodyReader {
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
