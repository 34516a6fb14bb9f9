//! A namespace of typed values with a clock to turn, and loads that count.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::must_use_candidate,
    reason = "each test uses its part, and may fail"
)]

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tollgate::cache::{
    CacheKey, CacheStore, Cached, CachedBuilder, DataCache, DataStats, Invalidation, InvalidationSink, LevelStats,
    LoadError, Stored,
};
use tollgate::{Clock, Error, ManualClock, MaybeReady, Timestamp};

/// What loads of keys that begin with `fails` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no such key")
    }
}

impl std::error::Error for Fault {}

pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A cache whose clock stands still.
pub fn clocked() -> (DataCache, ManualClock) {
    let clock = ManualClock::new();
    (DataCache::builder().clock(Clock::Manual(clock.clone())).build(), clock)
}

#[derive(Default)]
struct Counts {
    by_key: Mutex<HashMap<String, u64>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A namespace whose loads answer how often their key was loaded.
pub struct World {
    pub cached: Cached<u64>,
    pub clock: ManualClock,
    counts: Arc<Counts>,
}

pub type Load = Pin<Box<dyn Future<Output = Result<u64, Fault>> + Send>>;

impl World {
    pub fn new(set: impl FnOnce(CachedBuilder<u64>) -> CachedBuilder<u64>) -> Self {
        let (data, clock) = clocked();
        let cached = set(data.cached("world")).build().expect("a namespace");
        Self { cached, clock, counts: Arc::default() }
    }

    /// Looks up, or loads at once.
    pub async fn load(&self, key: &str) -> Result<Arc<u64>, LoadError<Fault>> {
        self.load_in(key, Duration::ZERO).await
    }

    /// Looks up, or loads in that time.
    pub async fn load_in(&self, key: &str, span: Duration) -> Result<Arc<u64>, LoadError<Fault>> {
        let (loader, name) = (self.loader(), key.to_owned());
        self.cached
            .get_or_load(key, move || async move {
                let load = loader(&name);
                if !span.is_zero() {
                    tokio::time::sleep(span).await;
                }
                load.await
            })
            .await
    }

    /// A load for a key, counted from when it is called until it is done.
    pub fn loader(&self) -> impl Fn(&str) -> Load + Send + Sync + 'static + use<> {
        let counts = self.counts.clone();
        move |key| {
            let (counts, key) = (counts.clone(), key.to_owned());
            let at_once = counts.now.fetch_add(1, Ordering::SeqCst) + 1;
            counts.most.fetch_max(at_once, Ordering::SeqCst);
            let count = {
                let mut by_key = counts.by_key.lock().expect("not poisoned");
                let count = by_key.entry(key.clone()).or_default();
                *count += 1;
                *count
            };
            Box::pin(async move {
                tokio::task::yield_now().await;
                counts.now.fetch_sub(1, Ordering::SeqCst);
                match key.split_once("panics") {
                    Some(_) => panic!("a load that panics"),
                    None if key.starts_with("fails") => Err(Fault),
                    None => Ok(count),
                }
            })
        }
    }

    pub fn loads(&self, key: &str) -> u64 {
        self.counts.by_key.lock().expect("not poisoned").get(key).copied().unwrap_or_default()
    }

    pub fn most_at_once(&self) -> usize {
        self.counts.most.load(Ordering::SeqCst)
    }

    pub fn stats(&self) -> DataStats {
        self.cached.stats()
    }

    /// Waits until no load is under way.
    pub async fn quiet(&self) {
        for _ in 0..1_000 {
            if self.stats().fetches_in_flight == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("a load does not end");
    }
}

/// A store that counts how often it is asked.
pub struct Counted<S> {
    inner: S,
    calls: AtomicUsize,
}

impl<S> Counted<S> {
    pub fn new(inner: S) -> Self {
        Self { inner, calls: AtomicUsize::new(0) }
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn called(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
    }
}

/// What lies in it is what another process wrote: without the values that were read here.
impl<S: CacheStore> CacheStore for Counted<S> {
    fn get(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        self.called();
        self.inner.get(key, now)
    }

    fn get_many(&self, keys: &[CacheKey], now: Timestamp) -> MaybeReady<Result<Vec<Option<Stored>>, Error>> {
        self.called();
        self.inner.get_many(keys, now)
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>> {
        self.called();
        self.inner.put(key, stored, now)
    }

    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        self.called();
        self.inner.remove(key)
    }

    fn stats(&self) -> Vec<LevelStats> {
        self.inner.stats()
    }

    fn invalidate(&self, invalidation: &Invalidation) -> MaybeReady<Result<(), Error>> {
        self.inner.invalidate(invalidation)
    }

    fn listen(&self, listener: InvalidationSink) {
        self.inner.listen(listener);
    }
}
