//! Table of fetches under way.
//!
//! A fetch leaves the table when its [`Leader`] is dropped. Beside the fetches, the table holds the [slow starts](super::slow_start)
//! of keys whose fetches failed or took too long.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::slow_start::SlowStart;
use crate::base::clock::runtime_now;
use crate::base::lock::{Mutex, MutexGuard};
use crate::cache::http::key::CacheKey;

const SHARDS: usize = 16;
/// Number of slow starts in a shard beyond which those that are over are removed.
const MIN_PRUNED: usize = 64;

/// A fetch, shared by the table, its leader and its followers.
struct SharedFetch<P> {
    key: CacheKey,
    /// Generation at the start of the fetch.
    generation: u64,
    progress: Mutex<Progress<P>>,
    changed: Notify,
    /// Whether a follower has waited in vain: it takes no more.
    is_overdue: AtomicBool,
}

/// Latest progress of a fetch.
enum Progress<P> {
    /// None yet.
    Pending,
    Published(P),
    /// The leader was dropped before it published any.
    Failed,
}

type Keyed<T> = HashMap<CacheKey, Arc<T>, foldhash::fast::RandomState>;

struct Shard<P> {
    fetches: Keyed<SharedFetch<P>>,
    /// Whether the key was removed since its [`Unshared`] fetches began.
    unshared: Keyed<AtomicBool>,
    slow_starts: Keyed<SlowStart>,
    /// Number of slow starts at which those that are over are removed.
    prune_at: usize,
}

impl<P> Default for Shard<P> {
    fn default() -> Self {
        let (fetches, unshared, slow_starts) = Default::default();
        Self { fetches, unshared, slow_starts, prune_at: MIN_PRUNED }
    }
}

impl<P> Shard<P> {
    /// Returns the slow start of callers that may not share this key for now.
    fn unshareable(&self, key: &CacheKey) -> Option<&Arc<SlowStart>> {
        if self.slow_starts.is_empty() {
            return None;
        }
        self.slow_starts.get(key).filter(|gate| gate.is_unshareable(runtime_now()))
    }

    /// Returns the slow start of this key: a new one unless the last is in use and still limits.
    fn slow_start(&mut self, key: &CacheKey) -> Arc<SlowStart> {
        let now = runtime_now();
        let is_over =
            |gate: &Arc<SlowStart>| (Arc::strong_count(gate) == 1 || gate.is_grown(now)) && !gate.is_unshareable(now);
        if let Some(gate) = self.slow_starts.get(key).filter(|gate| !is_over(gate)) {
            return gate.clone();
        }
        if self.slow_starts.len() >= self.prune_at {
            self.slow_starts.retain(|_, gate| !is_over(gate));
            self.prune_at = (2 * self.slow_starts.len()).max(MIN_PRUNED);
        }
        let gate = Arc::new(SlowStart::default());
        self.slow_starts.insert(key.clone(), gate.clone());
        gate
    }
}

/// Table of fetches under way, which publish a `P` to their followers.
pub(crate) struct Coalescer<P> {
    shards: [Mutex<Shard<P>>; SHARDS],
    count: AtomicU64,
}

impl<P> Default for Coalescer<P> {
    fn default() -> Self {
        Self { shards: Default::default(), count: AtomicU64::new(0) }
    }
}

/// Role of a caller that misses.
pub(crate) enum Role<P> {
    /// Fetches for itself and its followers.
    Lead(Leader<P>),
    /// Waits for another fetch.
    Wait(Follower<P>),
    /// Fetches without sharing, through this slow start.
    Alone(Arc<SlowStart>),
}

