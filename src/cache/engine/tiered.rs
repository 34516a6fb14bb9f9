//! [`Levels`]: two cache stores combined into one, level 1 in front of level 2.
//!
//! | look-up | level 1 | level 2 |
//! |---|---|---|
//! | an entry that may be served | serves it at once | not queried |
//! | an entry that was invalidated or needs revalidation | serves it if level 2 has no newer one, or fails | queried |
//! | a miss | stores a copy with the remaining lifetime | queried |
//!
//! An error of level 2 is a miss. Values are put into level 1 first, so that this process can serve them in any case;
//! removals and invalidations go to level 2, which distributes them to other processes.
//!
//! Level 2 may be several stores behind one another: see [`CacheBuilder::level_2`](crate::cache::CacheBuilder::level_2).

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::barrier::Validity;
use super::invalidation::Invalidation;
use super::invalidation_sink::InvalidationSink;
use super::lease::{GetOrClaim, Lease, LeaseState};
use super::record::Stored;
use super::store::{CacheStore, LevelStats};
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::maybe_ready::{MaybeReady, both};
use crate::cache::http::key::CacheKey;

type LevelAnswer = Result<Option<Stored>, Error>;
type LeasedAnswer = Result<GetOrClaim<Stored>, Error>;
type WriteResult = Result<(), Error>;

/// Two cache stores combined into one.
///
/// ```
/// use std::sync::Arc;
/// use tollgate::cache::{CacheLayer, CacheStore, Levels};
/// use tollgate::store::memory::MemoryCache;
///
/// let level_2: Arc<dyn CacheStore> = Arc::new(MemoryCache::new(64 << 20));
/// let levels = Levels::new(Arc::new(MemoryCache::new(8 << 20)), level_2);
/// let layer = CacheLayer::builder().store(Arc::new(levels)).build()?;
/// assert_eq!(layer.stats().levels.len(), 2);
/// # Ok::<(), tollgate::Error>(())
/// ```
pub struct Levels {
    level_1: Arc<dyn CacheStore>,
    level_2: Arc<dyn CacheStore>,
    /// How long level 1 serves a value without asking level 2.
    copy_ttl: Option<Duration>,
    sink: OnceLock<InvalidationSink>,
}

impl Levels {
    /// Combines two stores: `level_1` is in this process and answers at once, `level_2` may be remote.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tollgate::cache::Levels;
    /// use tollgate::store::memory::MemoryCache;
    ///
    /// let levels = Levels::new(Arc::new(MemoryCache::new(8 << 20)), Arc::new(MemoryCache::new(64 << 20)));
    /// # let _ = levels;
    /// ```
    #[must_use]
    pub fn new(level_1: Arc<dyn CacheStore>, level_2: Arc<dyn CacheStore>) -> Self {
        let copy_ttl = level_2.copy_ttl();
        Self { level_1, level_2, copy_ttl, sink: OnceLock::new() }
    }

    /// Returns the value of level 1, unless it may have been removed from level 2 meanwhile.
    fn current(&self, found: Option<Stored>, now: Timestamp) -> Option<Stored> {
        let Some(ttl) = self.copy_ttl else { return found };
        found.filter(|found| {
            let copied_at = found.meta().map(|meta| Timestamp::from_nanos(meta.copied_at.load(Ordering::Relaxed)));
            copied_at.is_some_and(|copied_at| now < copied_at + ttl)
        })
    }

    /// Whether a value of level 1 may be served without querying level 2.
    fn serves(&self, key: &CacheKey, found: &Stored, now: Timestamp) -> bool {
        let Some(meta) = found.meta() else { return true };
        let deadlines = &meta.deadlines;
        self.is_valid(key, found) && now < deadlines.fresh_until.max(deadlines.revalidate_until)
    }

    /// Whether the value is not invalidated.
    fn is_valid(&self, key: &CacheKey, found: &Stored) -> bool {
        let Some(meta) = found.meta() else { return true };
        self.sink.get().is_none_or(|sink| sink.check(key, meta) == Validity::Valid)
    }

