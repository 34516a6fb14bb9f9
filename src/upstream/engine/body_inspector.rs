//! Inspects the beginning of a body while it is forwarded, for limits reported inside a 200 response.
//!
//! Frames are forwarded unchanged and at once. A bounded copy of the first bytes is kept until the hook has read it:
//! at the bound, at the end, or when the body is dropped.
//!
//! The body of a 403 is inspected without a hook too: GitHub's secondary limit says so only there.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http::response::Parts;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

use super::shared::UpstreamShared;
use crate::base::error::BoxError;
use crate::upstream::learn::observed_limits::ObservedLimits;
use crate::upstream::quota::account::AccountTicket;

/// Callback that reads limits from a body.
pub(crate) type Read = Arc<dyn Fn(&Parts, &[u8]) -> Option<ObservedLimits> + Send + Sync>;

/// The hook and the number of bytes it may read.
#[derive(Clone)]
pub(crate) struct BodyHook {
    pub(crate) most: usize,
    pub(crate) read: Read,
}

pin_project! {
    /// Inspected body.
    pub(crate) struct BodyInspector<B> {
        #[pin]
        inner: B,
        prefix: Prefix,
    }
}

/// Bytes of a 403's body that are inspected.
const FORBIDDEN: usize = 4_096;

/// The bytes inspected so far.
struct Prefix {
    core: Arc<UpstreamShared>,
    ticket: AccountTicket,
    parts: Option<Box<Parts>>,
    seen: Vec<u8>,
    most: usize,
}

impl<B> BodyInspector<B> {
    pub(crate) fn new(inner: B, parts: Parts, core: Arc<UpstreamShared>, ticket: AccountTicket) -> Self {
        let hooked = core.in_body.as_ref().map_or(0, |hook| hook.most);
        let most = if parts.status == StatusCode::FORBIDDEN { hooked.max(FORBIDDEN) } else { hooked };
        Self { inner, prefix: Prefix { core, ticket, parts: Some(Box::new(parts)), seen: Vec::new(), most } }
    }
}

impl Prefix {
    fn at(&mut self, data: &[u8]) {
        if self.parts.is_none() {
            return;
        }
        let room = self.most - self.seen.len();
        self.seen.extend_from_slice(&data[..data.len().min(room)]);
        if self.seen.len() == self.most {
            self.run_hook();
        }
    }

    fn run_hook(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        let Some(parts) = self.parts.take() else { return };
        let hook = self.core.in_body.as_ref();
        let observed = hook.and_then(|hook| (hook.read)(&parts, &seen[..seen.len().min(hook.most)]));
        let secondary = || tells_of_a_rate_limit(&parts, &seen).then(ObservedLimits::secondary);
        if let Some(observed) = observed.or_else(secondary) {
            self.core.observed_in_body(&self.ticket, &observed);
        }
    }
}

/// Returns whether the body of a 403 says that a rate limit was the reason: in its message or `documentation_url`
/// (GitHub), or in its reason (Google).
fn tells_of_a_rate_limit(parts: &Parts, body: &[u8]) -> bool {
    const SIGNS: [&[u8]; 4] = [b"rate limit", b"rate-limit", b"ratelimit", b"abuse detection"];
    let says = |sign: &[u8]| body.windows(sign.len()).any(|bytes| bytes.eq_ignore_ascii_case(sign));
    parts.status == StatusCode::FORBIDDEN && SIGNS.into_iter().any(says)
}

impl Drop for Prefix {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.run_hook();
        }
    }
}

impl<B> http_body::Body for BodyInspector<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx)).map(|frame| frame.map_err(Into::into));
        match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or((), |data| this.prefix.at(data)),
            Some(Err(_)) | None => this.prefix.run_hook(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