impl<P> Coalescer<P> {
    /// Joins the fetch for this key, or begins it. A fetch whose generation `is_invalidated` rejects, since it began before an
    /// invalidation, is not joined.
    pub(crate) fn join_or_lead(
        self: &Arc<Self>,
        key: &CacheKey,
        generation: u64,
        is_invalidated: impl Fn(u64) -> bool,
    ) -> Role<P> {
        let mut shard = self.shard(key);
        if let Some(gate) = shard.unshareable(key) {
            return Role::Alone(gate.clone());
        }
        let is_open = |fetch: &&Arc<SharedFetch<P>>| {
            !fetch.is_overdue.load(Ordering::Relaxed) && !is_invalidated(fetch.generation)
        };
        if let Some(fetch) = shard.fetches.get(key).filter(is_open) {
            return Role::Wait(Follower { fetches: self.clone(), fetch: fetch.clone() });
        }
        let fetch = Arc::new(SharedFetch {
            key: key.clone(),
            generation,
            progress: Mutex::new(Progress::Pending),
            changed: Notify::new(),
            is_overdue: AtomicBool::new(false),
        });
        shard.fetches.insert(key.clone(), fetch.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        Role::Lead(Leader { fetches: self.clone(), fetch })
    }

    /// Registers a fetch without sharing.
    pub(crate) fn unshared(self: &Arc<Self>, key: &CacheKey) -> Unshared<P> {
        let is_removed = self.shard(key).unshared.entry(key.clone()).or_default().clone();
        Unshared { fetches: self.clone(), key: key.clone(), is_removed }
    }

    /// Removes the fetches for this key: they take no more followers and are no longer [current](Leader::is_current).
    pub(crate) fn remove(&self, key: &CacheKey) {
        let mut shard = self.shard(key);
        shard.fetches.remove(key);
        if let Some(is_removed) = shard.unshared.remove(key) {
            is_removed.store(true, Ordering::Release);
        }
    }

    /// Removes this fetch, unless another has taken its place.
    fn remove_fetch(&self, fetch: &Arc<SharedFetch<P>>) {
        let mut shard = self.shard(&fetch.key);
        if shard.fetches.get(&fetch.key).is_some_and(|current| Arc::ptr_eq(current, fetch)) {
            shard.fetches.remove(&fetch.key);
        }
    }

    /// Returns the number of fetches under way.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn shard(&self, key: &CacheKey) -> MutexGuard<'_, Shard<P>> {
        // The map uses the low bits of the hash.
        let index = (key.hash64() >> 60) as usize % SHARDS;
        self.shards[index].lock()
    }
}

/// Leadership of the fetch for a key.
pub(crate) struct Leader<P> {
    fetches: Arc<Coalescer<P>>,
    fetch: Arc<SharedFetch<P>>,
}

impl<P> Leader<P> {
    /// Publishes progress to the followers.
    pub(crate) fn publish(&self, progress: P) {
        *self.fetch.progress.lock() = Progress::Published(progress);
        self.fetch.changed.notify_waiters();
    }

    /// Whether this is still the fetch in the table for its key.
    pub(crate) fn is_current(&self) -> bool {
        let key = &self.fetch.key;
        self.fetches.shard(key).fetches.get(key).is_some_and(|fetch| Arc::ptr_eq(fetch, &self.fetch))
    }
}

impl<P> Drop for Leader<P> {
    fn drop(&mut self) {
        self.fetches.remove_fetch(&self.fetch);
        self.fetches.count.fetch_sub(1, Ordering::Relaxed);
        let mut progress = self.fetch.progress.lock();
        if matches!(*progress, Progress::Pending) {
            *progress = Progress::Failed;
            drop(progress);
            self.fetch.changed.notify_waiters();
        }
    }
}

/// A fetch without sharing, which finds out that its key was removed.
pub(crate) struct Unshared<P> {
    fetches: Arc<Coalescer<P>>,
    key: CacheKey,
    is_removed: Arc<AtomicBool>,
}

impl<P> Unshared<P> {
    /// Whether the key was not removed since the fetch began.
    pub(crate) fn is_current(&self) -> bool {
        !self.is_removed.load(Ordering::Acquire)
    }
}

impl<P> Drop for Unshared<P> {
    fn drop(&mut self) {
        let mut shard = self.fetches.shard(&self.key);
        let known = shard.unshared.get(&self.key).filter(|known| Arc::ptr_eq(known, &self.is_removed));
        // The last one: held by the table and here.
        if known.is_some_and(|known| Arc::strong_count(known) == 2) {
            shard.unshared.remove(&self.key);
        }
    }
}

/// Subscription to another request's fetch.
pub(crate) struct Follower<P> {
    fetches: Arc<Coalescer<P>>,
    fetch: Arc<SharedFetch<P>>,
}

impl<P: Clone> Follower<P> {
    /// Waits until progress is published; `None` if the leader was dropped before.
    pub(crate) async fn wait_for_progress(&self) -> Option<P> {
        loop {
            // Created before the check: it receives every notification from then on.
            let changed = self.fetch.changed.notified();
            match &*self.fetch.progress.lock() {
                Progress::Published(progress) => return Some(progress.clone()),
                Progress::Failed => return None,
                Progress::Pending => {}
            }
            changed.await;
        }
    }
}

impl<P> Follower<P> {
    /// Removes the fetch: later callers share a new one.
    pub(crate) fn remove(&self) {
        self.fetches.remove_fetch(&self.fetch);
    }

    /// Returns the slow start of those who followed this fetch in vain.
    pub(crate) fn slow_start(&self) -> Arc<SlowStart> {
        self.fetches.shard(&self.fetch.key).slow_start(&self.fetch.key)
    }

    /// Gives up on a fetch that takes too long: it takes no more followers, and its key is not shared for a while.
    pub(crate) fn give_up(&self) -> Arc<SlowStart> {
        self.fetch.is_overdue.store(true, Ordering::Relaxed);
        let gate = self.slow_start();
        gate.mark_unshareable(runtime_now());
        gate
    }
}