    /// Whether a value of level 2 takes precedence over that of level 1.
    fn prefers(&self, key: &CacheKey, level_1: Option<&Stored>) -> impl Fn(&Stored) -> bool + Send + 'static + use<> {
        // RFC 9111 §4: the most recent response is used; an invalidated one does not match.
        let newest =
            level_1.filter(|level_1| self.is_valid(key, level_1)).and_then(Stored::meta).map(|meta| meta.stored_at);
        move |found| match (found.meta(), newest) {
            (Some(found), Some(newest)) => found.stored_at > newest,
            _ => true,
        }
    }

    fn get_from_level_2(&self, key: &CacheKey, level_1: Option<Stored>, now: Timestamp) -> MaybeReady<LevelAnswer> {
        let accept = self.accept_from_level_2(key, level_1, now);
        self.level_2.get(key, now).map(move |found| Ok(accept(found.unwrap_or_default())))
    }

    /// Returns a function that copies the value of level 2 to level 1, or returns that of level 1 if it takes precedence.
    fn accept_from_level_2(
        &self,
        key: &CacheKey,
        level_1: Option<Stored>,
        now: Timestamp,
    ) -> impl FnOnce(Option<Stored>) -> Option<Stored> + Send + 'static + use<> {
        let (store, key, prefers) = (self.level_1.clone(), key.clone(), self.prefers(key, level_1.as_ref()));
        move |found| {
            // An entry of another key is none.
            let found = found.filter(|found| found.key() == &key && prefers(found));
            if let Some(found) = &found {
                note_copy(found, now);
                // If storing the copy fails, the next look-up fetches it again.
                drop(store.put(&key, found.clone(), now));
            }
            found.or(level_1)
        }
    }
}

impl Levels {
    /// Succeeds if one level does, unless another process has stored something newer: then level 1 drops its copy.
    fn put_in_both(
        &self,
        key: &CacheKey,
        level_1: MaybeReady<WriteResult>,
        level_2: MaybeReady<WriteResult>,
    ) -> MaybeReady<WriteResult> {
        let (store, key) = (self.level_1.clone(), key.clone());
        let level_2 = level_2.map(move |level_2| {
            if level_2.as_ref().is_err_and(Error::is_superseded) {
                drop(store.remove(&key));
            }
            level_2
        });
        both(level_1, level_2, |level_1, level_2| match level_2 {
            Err(error) if error.is_superseded() => Err(error),
            level_2 => level_1.or(level_2),
        })
    }
}

