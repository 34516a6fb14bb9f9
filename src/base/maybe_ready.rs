//! [`MaybeReady`]: the result of a store, at once or as a future.

use crate::base::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::error::BoxError;

/// Boxed future without borrows.
///
/// ```
/// use tollgate::BoxFuture;
///
/// let answer: BoxFuture<u8> = Box::pin(async { 2 });
/// # let _ = answer;
/// ```
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// Boxes a future and its error.
pub(crate) fn boxed<T: 'static, E: Into<BoxError>>(
    future: impl Future<Output = Result<T, E>> + Send + 'static,
) -> BoxFuture<Result<T, BoxError>> {
    Box::pin(async move { future.await.map_err(Into::into) })
}

/// Result that is ready, or a future of it.
///
/// In-process stores answer at once, so their path boxes nothing and awaits nothing; remote stores return a future.
///
/// ```
/// use tollgate::MaybeReady;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let local: MaybeReady<u8> = MaybeReady::Ready(1);
/// let remote: MaybeReady<u8> = MaybeReady::Pending(Box::pin(async { 2 }));
/// assert_eq!(local.await + remote.await, 3);
/// # }
/// ```
#[expect(clippy::exhaustive_enums, reason = "stores of users are written against exactly these two")]
pub enum MaybeReady<T> {
    /// The result.
    Ready(T),
    /// A future of the result.
    Pending(BoxFuture<T>),
}

impl<T: Send + 'static> MaybeReady<T> {
    /// Maps the result, now or when it arrives.
    ///
    /// ```
    /// use tollgate::MaybeReady;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// assert_eq!(MaybeReady::Ready(20).map(|n| n + 1).await, 21);
    /// # }
    /// ```
    #[must_use]
    pub fn map<U: 'static>(self, f: impl FnOnce(T) -> U + Send + 'static) -> MaybeReady<U> {
        match self {
            Self::Ready(value) => MaybeReady::Ready(f(value)),
            Self::Pending(future) => MaybeReady::Pending(Box::pin(async move { f(future.await) })),
        }
    }
}

impl<T> IntoFuture for MaybeReady<T> {
    type Output = T;
    type IntoFuture = MaybeReadyFuture<T>;

    fn into_future(self) -> Self::IntoFuture {
        MaybeReadyFuture(match self {
            Self::Ready(value) => State::Ready(Some(value)),
            Self::Pending(future) => State::Pending(future),
        })
    }
}

impl<T> fmt::Debug for MaybeReady<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Ready(..)",
            Self::Pending(_) => "Pending(..)",
        })
    }
}

/// Future of a [`MaybeReady`].
///
/// ```
/// use tollgate::MaybeReady;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let future = MaybeReady::Ready(1).into_future();
/// assert_eq!(future.await, 1);
/// # }
/// ```
pub struct MaybeReadyFuture<T>(State<T>);

enum State<T> {
    Ready(Option<T>),
    Pending(BoxFuture<T>),
}

impl<T> Unpin for MaybeReadyFuture<T> {}

impl<T> Future for MaybeReadyFuture<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            State::Ready(value) => value.take().map_or(Poll::Pending, Poll::Ready),
            State::Pending(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for MaybeReadyFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnswerFuture(..)")
    }
}

/// Joins two results. The first is awaited last, since it is the one that is ready in general.
pub(crate) fn both<T: Send + 'static>(
    first: MaybeReady<T>,
    second: MaybeReady<T>,
    join: fn(T, T) -> T,
) -> MaybeReady<T> {
    match first {
        MaybeReady::Ready(first) => second.map(move |second| join(first, second)),
        MaybeReady::Pending(first) => MaybeReady::Pending(Box::pin(async move {
            let second = second.await;
            join(first.await, second)
        })),
    }
}

/// Collects all results in order, or returns the first error.
pub(crate) fn all<T: Send + 'static>(answers: Vec<MaybeReady<Result<T, Error>>>) -> MaybeReady<Result<Vec<T>, Error>> {
    if answers.iter().all(|answer| matches!(answer, MaybeReady::Ready(_))) {
        let ready = answers.into_iter().filter_map(|answer| match answer {
            MaybeReady::Ready(answer) => Some(answer),
            MaybeReady::Pending(_) => None,
        });
        return MaybeReady::Ready(ready.collect());
    }
    MaybeReady::Pending(Box::pin(async move {
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            all.push(answer.await?);
        }
        Ok(all)
    }))
}
