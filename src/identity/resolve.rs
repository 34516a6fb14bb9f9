//! [`Resolve`]: an identity that may take time to find.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::extract::{Carries, KeyExtractor};
use super::extracted_keys::{ExtractedKeys, Resolution};
use super::key::Key;
use crate::base::error::Error;
use crate::base::maybe_ready::{BoxFuture, MaybeReady};
use crate::base::request_head::RequestHead;

/// How long a request waits for its identity by default.
const DEADLINE: Duration = Duration::from_millis(100);

/// An extractor whose result may be pending. Made by [`by::resolve`](crate::identity::by::resolve).
///
/// ```
/// use tollgate::MaybeReady;
/// use tollgate::identity::{Key, KeyExtractor, TrustedProxies, by};
///
/// let session = by::resolve(|_| MaybeReady::Ready(Some(Key::number("user", 7))));
/// let who = session.or(by::client_ip(TrustedProxies::none()));
/// # let _ = who;
/// ```
#[derive(Clone)]
pub struct Resolve<F> {
    resolve: F,
    deadline: Duration,
    carries: Option<Carries>,
}

impl<F> Resolve<F> {
    pub(super) const fn new(resolve: F) -> Self {
        Self { resolve, deadline: DEADLINE, carries: None }
    }

    /// Sets how long a request waits at most. Defaults to 100 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::MaybeReady;
    /// use tollgate::identity::by;
    ///
    /// let session = by::resolve(|_| MaybeReady::Ready(None)).deadline(Duration::from_millis(20));
    /// # let _ = session;
    /// ```
    #[must_use]
    pub const fn deadline(mut self, span: Duration) -> Self {
        self.deadline = span;
        self
    }

    /// Declares which requests carry the credential that the closure reads: see [`KeyExtractor::carries`]. Without it, all
    /// do, and a cache shares none of their answers.
    ///
    /// ```
    /// use tollgate::MaybeReady;
    /// use tollgate::identity::by;
    ///
    /// let session = by::resolve(|_| MaybeReady::Ready(None)).carried_where(|head| head.headers().contains_key("x-session"));
    /// # let _ = session;
    /// ```
    #[must_use]
    pub fn carried_where<C>(mut self, carries: C) -> Self
    where
        C: for<'a> Fn(&RequestHead<'a>) -> bool + Send + Sync + 'static,
    {
        self.carries = Some(Arc::new(carries));
        self
    }

    /// Bounds a pending key, and isolates its panics.
    fn pending(&self, key: BoxFuture<Option<Key<'static>>>) -> BoxFuture<Resolution> {
        // The panic hook has printed the message.
        bounded(self.deadline, AssertUnwindSafe(key).catch_unwind().map(|key| key.map_err(drop)))
    }
}

/// Bounds a pending identity.
pub(super) fn bounded<T: Into<Resolution>>(
    deadline: Duration,
    identity: impl Future<Output = Result<Option<T>, ()>> + Send + 'static,
) -> BoxFuture<Resolution> {
    Box::pin(async move {
        match tokio::time::timeout(deadline, identity).await {
            Ok(Ok(Some(found))) => found.into(),
            Ok(Ok(None)) => Resolution::Nothing,
            Ok(Err(())) | Err(_) => Resolution::Failed,
        }
    })
}

impl<F> KeyExtractor for Resolve<F>
where
    F: for<'a> Fn(&RequestHead<'a>) -> MaybeReady<Option<Key<'static>>> + Send + Sync + 'static,
{
    /// Returns the key if it is ready. One that is pending is dropped: only the layers of this crate wait for it.
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        match catch_unwind(AssertUnwindSafe(|| (self.resolve)(head))) {
            Ok(MaybeReady::Ready(key)) => key,
            Ok(MaybeReady::Pending(_)) | Err(_) => None,
        }
    }

    fn carries(&self, head: &RequestHead<'_>) -> bool {
        self.carries.as_ref().is_none_or(|carries| carries(head))
    }

    fn check(&self) -> Result<(), Error> {
        match self.deadline.is_zero() {
            true => Err(Error::config("the deadline of a resolved identity must be longer than 0")),
            false => Ok(()),
        }
    }

    fn extract_once<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        if let Some(known) = keys.known(self) {
            return known;
        }
        match catch_unwind(AssertUnwindSafe(|| (self.resolve)(head))) {
            Ok(MaybeReady::Ready(key)) => {
                let key = key?.keep();
                keys.insert(self, key.clone());
                Some(key)
            }
            Ok(MaybeReady::Pending(key)) => {
                keys.wait_for(self, self.pending(key));
                None
            }
            Err(_) => None,
        }
    }
}

impl<F> fmt::Debug for Resolve<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolve").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
