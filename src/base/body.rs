//! The response body of all layers: the inner service's body, or bytes of this crate.
//!
//! | constructor | content | cost |
//! |---|---|---|
//! | [`Body::new`] | the inner service's body, forwarded | nothing |
//! | [`Body::full`] | one block of bytes: a rejection, a small stored entry | nothing, shared by reference count |
//! | `Body::chunks` | the chunks of a stored entry | one reference count |
//! | `Body::stream` | a body that is stored while it is read | one box, on a miss only |

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use smallvec::SmallVec;

use super::error::BoxError;

/// Body of any length with boxed errors.
pub(crate) type Stream = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static>>;

pin_project! {
    /// Response body of this crate's layers: the inner service's body `B`, unchanged, or bytes of a rejection or the
    /// cache.
    ///
    /// ```
    /// use http_body_util::BodyExt;
    /// use tollgate::Body;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ours: Body<http_body_util::Empty<bytes::Bytes>> = Body::full("wait");
    /// assert_eq!(ours.collect().await.unwrap().to_bytes(), "wait");
    /// # }
    /// ```
    pub struct Body<B> {
        #[pin]
        kind: Kind<B>,
        tail: Option<Box<BodyTail>>,
    }
}

/// What happens at the end of a body. One pointer, because every body has this field.
#[derive(Default)]
struct BodyTail {
    trailers: AddedTrailers,
    watches: SmallVec<[Box<dyn BodyWatch>; 1]>,
}

#[derive(Default)]
enum AddedTrailers {
    #[default]
    None,
    Due(Trailer),
    Sent,
}

/// Observer of a body's end. Dropped with the body, or after its end.
pub(crate) trait BodyWatch: Send {
    /// The body has ended, with these trailers.
    fn ended(&mut self, trailers: Option<&HeaderMap>);
}

/// Returns fields to add to a body's trailers. Called after the last frame.
pub(crate) type Trailer = Box<dyn FnOnce() -> Option<HeaderMap> + Send>;

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Through { #[pin] body: B },
        Full { bytes: Bytes },
        Chunks { chunks: Arc<[Bytes]>, next: usize, left: u64 },
        Stream { stream: Stream },
    }
}

impl<B> Body<B> {
    /// Creates a body that forwards the inner service's frames.
    ///
    /// ```
    /// use http_body_util::Empty;
    /// use tollgate::Body;
    ///
    /// let body = Body::new(Empty::<bytes::Bytes>::new());
    /// assert!(http_body::Body::is_end_stream(&body));
    /// ```
    pub const fn new(body: B) -> Self {
        Self { kind: Kind::Through { body }, tail: None }
    }

    /// Creates a body of these bytes.
    ///
    /// ```
    /// use tollgate::Body;
    ///
    /// let body: Body<http_body_util::Empty<bytes::Bytes>> = Body::full("wait");
    /// assert_eq!(http_body::Body::size_hint(&body).exact(), Some(4));
    /// ```
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Full { bytes: bytes.into() }, tail: None }
    }

    /// Creates an empty body.
    #[must_use]
    pub const fn empty() -> Self {
        Self { kind: Kind::Full { bytes: Bytes::new() }, tail: None }
    }

    /// Adds trailers, computed after everything else was sent.
    pub(crate) fn add_trailers(&mut self, trailer: Trailer) {
        self.tail.get_or_insert_default().trailers = AddedTrailers::Due(trailer);
    }

    /// Adds an observer of the end.
    pub(crate) fn watch(&mut self, watch: Box<dyn BodyWatch>) {
        self.tail.get_or_insert_default().watches.push(watch);
    }

    /// Creates a body of these chunks, in order.
    pub(crate) fn chunks(chunks: Arc<[Bytes]>) -> Self {
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self { kind: Kind::Chunks { chunks, next: 0, left }, tail: None }
    }

    /// Creates a body that is read while it arrives.
    pub(crate) const fn stream(stream: Stream) -> Self {
        Self { kind: Kind::Stream { stream }, tail: None }
    }
}

impl<B> Default for Body<B> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<B> http_body::Body for Body<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        let Some(tail) = this.tail else { return this.kind.poll_frame(cx) };
        if matches!(tail.trailers, AddedTrailers::Sent) {
            return Poll::Ready(None);
        }
        let frame = match ready!(this.kind.poll_frame(cx)) {
            Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => {
                tail.watches.clear();
                return Poll::Ready(Some(Err(error)));
            }
            other => other.and_then(Result::ok),
        };
        // The end, or the body's own trailers, with which the added ones are merged.
        let mut trailers = frame.and_then(|frame| frame.into_trailers().ok());
        tail.watches.drain(..).for_each(|mut watch| watch.ended(trailers.as_ref()));
        if let AddedTrailers::Due(added) = std::mem::replace(&mut tail.trailers, AddedTrailers::Sent) {
            trailers.get_or_insert_default().extend(added().unwrap_or_default());
        }
        Poll::Ready(trailers.filter(|trailers| !trailers.is_empty()).map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        match self.tail.as_ref().map(|tail| &tail.trailers) {
            None | Some(AddedTrailers::None) => self.kind.is_end_stream(),
            Some(AddedTrailers::Due(_)) => false,
            Some(AddedTrailers::Sent) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.kind.size_hint()
    }
}

