//! In-process cache engine: moka, bounded by weight.
//!
//! moka admits by frequency (TinyLFU): a flood of keys requested once does not evict frequently requested ones. The
//! weight of an entry is [`Stored::weight`], so the bound is in bytes. moka's own expiry is not used: the cache
//! compares deadlines itself, and expired entries are evicted when space is needed.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;

use super::hashed::Hashed;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::MaybeReady;
use crate::cache::http::glob;
use crate::cache::{CacheKey, CacheStore, LevelStats, Stored};

/// Cache store in this process's memory. `CacheLayer::builder().memory(bytes)` creates one.
///
/// ```
/// use tollgate::store::memory::MemoryCache;
///
/// let store = MemoryCache::new(64 << 20);
/// # let _ = store;
/// ```
pub struct MemoryCache {
    entries: Cache<CacheKey, Stored, Hashed>,
    hits: AtomicU64,
    misses: AtomicU64,
    superseded: AtomicU64,
    /// Entries put under a new key, and entries removed: what else is missing was evicted.
    added: AtomicU64,
    removed: AtomicU64,
    evictions: AtomicU64,
    puts: [Mutex<()>; 16],
    capacity_bytes: u64,
}

impl MemoryCache {
    /// Creates a store with this capacity in bytes.
    ///
    /// ```
    /// use tollgate::cache::CacheStore;
    /// use tollgate::store::memory::MemoryCache;
    ///
    /// assert_eq!(MemoryCache::new(64 << 20).stats()[0].capacity_bytes, 64 << 20);
    /// ```
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let entries = Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, stored: &Stored| u32::try_from(stored.weight()).unwrap_or(u32::MAX))
            .build_with_hasher(Hashed);
        Self {
            entries,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            superseded: AtomicU64::new(0),
            added: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            puts: Default::default(),
            capacity_bytes: bytes,
        }
    }

    fn discard(&self, key: &CacheKey) {
        if self.entries.remove(key).is_some() {
            self.removed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of entries evicted or not admitted. moka's listener would count them as they go, but makes every put
    /// cost a tenth more.
    fn evictions(&self, entries: u64) -> u64 {
        let removed = self.removed.load(Ordering::Relaxed);
        let gone = self.added.load(Ordering::Relaxed).saturating_sub(removed + entries);
        // Entries that are put meanwhile must not make the count fall.
        self.evictions.fetch_max(gone, Ordering::Relaxed).max(gone)
    }
}

impl CacheStore for MemoryCache {
    fn get(&self, key: &CacheKey, _now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        let found = self.entries.get(key);
        // The index of a response's variants is neither.
        match &found {
            Some(found) if found.meta().is_some() => drop(self.hits.fetch_add(1, Ordering::Relaxed)),
            Some(_) => (),
            None => drop(self.misses.fetch_add(1, Ordering::Relaxed)),
        }
        MaybeReady::Ready(Ok(found))
    }

    fn put(&self, key: &CacheKey, stored: Stored, _now: Timestamp) -> MaybeReady<Result<(), Error>> {
        let weight = stored.weight();
        if weight > self.capacity_bytes {
            return MaybeReady::Ready(Err(Error::too_large("memory", weight, self.capacity_bytes)));
        }
        // One put of a key at a time, so that of two fetches the one that began later stays.
        let _one = self.puts[key.hash64() as usize % self.puts.len()].lock();
        // Asked first, since a look-up counts as a use of the key, by which moka admits.
        let known = self.entries.contains_key(key);
        if known && self.entries.get(key).is_some_and(|old| !stored.may_replace(&old)) {
            self.superseded.fetch_add(1, Ordering::Relaxed);
            return MaybeReady::Ready(Err(Error::superseded("memory")));
        }
        self.entries.insert(key.clone(), stored);
        self.added.fetch_add(u64::from(!known), Ordering::Relaxed);
        // moka evicts in batches; with entries of a megabyte a batch would exceed the bound by half a gigabyte.
        self.entries.run_pending_tasks();
        MaybeReady::Ready(Ok(()))
    }

    fn orders_puts(&self) -> bool {
        true
    }

    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        self.discard(key);
        MaybeReady::Ready(Ok(()))
    }

    fn sweep(&self, pattern: &str) -> MaybeReady<Result<u64, Error>> {
        let matching: Vec<_> =
            self.entries.iter().filter(|(key, _)| glob::matches_url(pattern, key)).map(|(key, _)| key).collect();
        matching.iter().for_each(|key| self.discard(key));
        MaybeReady::Ready(Ok(matching.len() as u64))
    }

    fn count(&self, matches: &dyn Fn(&Stored) -> bool) -> (u64, u64) {
        // Indexes of variants are no entries.
        let entries = self.entries.iter().filter(|(_, stored)| stored.meta().is_some());
        entries.fold((0, 0), |(matching, all), (_, stored)| (matching + u64::from(matches(&stored)), all + 1))
    }

    fn stats(&self) -> Vec<LevelStats> {
        self.entries.run_pending_tasks();
        let mut level = LevelStats::new("memory");
        level.hits = self.hits.load(Ordering::Relaxed);
        level.misses = self.misses.load(Ordering::Relaxed);
        level.superseded = self.superseded.load(Ordering::Relaxed);
        level.entries = self.entries.entry_count();
        level.evictions = self.evictions(level.entries);
        level.bytes = self.entries.weighted_size();
        level.capacity_bytes = self.capacity_bytes;
        vec![level]
    }
}

impl fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCache").field("capacity_bytes", &self.capacity_bytes).finish_non_exhaustive()
    }
}
