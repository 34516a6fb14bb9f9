//! [`TierLookup`]: tiers that somebody else knows, such as a database.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{FutureExt, Shared};

use super::tier_cache::{Recall, TierCache};
use crate::base::clock::{Clock, Timestamp};
use crate::base::detached_context;
use crate::base::error::{BoxError, Error};
use crate::base::event::{Event, Events};
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::base::request_head::RequestHead;

/// Look-ups under way at one time; identities beyond are anonymous, or what they were, meanwhile.
const UNDER_WAY: usize = 1_024;
/// A look-up that takes longer is given up, also in the background.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures are told this often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Where a request's tier is looked up, for [`Tiers::lookup`](crate::limit::Tiers::lookup): by an identity that owns what it
/// needs, in a future of its own.
///
/// What is learnt is remembered for a minute. What is older is still used while it is asked for again in the background;
/// a request waits only for an identity that was never seen, or not for long, and at most for the deadline. Where no
/// answer comes the last known tier stays; an identity that never had one is anonymous, and the look-up's failure is an
/// [`Event::StoreFailed`].
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
    source: Arc<dyn Source>,
    memory: Duration,
    deadline: Duration,
    capacity: usize,
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

    /// How long a tier is used without asking again: a minute unless told.
    #[must_use]
    pub fn memory(mut self, span: Duration) -> Self {
        self.memory = span;
        self
    }

    /// How long a request waits at most: 50 ms unless told.
    #[must_use]
    pub fn deadline(mut self, span: Duration) -> Self {
        self.deadline = span;
        self
    }

    /// How many identities are remembered: 10 000 unless told.
    #[must_use]
    pub fn capacity(mut self, identities: usize) -> Self {
        self.capacity = identities;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.capacity {
            0 => Err(Error::config("a tier look-up that remembers 0 identities asks for every request")),
            _ => Ok(()),
        }
    }

    pub(crate) fn start(&self) -> TierResolver {
        let state = State {
            tier_cache: TierCache::new(self.capacity, self.memory),
            under_way: Mutex::default(),
            told: AtomicU64::new(0),
        };
        TierResolver { source: self.source.clone(), deadline: self.deadline, state: Arc::new(state) }
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

type LoadedTier = Result<Option<String>, BoxError>;

/// Who is asking, and how to ask for their tier, whatever the types.
trait Source: Send + Sync {
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
        let loading = (self.load)((self.identify)(head)?);
        Some(Box::pin(async move { loading.await.map_err(Into::into) }))
    }
}

/// A look-up at work, with its memory.
pub(crate) struct TierResolver {
    source: Arc<dyn Source>,
    deadline: Duration,
    state: Arc<State>,
}

type Ended = Shared<BoxFuture<()>>;

struct State {
    tier_cache: TierCache,
    under_way: Mutex<HashMap<u64, Ended>>,
    /// When a failure was last told.
    told: AtomicU64,
}

impl TierResolver {
    /// What the request has to wait for, if anything.
    pub(crate) fn prepare(&self, head: &RequestHead<'_>, clock: &Clock, events: &Events) -> Option<BoxFuture<()>> {
        let id = self.source.id(head)?;
        match self.state.tier_cache.recall(id, clock.now()) {
            Recall::Use => None,
            Recall::UseAndAsk => {
                self.ask(id, head, clock, events);
                None
            }
            Recall::Ask => {
                let (asked, deadline) = (self.ask(id, head, clock, events)?, self.deadline);
                Some(Box::pin(async move { drop(tokio::time::timeout(deadline, asked).await) }))
            }
        }
    }

    /// The tier as far as it is known.
    pub(crate) fn known(&self, head: &RequestHead<'_>) -> Option<Arc<str>> {
        self.state.tier_cache.tier(self.source.id(head)?)
    }

    /// Asks in a task of its own, unless somebody does: a client that leaves takes nobody's answer along.
    fn ask(&self, id: u64, head: &RequestHead<'_>, clock: &Clock, events: &Events) -> Option<Ended> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let mut under_way = self.state.lock();
        if let Some(asked) = under_way.get(&id) {
            return Some(asked.clone());
        }
        if under_way.len() >= UNDER_WAY {
            return None;
        }
        let loading = self.source.load(head)?;
        let one = One { state: self.state.clone(), id, clock: clock.clone(), events: events.clone() };
        let task = runtime.spawn(detached_context::carry(one.run(loading)));
        let asked: BoxFuture<()> = Box::pin(async move { drop(task.await) });
        let asked = asked.shared();
        under_way.insert(id, asked.clone());
        Some(asked)
    }
}

/// One look-up under way; no longer when it is dropped, also by a panic of whoever is asked.
struct One {
    state: Arc<State>,
    id: u64,
    clock: Clock,
    events: Events,
}

impl One {
    async fn run(self, loading: BoxFuture<LoadedTier>) {
        // Until something was learnt: so a panic counts as a failure too.
        self.state.tier_cache.failed(self.id, self.clock.now());
        let error = match tokio::time::timeout(PATIENCE, loading).await {
            Ok(Ok(tier)) => return self.state.tier_cache.learn(self.id, tier.map(Into::into), self.clock.now()),
            Ok(Err(error)) => error,
            Err(elapsed) => elapsed.into(),
        };
        let now = self.clock.now();
        self.state.tier_cache.failed(self.id, now);
        if self.state.may_tell(now) {
            let error = Error::store("the look-up of a tier failed", error);
            self.events.emit(&Event::StoreFailed { store: "tiers", error: &error });
        }
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.state.lock().remove(&self.id);
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Ended>> {
        self.under_way.lock()
    }

    fn may_tell(&self, now: Timestamp) -> bool {
        let last = self.told.load(Ordering::Relaxed);
        let due = last == 0 || now.since(Timestamp::from_nanos(last)) >= TELL_EVERY;
        due && self.told.compare_exchange(last, now.as_nanos(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
