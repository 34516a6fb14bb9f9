//! Flights: one fetch per key, however many ask.
//!
//! The first request to miss leads; the others wait for the *head* of its answer, which decides what becomes of them:
//!
//! | the leader's answer | its waiters |
//! |---|---|
//! | is being stored | read its body as it arrives, or when it is complete ([`tee`](super::tee)); go alone if it varies on something they do not share |
//! | freshened what was stored | are answered from the store |
//! | may not be stored | go alone, all at once: it belongs to the leader's client only |
//! | is an error or a panic | are answered by a stale entry where one may stand in, else go alone, a few at a time |
//! | does not come in time | the same |
//!
//! A flight leaves the table when its [`Leader`] is dropped: at its end, on an error, in a panic, always.
//!
//! The table does not care what is told: of a response it is [`FetchProgress`], of a typed value the entry.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use tokio::sync::{Semaphore, watch};

use super::record::Entry;
use super::tee::Tee;
use crate::base::lock::Mutex;
use crate::cache::http::key::CacheKey;
use crate::cache::http::stored_head::StoredHead;

/// How many of a failed flight's waiters call the inner service at a time.
const FEW: usize = 8;
const SHARDS: usize = 16;

/// A response whose head is known and whose body is arriving.
pub(crate) struct StreamingResponse {
    pub(crate) meta: Arc<StoredHead>,
    /// The fields it varies on, and what the leader's request said in them.
    pub(crate) names: Arc<[http::HeaderName]>,
    pub(crate) selection: Box<[u8]>,
    pub(crate) tee: Arc<Tee>,
}

/// How far a flight has got.
#[derive(Clone)]
pub(crate) enum FetchProgress {
    /// The head is there, and is being stored.
    Live(Arc<StreamingResponse>),
    /// What was stored is current again.
    Stored(Arc<Entry>),
    /// The answer is the leader's client's alone.
    Alone,
}

struct SharedFetch<P> {
    id: u64,
    /// The invalidations that had happened when it began.
    generation: u64,
    /// Nothing while nothing is decided.
    progress: watch::Receiver<Option<P>>,
    turnstile: Arc<Semaphore>,
}

type Shard<P> = HashMap<CacheKey, SharedFetch<P>, foldhash::fast::RandomState>;

/// The table of flights, whose waiters are told a `P`.
pub(crate) struct Coalescer<P = FetchProgress> {
    shards: [Mutex<Shard<P>>; SHARDS],
    ids: AtomicU64,
    count: AtomicU64,
}

impl<P> Default for Coalescer<P> {
    fn default() -> Self {
        Self { shards: Default::default(), ids: AtomicU64::new(0), count: AtomicU64::new(0) }
    }
}

/// What a request that misses does.
pub(crate) enum Role<P = FetchProgress> {
    /// It fetches, for itself and those that come.
    Lead(Leader<P>),
    /// It waits.
    Wait(Follower<P>),
}

impl<P> Coalescer<P> {
    /// Joins the flight for this key, or begins it. A flight that began before an invalidation is not joined:
    /// `is_void` says of its generation whether it did.
    pub(crate) fn join(self: &Arc<Self>, key: &CacheKey, generation: u64, is_void: impl Fn(u64) -> bool) -> Role<P> {
        let mut shard = self.shard(key);
        if let Some(flight) = shard.get(key).filter(|flight| !is_void(flight.generation)) {
            let (progress, turnstile) = (flight.progress.clone(), flight.turnstile.clone());
            return Role::Wait(Follower { id: flight.id, progress, turnstile });
        }
        let (sender, progress) = watch::channel(None);
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let turnstile = Arc::new(Semaphore::new(FEW));
        shard.insert(key.clone(), SharedFetch { id, generation, progress, turnstile });
        self.count.fetch_add(1, Ordering::Relaxed);
        Role::Lead(Leader { flights: self.clone(), key: key.clone(), id, progress: sender })
    }

    /// Takes the flight for this key out of the table, if there is one, and it is the one that is waited for: nobody
    /// joins it any more, and it [stands](Leader::stands) no more.
    pub(crate) fn strike(&self, key: &CacheKey, only: Option<&Follower<P>>) {
        let mut shard = self.shard(key);
        if shard.get(key).is_some_and(|flight| only.is_none_or(|waiter| waiter.id == flight.id)) {
            shard.remove(key);
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn shard(&self, key: &CacheKey) -> MutexGuard<'_, Shard<P>> {
        // The map's own hash uses the low bits.
        let index = (key.hash64() >> 60) as usize % SHARDS;
        self.shards[index].lock()
    }
}

/// The right and the duty to fetch for a key.
pub(crate) struct Leader<P = FetchProgress> {
    flights: Arc<Coalescer<P>>,
    key: CacheKey,
    id: u64,
    progress: watch::Sender<Option<P>>,
}

impl<P> Leader<P> {
    /// Tells those who wait.
    pub(crate) fn tell(&self, progress: P) {
        self.progress.send_replace(Some(progress));
    }

    /// Whether its flight is still the one for its key.
    pub(crate) fn stands(&self) -> bool {
        self.flights.shard(&self.key).get(&self.key).is_some_and(|flight| flight.id == self.id)
    }
}

impl<P> Drop for Leader<P> {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(&self.key);
        if shard.get(&self.key).is_some_and(|flight| flight.id == self.id) {
            shard.remove(&self.key);
        }
        drop(shard);
        self.flights.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place among those who wait for a flight.
pub(crate) struct Follower<P = FetchProgress> {
    id: u64,
    progress: watch::Receiver<Option<P>>,
    /// Lets a few go alone at a time.
    pub(crate) turnstile: Arc<Semaphore>,
}

impl<P: Clone> Follower<P> {
    /// Waits until the flight's answer is decided. A leader that vanishes has failed, and has told nothing.
    pub(crate) async fn decided(&mut self) -> Option<P> {
        self.progress.wait_for(Option::is_some).await.ok()?.clone()
    }
}
