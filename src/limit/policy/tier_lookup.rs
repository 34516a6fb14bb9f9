//! [`TierLookup`]: configuration of tiers that are loaded from elsewhere, such as a database.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::error::{BoxError, Error};
use crate::base::event::Events;
use crate::base::maybe_ready::{BoxFuture, boxed};
use crate::base::request_head::RequestHead;

/// Asynchronous look-up of a request's tier, for [`Tiers::lookup`](crate::limit::Tiers::lookup).
///
/// Tiers are cached for a minute. Expired ones are still used while they are refreshed in the background. A request
/// waits only for an identity that is not cached or expired long ago, and at most for the deadline. If the look-up
/// fails, the last known tier stays; an identity without one is anonymous, and the failure is reported as
/// [`Event::StoreFailed`](crate::Event::StoreFailed).
///
/// ```
/// use std::time::Duration;
/// use tollgate::limit::{TierLookup, Tiers};
///
/// #[derive(Clone, Copy, PartialEq, Eq, Hash)]
/// struct UserId(u64); // left behind by the authentication layer
///
/// # #[derive(Clone)] struct Database;
/// # impl Database {
/// #     async fn plan(&self, _: UserId) -> Result<Option<String>, std::io::Error> { Ok(None) }
/// # }
/// # let database = Database;
/// let lookup = TierLookup::new(
///     |head| head.extension::<UserId>().copied(),
///     move |user: UserId| {
///         let database = database.clone();
///         async move { database.plan(user).await }
///     },
/// );
/// let tiers = Tiers::default().lookup(lookup.ttl(Duration::from_secs(30)).deadline(Duration::from_millis(20)));
/// # let _ = tiers;
/// ```
#[derive(Clone)]
pub struct TierLookup {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) ttl: Duration,
    pub(crate) deadline: Duration,
    pub(crate) capacity: usize,
}

impl TierLookup {
    /// Creates a look-up that calls `load` with the identity found by `identify`.
    ///
    /// A request without an identity, or with a tier of `None`, is anonymous.
    ///
    /// ```
    /// use tollgate::limit::TierLookup;
    ///
    /// let lookup = TierLookup::new(
    ///     |head| head.extension::<u64>().copied(),
    ///     |user: u64| async move { Ok::<_, std::io::Error>((user == 7).then(|| "pro".to_owned())) },
    /// );
    /// # let _ = lookup;
    /// ```
    pub fn new<Id, I, L, F, E>(identify: I, load: L) -> Self
    where
        Id: Hash + Send + 'static,
        I: for<'a> Fn(&RequestHead<'a>) -> Option<Id> + Send + Sync + 'static,
        L: Fn(Id) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Option<String>, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let hasher = foldhash::quality::RandomState::default();
        let source = LookupSource { identify, load, hasher, types: PhantomData };
        Self {
            source: Arc::new(source),
            ttl: Duration::from_secs(60),
            deadline: Duration::from_millis(50),
            capacity: 10_000,
        }
    }

    /// Sets the TTL of a cached tier. Defaults to 60 s.
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use tollgate::limit::TierLookup;
    /// # let lookup = TierLookup::new(|_| Some(1_u64), |_| async { Ok::<_, Infallible>(None) });
    /// let lookup = lookup.ttl(Duration::from_secs(30));
    /// # let _ = lookup;
    /// ```
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long a request waits at most. Defaults to 50 ms.
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use tollgate::limit::TierLookup;
    /// # let lookup = TierLookup::new(|_| Some(1_u64), |_| async { Ok::<_, Infallible>(None) });
    /// let lookup = lookup.deadline(Duration::from_millis(20));
    /// # let _ = lookup;
    /// ```
    #[must_use]
    pub fn deadline(mut self, span: Duration) -> Self {
        self.deadline = span;
        self
    }

    /// Sets how many identities are cached. Defaults to 10 000.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use tollgate::limit::TierLookup;
    /// # let lookup = TierLookup::new(|_| Some(1_u64), |_| async { Ok::<_, Infallible>(None) });
    /// let lookup = lookup.capacity(100_000);
    /// # let _ = lookup;
    /// ```
    #[must_use]
    pub fn capacity(mut self, identities: usize) -> Self {
        self.capacity = identities;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.capacity {
            0 => Err(Error::config("the capacity of a tier look-up must be at least 1 identity")),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for TierLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TierLookup").field("ttl", &self.ttl).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// Resolves tiers at run time: implemented by the engine, called by the compiled limits.
pub(crate) trait ResolveTier: Send + Sync {
    /// Returns a future that the request must wait for, if any.
    fn prepare(&self, head: &RequestHead<'_>, clock: &Clock, events: &Events) -> Option<BoxFuture<()>>;

    /// Returns the tier as currently known.
    fn known(&self, head: &RequestHead<'_>) -> Option<Arc<str>>;
}

pub(crate) type LoadedTier = Result<Option<String>, BoxError>;

/// Type-erased identity extractor and loader.
pub(crate) trait Source: Send + Sync {
    fn id(&self, head: &RequestHead<'_>) -> Option<u64>;
    fn load(&self, head: &RequestHead<'_>) -> Option<BoxFuture<LoadedTier>>;
}

struct LookupSource<Id, I, L> {
    identify: I,
    load: L,
    /// Identities are stored as 64-bit hashes under a per-process secret.
    hasher: foldhash::quality::RandomState,
    types: PhantomData<fn(Id)>,
}

impl<Id, I, L, F, E> Source for LookupSource<Id, I, L>
where
    Id: Hash + Send + 'static,
    I: for<'a> Fn(&RequestHead<'a>) -> Option<Id> + Send + Sync,
    L: Fn(Id) -> F + Send + Sync,
    F: Future<Output = Result<Option<String>, E>> + Send + 'static,
    E: Into<BoxError>,
{
    fn id(&self, head: &RequestHead<'_>) -> Option<u64> {
        (self.identify)(head).map(|id| self.hasher.hash_one(id).max(1))
    }

    fn load(&self, head: &RequestHead<'_>) -> Option<BoxFuture<LoadedTier>> {
        Some(boxed((self.load)((self.identify)(head)?)))
    }
}
