//! [`Verify`]: a credential that is verified, once for a time.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::extract::{Identity, KeyExtractor};
use super::extracted_keys::{ExtractedKeys, FoundIdentity};
use super::key::Key;
use super::resolve::bounded;
use super::token_cache::{CachedToken, TokenCache, Verified};
use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::base::request_head::RequestHead;

/// Default for the time that a request waits.
const DEADLINE: Duration = Duration::from_secs(1);
const CAPACITY: usize = 10_000;
const TTL: Duration = Duration::from_secs(60);
const NEGATIVE_TTL: Duration = Duration::from_secs(5);

type VerifyFn = Arc<dyn Fn(String) -> BoxFuture<Verified> + Send + Sync>;

/// An extractor that verifies a credential. Made by [`by::verify`](crate::identity::by::verify).
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use tollgate::identity::by;
///
/// let user = by::verify(by::bearer(), |_token| async { Ok::<Option<u64>, Infallible>(Some(7)) })
///     .ttl(Duration::from_secs(30))
///     .deadline(Duration::from_millis(200));
/// # let _ = user;
/// ```
#[derive(Clone)]
pub struct Verify<X> {
    credential: X,
    verify: VerifyFn,
    cache: Arc<TokenCache>,
    deadline: Duration,
}

impl<X: KeyExtractor> Verify<X> {
    pub(super) fn new<F, Fut, T, E>(credential: X, verify: F) -> Self
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<T>, E>> + Send + 'static,
        T: Identity + Clone,
    {
        let verify = move |token| -> BoxFuture<Verified> {
            let verifying = verify(token);
            Box::pin(async move {
                let found = verifying.await.map_err(drop)?;
                Ok(found.map(|found| {
                    let key = found.key().keep();
                    FoundIdentity { key, leave: Arc::new(move |extensions| drop(extensions.insert(found.clone()))) }
                }))
            })
        };
        let cache = Arc::new(TokenCache::new(CAPACITY, TTL, NEGATIVE_TTL));
        Self { credential, verify: Arc::new(verify), cache, deadline: DEADLINE }
    }

    /// Sets how long a request waits at most. Defaults to 1 s. The verification goes on with the next request of the same
    /// credential.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use std::time::Duration;
    /// use tollgate::identity::by;
    ///
    /// let user = by::verify(by::bearer(), |_| async { Ok::<Option<u64>, Infallible>(None) }).deadline(Duration::from_millis(200));
    /// # let _ = user;
    /// ```
    #[must_use]
    pub const fn deadline(mut self, span: Duration) -> Self {
        self.deadline = span;
        self
    }

    /// Sets how long a user is remembered. Defaults to 60 s: a revoked credential is accepted for as long.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use std::time::Duration;
    /// use tollgate::identity::by;
    ///
    /// let user = by::verify(by::bearer(), |_| async { Ok::<Option<u64>, Infallible>(None) }).ttl(Duration::from_secs(10));
    /// # let _ = user;
    /// ```
    #[must_use]
    pub fn ttl(self, span: Duration) -> Self {
        self.with_cache(|cache| TokenCache::new(cache.capacity, span, cache.negative_ttl))
    }

    /// Sets how long it is remembered that a credential is invalid. Defaults to 5 s.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use std::time::Duration;
    /// use tollgate::identity::by;
    ///
    /// let user =
    ///     by::verify(by::bearer(), |_| async { Ok::<Option<u64>, Infallible>(None) }).negative_ttl(Duration::from_secs(1));
    /// # let _ = user;
    /// ```
    #[must_use]
    pub fn negative_ttl(self, span: Duration) -> Self {
        self.with_cache(|cache| TokenCache::new(cache.capacity, cache.ttl, span))
    }

    /// Sets how many credentials are remembered. Defaults to 10 000.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use tollgate::identity::by;
    ///
    /// let user = by::verify(by::bearer(), |_| async { Ok::<Option<u64>, Infallible>(None) }).capacity(100_000);
    /// # let _ = user;
    /// ```
    #[must_use]
    pub fn capacity(self, credentials: usize) -> Self {
        self.with_cache(|cache| TokenCache::new(credentials, cache.ttl, cache.negative_ttl))
    }

    fn with_cache(mut self, cache: impl FnOnce(&TokenCache) -> TokenCache) -> Self {
        self.cache = Arc::new(cache(&self.cache));
        self
    }
}

impl<X: KeyExtractor> KeyExtractor for Verify<X> {
    /// Returns the key if the credential is known. One that is not is verified only by the layers of this crate.
    fn extract<'a>(&self, head: &RequestHead<'a>) -> Option<Key<'a>> {
        match self.cache.get(self.credential.extract(head)?.as_bytes()?)? {
            CachedToken::Known(found) => found.map(|found| found.key),
            CachedToken::Pending(_) => None,
        }
    }

    fn extract_once<'a>(&self, head: &RequestHead<'a>, keys: &mut ExtractedKeys) -> Option<Key<'a>> {
        if let Some(known) = keys.known(self) {
            return known;
        }
        let credential = self.credential.extract_once(head, keys)?;
        let token = credential.as_bytes()?;
        let text = std::str::from_utf8(token).ok()?;
        match self.cache.get_or_verify(token, || (self.verify)(text.to_owned())) {
            CachedToken::Known(found) => {
                let found = found?;
                let key = found.key.clone();
                keys.insert_found(self, found);
                Some(key)
            }
            CachedToken::Pending(verified) => {
                keys.wait_for(self, bounded(self.deadline, verified));
                None
            }
        }
    }

    fn carries(&self, head: &RequestHead<'_>) -> bool {
        self.credential.carries(head)
    }

    fn check(&self) -> Result<(), Error> {
        if self.deadline.is_zero() || self.cache.capacity == 0 {
            return Err(Error::config("by::verify needs a deadline over 0 and a capacity of at least 1 credential"));
        }
        self.credential.check()
    }

    fn describe(&self) -> String {
        self.credential.describe()
    }

    fn verifies(&self) -> bool {
        true
    }
}

impl<X: fmt::Debug> fmt::Debug for Verify<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verify").field("credential", &self.credential).finish_non_exhaustive()
    }
}
