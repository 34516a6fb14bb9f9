//! [`BodyReader`]: one client's body, read from a shared tee.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::body_buffer::BodyBuffer;
use super::tee::{Tee, TeeEnd, TeeProgress};
use crate::base::body::Stream;
use crate::base::error::BoxError;
use crate::base::maybe_ready::BoxFuture;

/// Maximum number of bytes copied out of an unfinished block at a time.
const MAX_COPY: usize = 16 * 1024;

/// Fetches the rest of the representation from an offset; `None` if that fails.
pub(crate) type FetchRest = Box<dyn FnOnce(u64) -> BoxFuture<Option<Stream>> + Send>;

/// State of a follower's range request after a stall.
enum ReadState {
    No,
    Ready(FetchRest),
    Requesting(BoxFuture<Option<Stream>>),
}

/// Body of one client, read from a shared tee.
pub(crate) struct BodyReader {
    tee: Arc<Tee>,
    /// Next block to read, and the offset in it.
    block: usize,
    offset: usize,
    sent: u64,
    is_leader: bool,
    rest: Option<Stream>,
    resume: ReadState,
    done: bool,
}

type Next = Option<Result<Frame<Bytes>, BoxError>>;

impl BodyReader {
    /// Creates the reader of the client that triggered the fetch.
    pub(super) fn leader(tee: Arc<Tee>) -> Self {
        Self { tee, block: 0, offset: 0, sent: 0, is_leader: true, rest: None, resume: ReadState::No, done: false }
    }

    /// Creates the reader of another client.
    pub(super) fn follower(tee: Arc<Tee>, resume: Option<FetchRest>) -> Self {
        let resume = resume.map_or(ReadState::No, ReadState::Ready);
        Self { tee, block: 0, offset: 0, sent: 0, is_leader: false, rest: None, resume, done: false }
    }

    fn poll_shared(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let tee = self.tee.clone();
        let mut state = tee.lock();
        if let Some(data) = self.data(&state.buffer) {
            self.sent += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let tee_progress = state.tee_progress;
        match &mut state.end {
            _ if !self.is_leader && tee.promised == Some(self.sent) => {
                drop(state);
                self.poll_trailers(cx)
            }
            None if !self.is_leader && tee_progress > TeeProgress::Flowing => {
                state.wait(cx);
                drop(state);
                self.poll_resume(tee_progress, cx)
            }
            None => {
                state.wait(cx);
                Poll::Pending
            }
            Some(TeeEnd::Complete(trailers)) => {
                // A body shorter than declared ends cleanly only for the leader's client, as the inner service sent it.
                // Followers must not mistake it for the complete body.
                if !self.is_leader && tee.promised.is_some() {
                    return self.finish(Some(Err("shared response ended before its declared length".into())));
                }
                let trailers = trailers.clone();
                self.finish(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Some(TeeEnd::Failed(error)) => {
                let error = if self.is_leader { error.take() } else { None };
                self.finish(Some(Err(error.unwrap_or_else(|| "shared response ended in an error".into()))))
            }
            Some(TeeEnd::Detached(rest)) => match if self.is_leader { rest.take() } else { None } {
                Some((chunk, rest)) => {
                    // No follower can start any more: the bytes read are dropped.
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
                None => self.finish(Some(Err("shared response exceeded the bound for shared bodies".into()))),
            },
        }
    }

    /// Returns the next bytes available.
    fn data(&mut self, buffer: &BodyBuffer) -> Option<Bytes> {
        while let Some(block) = buffer.blocks.get(self.block) {
            let data = block.slice(self.offset..);
            (self.block, self.offset) = (self.block + 1, 0);
            if !data.is_empty() {
                return Some(data);
            }
        }
        let unread = buffer.tail.get(self.offset..).filter(|unread| !unread.is_empty())?;
        let copied = &unread[..unread.len().min(MAX_COPY)];
        self.offset += copied.len();
        Some(Bytes::copy_from_slice(copied))
    }

    /// Ends a body whose declared length was sent, whatever follows but trailers. An end that does not come is not waited for.
    fn poll_trailers(&mut self, cx: &Context<'_>) -> Poll<Next> {
        let tee = self.tee.clone();
        let mut state = tee.lock();
        let trailers = match &state.end {
            None if state.tee_progress == TeeProgress::Flowing => {
                state.wait(cx);
                return Poll::Pending;
            }
            Some(TeeEnd::Complete(trailers)) => trailers.clone(),
            None | Some(TeeEnd::Failed(_) | TeeEnd::Detached(_)) => None,
        };
        self.finish(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn finish(&mut self, last: Next) -> Poll<Next> {
        self.done = true;
        Poll::Ready(last)
    }

    /// Continues with a range request; if that fails, waits for the body until the idle timeout.
    fn poll_resume(&mut self, tee_progress: TeeProgress, cx: &mut Context<'_>) -> Poll<Next> {
        if let ReadState::Ready(_) = self.resume
            && let ReadState::Ready(fetch) = std::mem::replace(&mut self.resume, ReadState::No)
        {
            self.resume = ReadState::Requesting(fetch(self.sent));
        }
        if let ReadState::Requesting(pending) = &mut self.resume {
            let rest = ready!(pending.as_mut().poll(cx));
            self.resume = ReadState::No;
            if rest.is_some() {
                self.rest = rest;
                return self.poll_rest(cx);
            }
        }
        match tee_progress {
            TeeProgress::Idle => {
                self.finish(Some(Err("shared response made no progress until the idle timeout".into())))
            }
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
        // A range request under way is completed even if the shared body makes progress.
        if let ReadState::Requesting(_) = self.resume {
            let tee_progress = self.tee.lock().tee_progress;
            match self.poll_resume(tee_progress, cx) {
                Poll::Pending if matches!(self.resume, ReadState::No) => {}
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
        matches!(state.end, Some(TeeEnd::Complete(None)))
            && self.sent == state.buffer.length
            && (self.is_leader || promised.is_none_or(|promised| promised == state.buffer.length))
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
        match self.is_leader {
            true => state.has_leader = false,
            false => state.followers -= 1,
        }
        let pump = state.pump.take();
        drop(state);
        if let Some(pump) = pump {
            pump.wake();
        }
    }
}