impl<B> Kind<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.project() {
            KindProj::Through { body } => {
                Poll::Ready(ready!(body.poll_frame(cx)).map(|frame| frame.map_err(|e| BodyError(e.into()))))
            }
            KindProj::Full { bytes } if bytes.is_empty() => Poll::Ready(None),
            KindProj::Full { bytes } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            KindProj::Chunks { chunks, next, left } => Poll::Ready(chunks.get(*next).map(|chunk| {
                *next += 1;
                *left -= chunk.len() as u64;
                Ok(Frame::data(chunk.clone()))
            })),
            KindProj::Stream { stream } => {
                Poll::Ready(ready!(stream.as_mut().poll_frame(cx)).map(|frame| frame.map_err(BodyError)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Kind::Through { body } => body.is_end_stream(),
            Kind::Full { bytes } => bytes.is_empty(),
            Kind::Chunks { chunks, next, .. } => *next >= chunks.len(),
            Kind::Stream { stream } => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Kind::Through { body } => body.size_hint(),
            Kind::Full { bytes } => SizeHint::with_exact(bytes.len() as u64),
            Kind::Chunks { left, .. } => SizeHint::with_exact(*left),
            Kind::Stream { stream } => stream.size_hint(),
        }
    }
}

impl<B> fmt::Debug for Body<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Through { .. } => "Through",
            Kind::Full { .. } => "Full",
            Kind::Chunks { .. } => "Chunks",
            Kind::Stream { .. } => "Stream",
        };
        f.debug_tuple("Body").field(&kind).finish()
    }
}

/// Error that ended a body early, with the inner service's error, unchanged, as its [source](StdError::source).
///
/// ```
/// fn cause(error: &tollgate::BodyError) -> Option<&(dyn std::error::Error + 'static)> {
///     std::error::Error::source(error)
/// }
/// # let _ = cause;
/// ```
#[derive(Debug)]
pub struct BodyError(BoxError);

impl BodyError {
    /// Returns the inner body's error.
    #[must_use]
    pub fn into_inner(self) -> Box<dyn StdError + Send + Sync> {
        self.0
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response body ended early")
    }
}

impl StdError for BodyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// Conversion of a layer's response body into a [`Body`].
///
/// [`Wrap`] is for a layer used alone; [`Keep`] for the layers that `Tollgate` stacks, so that the body is wrapped
/// once.
///
/// ```
/// use tollgate::body::{Adopt, Wrap};
///
/// let body = <Wrap as Adopt<String>>::adopt("page".to_owned());
/// # let _ = body;
/// ```
pub trait Adopt<B>: sealed::Sealed {
    /// The innermost body.
    type Inner;

    /// Converts `body`.
    fn adopt(body: B) -> Body<Self::Inner>;
}

/// Wraps the inner service's body.
///
/// ```
/// use tollgate::body::Wrap;
/// use tollgate::limit::RateLimit;
///
/// fn alone<S>(service: RateLimit<S, Wrap>) -> RateLimit<S> {
///     service
/// }
/// # let _ = alone::<()>;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Wrap;

/// Keeps a body that is already a [`Body`].
///
/// ```
/// use tollgate::body::Keep;
/// use tollgate::timing::Timing;
///
/// fn stacked<S: Clone>(service: &Timing<S, Keep>) -> Timing<S, Keep> {
///     service.clone()
/// }
/// # let _ = stacked::<()>;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep;

impl<B> Adopt<B> for Wrap {
    type Inner = B;

    fn adopt(body: B) -> Body<B> {
        Body::new(body)
    }
}

impl<B> Adopt<Body<B>> for Keep {
    type Inner = B;

    fn adopt(body: Body<B>) -> Body<B> {
        body
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "sealed: only this crate says how a body is adopted")]
    pub trait Sealed {}
    impl Sealed for super::Wrap {}
    impl Sealed for super::Keep {}
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::{BodyExt, Empty};

    use super::*;

    #[tokio::test]
    async fn chunks_come_in_order_with_an_exact_length() {
        let chunks: Arc<[Bytes]> = [Bytes::from_static(b"ab"), Bytes::from_static(b"c")].into();
        let body: Body<Empty<Bytes>> = Body::chunks(chunks);
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(body.collect().await.expect("no error").to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_stream_forwards_its_error() {
        let failing = http_body_util::StreamBody::new(futures_util::stream::iter([
            Ok(Frame::data(Bytes::from_static(b"a"))),
            Err::<_, BoxError>("broken".into()),
        ]));
        let body: Body<Empty<Bytes>> = Body::stream(Box::pin(failing));
        let error = body.collect().await.expect_err("the inner error");
        assert_eq!(error.into_inner().to_string(), "broken");
    }

    #[test]
    fn an_empty_body_is_at_its_end() {
        assert!(Body::<Empty<Bytes>>::empty().is_end_stream());
    }
}