impl CacheStore for Levels {
    fn get(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<LevelAnswer> {
        match self.level_1.get(key, now) {
            MaybeReady::Ready(found) => match self.current(found.unwrap_or_default(), now) {
                Some(found) if self.serves(key, &found, now) => MaybeReady::Ready(Ok(Some(found))),
                found => self.get_from_level_2(key, found, now),
            },
            pending @ MaybeReady::Pending(_) => pending,
        }
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>> {
        note_copy(&stored, now);
        let level_1 = self.level_1.put(key, stored.clone(), now);
        self.put_in_both(key, level_1, self.level_2.put(key, stored, now))
    }

    fn orders_puts(&self) -> bool {
        true
    }

    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        let level_1 = self.level_1.remove(key);
        write_both(level_1, self.level_2.remove(key))
    }

    fn count(&self, matches: &dyn Fn(&Stored) -> bool) -> (u64, u64) {
        self.level_1.count(matches)
    }

    fn stats(&self) -> Vec<LevelStats> {
        let mut all = [self.level_1.stats(), self.level_2.stats()].concat();
        tell_apart(&mut all);
        all
    }

    fn get_many(&self, keys: &[CacheKey], now: Timestamp) -> MaybeReady<Result<Vec<Option<Stored>>, Error>> {
        let level_1 = match self.level_1.get_many(keys, now) {
            MaybeReady::Ready(found) => found.unwrap_or_else(|_| vec![None; keys.len()]),
            pending @ MaybeReady::Pending(_) => return pending,
        };
        let level_1: Vec<_> = level_1.into_iter().map(|found| self.current(found, now)).collect();
        let served = |(key, found): (&CacheKey, &Option<Stored>)| {
            found.as_ref().is_some_and(|found| self.serves(key, found, now))
        };
        let missing: Vec<usize> = (0..keys.len()).filter(|at| !served((&keys[*at], &level_1[*at]))).collect();
        if missing.is_empty() {
            return MaybeReady::Ready(Ok(level_1));
        }
        let missing_keys: Vec<CacheKey> = missing.iter().map(|at| keys[*at].clone()).collect();
        let choices: Vec<_> = missing.iter().map(|at| self.prefers(&keys[*at], level_1[*at].as_ref())).collect();
        let store = self.level_1.clone();
        self.level_2.get_many(&missing_keys, now).map(move |found| {
            let mut all = level_1;
            let results = missing.into_iter().zip(&missing_keys).zip(choices);
            for (((at, key), prefers), found) in results.zip(found.unwrap_or_default()) {
                if let Some(found) = found.filter(|found| found.key() == key && prefers(found)) {
                    note_copy(&found, now);
                    drop(store.put(key, found.clone(), now));
                    all[at] = Some(found);
                }
            }
            Ok(all)
        })
    }

    fn get_shared(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<LevelAnswer> {
        let level_1 = match self.level_1.get(key, now) {
            MaybeReady::Ready(found) => self.current(found.unwrap_or_default(), now),
            MaybeReady::Pending(_) => None,
        };
        self.get_from_level_2(key, level_1, now)
    }

    fn claim(&self, lease: &Lease<CacheKey>) -> MaybeReady<LeaseState> {
        self.level_2.claim(lease)
    }

    fn release(&self, lease: &Lease<CacheKey>, uncacheable: Option<Duration>) -> MaybeReady<WriteResult> {
        self.level_2.release(lease, uncacheable)
    }

    fn get_or_claim(&self, key: &CacheKey, lease: &Lease<CacheKey>, now: Timestamp) -> MaybeReady<LeasedAnswer> {
        let level_1 = match self.level_1.get(key, now) {
            MaybeReady::Ready(found) => self.current(found.unwrap_or_default(), now),
            MaybeReady::Pending(_) => None,
        };
        match level_1 {
            Some(found) if self.serves(key, &found, now) => MaybeReady::Ready(Ok(GetOrClaim::Found(found))),
            level_1 => {
                let accept = self.accept_from_level_2(key, level_1, now);
                self.level_2.get_or_claim(key, lease, now).map(|answer| {
                    Ok(match answer? {
                        GetOrClaim::Found(found) => accept(Some(found)).into(),
                        missing => accept(None).map_or(missing, GetOrClaim::Found),
                    })
                })
            }
        }
    }

    fn put_and_release(
        &self,
        key: &CacheKey,
        stored: Stored,
        lease: &Lease<CacheKey>,
        now: Timestamp,
    ) -> MaybeReady<WriteResult> {
        note_copy(&stored, now);
        let level_1 = self.level_1.put(key, stored.clone(), now);
        self.put_in_both(key, level_1, self.level_2.put_and_release(key, stored, lease, now))
    }

    fn copy_ttl(&self) -> Option<Duration> {
        self.copy_ttl
    }

    fn generation(&self) -> u64 {
        self.level_2.generation()
    }

    fn invalidate(&self, invalidation: &Invalidation) -> MaybeReady<Result<(), Error>> {
        self.level_2.invalidate(invalidation)
    }

    fn sweep(&self, pattern: &str) -> MaybeReady<Result<u64, Error>> {
        let level_1 = match self.level_1.sweep(pattern) {
            MaybeReady::Ready(level_1) => level_1.unwrap_or_default(),
            MaybeReady::Pending(_) => 0,
        };
        // Level 1 holds copies of level 2.
        self.level_2.sweep(pattern).map(move |level_2| level_2.map(|level_2| level_2.max(level_1)))
    }

    fn listen(&self, sink: InvalidationSink) {
        self.level_1.listen(sink.clone());
        self.level_2.listen(sink.clone().behind(self.level_1.clone()));
        // The sink of the first layer built with this store.
        drop(self.sink.set(sink));
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Levels").finish_non_exhaustive()
    }
}

/// Numbers levels of the same name: `memory`, `memory-2`.
fn tell_apart(levels: &mut [LevelStats]) {
    for at in 1..levels.len() {
        let (before, rest) = levels.split_at_mut(at);
        let name = rest[0].name.clone();
        let mut number = 2;
        while before.iter().any(|level| level.name == rest[0].name) {
            rest[0].name = format!("{name}-{number}");
            number += 1;
        }
    }
}

/// Notes the time at which level 1 takes a value.
fn note_copy(stored: &Stored, now: Timestamp) {
    if let Some(meta) = stored.meta() {
        meta.copied_at.store(now.as_nanos(), Ordering::Relaxed);
    }
}

/// Succeeds if both levels do.
fn write_both(level_1: MaybeReady<WriteResult>, level_2: MaybeReady<WriteResult>) -> MaybeReady<WriteResult> {
    both(level_1, level_2, Result::and)
}
