//! Request coalescing: one fetch per key for all concurrent requests.
//!
//! The first request that misses leads; the others wait for the *head* of its response:
//!
//! | the leader's response | its followers |
//! |---|---|
//! | is being stored | read its body as it arrives, or when it is complete ([`tee`](super::tee)); fetch without sharing if it varies on a field in which they differ |
//! | updated the stored response | are served from the store |
//! | must not be stored | fetch without sharing, all at once: it belongs to the leader's client only |
//! | is an error or a panic | are served a stale entry if allowed, else fetch without sharing, a few at a time |
//! | misses the deadline | the same |
//!
//! A fetch leaves the table when its [`Leader`] is dropped: on completion, error or panic.
//!
//! The table is generic over the published value: [`FetchProgress`] for responses, the entry for typed values.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use tokio::sync::{Notify, Semaphore};

use super::record::Entry;
use super::tee::Tee;
use crate::base::lock::Mutex;
use crate::cache::http::key::CacheKey;
use crate::cache::http::stored_head::StoredHead;

/// Maximum number of followers of a failed fetch that call the inner service at a time.
const FALLBACK_CONCURRENCY: usize = 8;
const SHARDS: usize = 16;

/// A response with a known head whose body is arriving.
#[derive(Clone)]
pub(crate) struct StreamingResponse {
    pub(crate) meta: Arc<StoredHead>,
    /// Fields it varies on, and their encoded values in the leader's request.
    pub(crate) names: Arc<[http::HeaderName]>,
    pub(crate) selection: Arc<[u8]>,
    pub(crate) tee: Arc<Tee>,
}

/// Progress of a fetch.
#[derive(Clone)]
pub(crate) enum FetchProgress {
    /// The head is known and the response is being stored.
    Streaming(StreamingResponse),
    /// The stored response was revalidated.
    Stored(Arc<Entry>),
    /// The response belongs to the leader's client only.
    NotShareable,
}

/// A fetch, shared by the table, its leader and its followers.
struct SharedFetch<P> {
    key: CacheKey,
    /// Generation at the start of the fetch.
    generation: u64,
    progress: Mutex<Progress<P>>,
    changed: Notify,
    /// Bounds concurrent fetches after a failure.
    fallback_permits: Semaphore,
}

/// Latest progress of a fetch.
enum Progress<P> {
    /// None yet.
    Pending,
    Published(P),
    /// The leader was dropped before it published any.
    Failed,
}

type Shard<P> = HashMap<CacheKey, Arc<SharedFetch<P>>, foldhash::fast::RandomState>;

/// Table of fetches under way, which publish a `P` to their followers.
pub(crate) struct Coalescer<P = FetchProgress> {
    shards: [Mutex<Shard<P>>; SHARDS],
    count: AtomicU64,
}

impl<P> Default for Coalescer<P> {
    fn default() -> Self {
        Self { shards: Default::default(), count: AtomicU64::new(0) }
    }
}

/// Role of a request that misses.
pub(crate) enum Role<P = FetchProgress> {
    /// Fetches for itself and its followers.
    Lead(Leader<P>),
    /// Waits for another fetch.
    Wait(Follower<P>),
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
        if let Some(fetch) = shard.get(key).filter(|fetch| !is_invalidated(fetch.generation)) {
            return Role::Wait(Follower { fetch: fetch.clone() });
        }
        let fetch = Arc::new(SharedFetch {
            key: key.clone(),
            generation,
            progress: Mutex::new(Progress::Pending),
            changed: Notify::new(),
            fallback_permits: Semaphore::new(FALLBACK_CONCURRENCY),
        });
        shard.insert(key.clone(), fetch.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        Role::Lead(Leader { fetches: self.clone(), fetch })
    }

    /// Removes the fetch for this key, or only the one of this follower. It takes no more followers and is no longer
    /// [current](Leader::is_current).
    pub(crate) fn remove(&self, key: &CacheKey, only: Option<&Follower<P>>) {
        let mut shard = self.shard(key);
        if shard.get(key).is_some_and(|fetch| only.is_none_or(|waiter| Arc::ptr_eq(&waiter.fetch, fetch))) {
            shard.remove(key);
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
pub(crate) struct Leader<P = FetchProgress> {
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
        self.fetches.shard(key).get(key).is_some_and(|fetch| Arc::ptr_eq(fetch, &self.fetch))
    }
}

impl<P> Drop for Leader<P> {
    fn drop(&mut self) {
        let key = &self.fetch.key;
        let mut shard = self.fetches.shard(key);
        if shard.get(key).is_some_and(|fetch| Arc::ptr_eq(fetch, &self.fetch)) {
            shard.remove(key);
        }
        drop(shard);
        self.fetches.count.fetch_sub(1, Ordering::Relaxed);
        let mut progress = self.fetch.progress.lock();
        if matches!(*progress, Progress::Pending) {
            *progress = Progress::Failed;
            drop(progress);
            self.fetch.changed.notify_waiters();
        }
    }
}

/// Subscription to another request's fetch.
pub(crate) struct Follower<P = FetchProgress> {
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
    /// Returns the permits that bound concurrent fetches after a failure.
    pub(crate) fn fallback_permits(&self) -> &Semaphore {
        &self.fetch.fallback_permits
    }
}
