//! Flights: one fetch per key, however many ask.
//!
//! The first request to miss leads; the others wait for the *head* of its answer, which decides what becomes of them:
//!
//! | the leader's answer | its waiters |
//! |---|---|
//! | is being stored | read its body as it arrives, or go alone if it varies on something they do not share |
//! | freshened what was stored | are answered from the store |
//! | may not be stored | go alone, all at once: it belongs to the leader's client only |
//! | is an error or a panic | are answered by a stale entry where one may stand in, else go alone, a few at a time |
//! | does not come in time | the same |
//!
//! A flight leaves the table when its [`Lead`] is dropped: at its end, on an error, in a panic, always.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};

use super::entry::{Entry, Meta};
use super::key::CacheKey;
use super::tee::Tee;

/// How many of a failed flight's waiters call the inner service at a time.
const FEW: usize = 8;
const SHARDS: usize = 16;

/// A response whose head is known and whose body is arriving.
pub(crate) struct Live {
    pub(crate) meta: Arc<Meta>,
    /// The fields it varies on, and what the leader's request said in them.
    pub(crate) names: Arc<[http::HeaderName]>,
    pub(crate) selection: Box<[u8]>,
    pub(crate) tee: Arc<Tee>,
}

/// How far a flight has got.
#[derive(Clone)]
pub(crate) enum Progress {
    /// The head is not there yet.
    Airborne,
    /// It is, and is being stored.
    Live(Arc<Live>),
    /// What was stored is current again.
    Stored(Arc<Entry>),
    /// The answer is the leader's client's alone.
    Alone,
    /// There is no answer.
    Failed,
}

struct Flight {
    id: u64,
    /// The invalidations that had happened when it began.
    generation: u64,
    progress: watch::Receiver<Progress>,
    turnstile: Arc<Semaphore>,
}

type Shard = HashMap<CacheKey, Flight, foldhash::fast::RandomState>;

/// The table of flights.
#[derive(Default)]
pub(crate) struct Flights {
    shards: [Mutex<Shard>; SHARDS],
    ids: AtomicU64,
    count: AtomicU64,
}

/// What a request that misses does.
pub(crate) enum Join {
    /// It fetches, for itself and those that come.
    Lead(Lead),
    /// It waits.
    Wait(Waiter),
}

impl Flights {
    /// Joins the flight for this key, or begins it. A flight that began before an invalidation is not joined:
    /// `is_void` says of its generation whether it did.
    pub(crate) fn join(self: &Arc<Self>, key: &CacheKey, generation: u64, is_void: impl Fn(u64) -> bool) -> Join {
        let mut shard = self.shard(key);
        if let Some(flight) = shard.get(key).filter(|flight| !is_void(flight.generation)) {
            let (progress, turnstile) = (flight.progress.clone(), flight.turnstile.clone());
            return Join::Wait(Waiter { progress, turnstile });
        }
        let (sender, progress) = watch::channel(Progress::Airborne);
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let turnstile = Arc::new(Semaphore::new(FEW));
        shard.insert(key.clone(), Flight { id, generation, progress, turnstile });
        self.count.fetch_add(1, Ordering::Relaxed);
        Join::Lead(Lead { flights: self.clone(), key: key.clone(), id, progress: sender })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn shard(&self, key: &CacheKey) -> MutexGuard<'_, Shard> {
        // The map's own hash uses the low bits.
        let index = (key.hash64() >> 60) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right and the duty to fetch for a key.
pub(crate) struct Lead {
    flights: Arc<Flights>,
    key: CacheKey,
    id: u64,
    progress: watch::Sender<Progress>,
}

impl Lead {
    /// Tells those who wait.
    pub(crate) fn tell(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }
}

impl Drop for Lead {
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
pub(crate) struct Waiter {
    progress: watch::Receiver<Progress>,
    /// Lets a few go alone at a time.
    pub(crate) turnstile: Arc<Semaphore>,
}

impl Waiter {
    /// Waits until the flight's answer is decided. A leader that vanishes has failed.
    pub(crate) async fn decided(&mut self) -> Progress {
        match self.progress.wait_for(|progress| !matches!(progress, Progress::Airborne)).await {
            Ok(progress) => progress.clone(),
            Err(_) => Progress::Failed,
        }
    }
}
