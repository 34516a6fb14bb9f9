//! [`TierLookup`]: tiers that somebody else knows, such as a database; asked by the engine.

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

/// Where a request's tier is looked up, for [`Tiers::lookup`](crate::limit::Tiers::lookup): by an identity that owns
/// what it
/// needs, in a future of its own.
///
/// Tiers are cached for a minute. Older ones are still used while they are looked up again in the background;
/// a request waits only for an identity that was never seen, or not for long, and at most for the deadline. Where no
/// answer comes the last known tier stays; an identity that never had one is anonymous, and the look-up's failure is an
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
/// let tiers = Tiers::default().lookup(lookup.memory(Duration::from_secs(30)).deadline(Duration::from_millis(20)));
/// # let _ = tiers;
/// ```
#[derive(Clone)]
pub struct TierLookup {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) memory: Duration,
    pub(crate) deadline: Duration,
    pub(crate) capacity: usize,
}

impl TierLookup {
    /// Asks `load` for the tier of who `identify` finds. No identity, or a tier of `None`, is anonymous.
    pub fn new<Id, I, L, F, E>(identify: I, load: L) -> Self
    where
        Id: Hash + Send + 'static,
        I: for<'a> Fn(&RequestHead<'a>) -> Option<Id> + Send + Sync + 'static,
        L: Fn(Id) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Option<String>, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let hasher = foldhash::quality::RandomState::default();
        let source = Asking { identify, load, hasher, types: PhantomData };
        Self {
            source: Arc::new(source),
            memory: Duration::from_secs(60),
            deadline: Duration::from_millis(50),
            capacity: 10_000,
        }
    }

    /// Sets how long a tier is used without another look-up. Defaults to 60 s.
    #[must_use]
    pub fn memory(mut self, span: Duration) -> Self {
        self.memory = span;
        self
    }

    /// Sets how long a request waits at most. Defaults to 50 ms.
    #[must_use]
    pub fn deadline(mut self, span: Duration) -> Self {
        self.deadline = span;
        self
    }

    /// Sets how many identities are cached. Defaults to 10 000.
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
        f.debug_struct("TierLookup")
            .field("memory", &self.memory)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// Finds out tiers at run time: implemented by the engine, asked by the compiled limits.
pub(crate) trait ResolveTier: Send + Sync {
    /// Returns what the request has to wait for, if anything.
    fn prepare(&self, head: &RequestHead<'_>, clock: &Clock, events: &Events) -> Option<BoxFuture<()>>;

    /// Returns the tier as far as it is known.
    fn known(&self, head: &RequestHead<'_>) -> Option<Arc<str>>;
}

pub(crate) type LoadedTier = Result<Option<String>, BoxError>;

/// Who is asking, and how to ask for their tier, whatever the types.
pub(crate) trait Source: Send + Sync {
    fn id(&self, head: &RequestHead<'_>) -> Option<u64>;
    fn load(&self, head: &RequestHead<'_>) -> Option<BoxFuture<LoadedTier>>;
}

struct Asking<Id, I, L> {
    identify: I,
    load: L,
    /// Identities are remembered as 64-bit hashes under a secret of this process's own.
    hasher: foldhash::quality::RandomState,
    types: PhantomData<fn(Id)>,
}

impl<Id, I, L, F, E> Source for Asking<Id, I, L>
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
