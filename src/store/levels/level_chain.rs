//! [`LevelChain`]: several levels behind the memory of one cache, asked in their order.
//!
//! | operation | levels |
//! |---|---|
//! | a look-up | one after the other, until one has an entry that may be served; all of them within one deadline |
//! | an entry of a later level | is copied to those before it in the background, with its remaining life |
//! | storing | all; an entry that one refuses, since a fetch that began later is stored there, is removed from the others |
//! | a removal | all |
//! | an invalidation | the one with the log, by which all are validated |
//! | a lease | the one with the log |
//!
//! The log is that of PostgreSQL if it is one of the levels, else of Redis, of a user-supplied store, or of a directory.
//! Positions of two logs cannot be compared: an entry that was numbered by another log is a miss.
//!
//! A level that fails, or does not answer in time, is a miss.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::base::clock::{Timestamp, runtime_now};
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::isolated_store::IsolatedStore;
use crate::cache::{
    CacheKey, CacheStore, GetOrClaim, Invalidation, InvalidationSink, Lease, LeaseState, LevelStats, Stored,
};
use crate::store::RemoteStore;

/// Maximum number of copies to earlier levels in progress; beyond it, entries are not copied.
const MAX_BACK_FILLS: usize = 64;
/// Deadline of a level without one.
const DEADLINE: Duration = Duration::from_millis(250);

type WriteResult = Result<(), Error>;

/// Several levels in one store.
pub(crate) struct LevelChain {
    chain: Arc<Chain>,
}

struct Chain {
    levels: Vec<Level>,
    /// The level whose log validates all entries, which also grants the leases.
    owner: Option<usize>,
    deadline: Duration,
    back_fills: Arc<Semaphore>,
}

struct Level {
    /// The level, isolated.
    store: Arc<dyn CacheStore>,
    /// The level, if it is one of this crate's.
    remote: Option<Arc<RemoteStore>>,
}

/// Checks that no two levels have the same directory.
///
/// # Errors
/// Names the directory: one of the two could never use it.
pub(crate) fn check_directories(stores: &[Arc<dyn CacheStore>]) -> Result<(), Error> {
    let mut known: Vec<PathBuf> = Vec::new();
    for store in stores {
        let any: Arc<dyn Any + Send + Sync> = store.clone();
        let Ok(remote) = any.downcast::<RemoteStore>() else { continue };
        let Some(path) = remote.directory() else { continue };
        let directory = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or(path.to_owned());
        if known.contains(&directory) {
            let message =
                format!("file level: the directory {} is named twice; give each level its own", path.display());
            return Err(Error::config(message));
        }
        known.push(directory);
    }
    Ok(())
}

impl LevelChain {
    /// Combines these levels: one stays as it is, several become a chain.
    pub(crate) fn of(mut stores: Vec<Arc<dyn CacheStore>>) -> Option<Arc<dyn CacheStore>> {
        match stores.len() {
            0 | 1 => stores.pop(),
            _ => Some(Arc::new(Self::new(stores))),
        }
    }

    fn new(stores: Vec<Arc<dyn CacheStore>>) -> Self {
        let levels: Vec<Level> = stores.into_iter().map(Level::new).collect();
        let owner = owner(&levels);
        if let Some((at, owner)) = owner.and_then(|at| Some((at, levels[at].remote.as_ref()?))) {
            let others = levels.iter().enumerate().filter(|(other, _)| *other != at);
            others.filter_map(|(_, level)| level.remote.as_ref()).for_each(|level| level.follow(owner));
        }
        let deadline = levels.iter().map(Level::deadline).max().unwrap_or(DEADLINE);
        let back_fills = Arc::new(Semaphore::new(MAX_BACK_FILLS));
        Self { chain: Arc::new(Chain { levels, owner, deadline, back_fills }) }
    }
}

/// Returns the level with the preferred log, the first of equals; none if all levels are user-supplied stores.
fn owner(levels: &[Level]) -> Option<usize> {
    let ranked = levels.iter().enumerate().filter_map(|(at, level)| Some((at, level.remote.as_ref()?.log_rank())));
    ranked.rev().max_by_key(|(_, rank)| *rank).map(|(at, _)| at)
}

impl Level {
    fn new(store: Arc<dyn CacheStore>) -> Self {
        let any: Arc<dyn Any + Send + Sync> = store.clone();
        Self { store: Arc::new(IsolatedStore::new(store)), remote: any.downcast().ok() }
    }

    fn deadline(&self) -> Duration {
        self.remote.as_ref().and_then(|remote| remote.deadline()).unwrap_or(DEADLINE)
    }

    /// Whether other hosts cannot reach what it holds.
    fn is_local(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.is_local())
    }
}

impl Chain {
    fn owner(&self) -> Option<&RemoteStore> {
        self.levels.get(self.owner?)?.remote.as_deref()
    }

    /// Returns the level that grants leases.
    fn lease_level(&self) -> &Level {
        &self.levels[self.owner.unwrap_or(0)]
    }

    /// Returns an entry of a level if it may be used. The stores of this crate have checked theirs.
    fn checked(&self, level: &Level, key: &CacheKey, found: Stored, now: Timestamp) -> Option<Stored> {
        if found.key() != key {
            return None;
        }
        let (None, Some(owner), Some(meta)) = (&level.remote, self.owner(), found.meta()) else { return Some(found) };
        match owner.check(key, meta) {
            Validity::Void => None,
            Validity::Stale => Some(found.marked_stale(now)),
            Validity::Valid => Some(found),
        }
    }

    /// Looks for entries in the levels of this range.
    async fn search(&self, search: &mut Search, levels: std::ops::Range<usize>) {
        for at in levels {
            let open = search.open();
            if open.is_empty() {
                return;
            }
            let level = &self.levels[at];
            let keys: Vec<CacheKey> = open.iter().map(|index| search.keys[*index].clone()).collect();
            let answer = timeout_at(search.by, level.store.get_many(&keys, search.now).into_future()).await;
            let Ok(answer) = answer else { return };
            for (index, found) in open.into_iter().zip(answer.unwrap_or_default()) {
                let found = found.and_then(|found| self.checked(level, &search.keys[index], found, search.now));
                search.offer(index, found, at);
            }
        }
    }

    /// Copies what was found to the levels before, in the background.
    fn back_fill(self: &Arc<Self>, search: &Search) {
        let copies: Vec<_> = search
            .keys
            .iter()
            .zip(&search.found)
            .filter_map(|(key, found)| Some((key.clone(), found.as_ref()?.clone())))
            .filter(|(_, (_, at))| *at > 0)
            .collect();
        let (Ok(runtime), false) = (tokio::runtime::Handle::try_current(), copies.is_empty()) else { return };
        let Ok(permit) = self.back_fills.clone().try_acquire_owned() else { return };
        let (chain, now) = (self.clone(), search.now);
        runtime.spawn(async move {
            let _permit = permit;
            for (key, (found, at)) in copies {
                let puts =
                    chain.levels[..at].iter().map(|level| level.store.put(&key, found.clone(), now).into_future());
                // If a copy is not stored, the next look-up finds the entry where it is.
                drop(join_all(puts).await);
            }
        });
    }

    /// Completes a put: it succeeds if one level stored the entry, unless another has one whose fetch began later.
    async fn settle(self: Arc<Self>, key: CacheKey, results: Vec<WriteResult>) -> WriteResult {
        let superseded = results.iter().position(|result| result.as_ref().is_err_and(Error::is_superseded));
        if superseded.is_some() {
            let stored = self.levels.iter().zip(&results).filter(|(_, result)| result.is_ok());
            // What remains there would come back when the newer entry is evicted.
            drop(join_all(stored.map(|(level, _)| level.store.remove(&key).into_future())).await);
        }
        let first = superseded.unwrap_or_else(|| results.iter().position(Result::is_ok).unwrap_or(0));
        results.into_iter().nth(first).unwrap_or(Ok(()))
    }
}

/// Look-up of several keys in several levels.
struct Search {
    keys: Vec<CacheKey>,
    /// The best entries so far, with their levels.
    found: Vec<Option<(Stored, usize)>>,
    now: Timestamp,
    by: Instant,
}

impl Search {
    fn new(chain: &Chain, keys: &[CacheKey], now: Timestamp) -> Self {
        Self { keys: keys.to_vec(), found: vec![None; keys.len()], now, by: runtime_now() + chain.deadline }
    }

    /// Returns the indices of keys without an entry that may be served.
    fn open(&self) -> Vec<usize> {
        let serves = |found: &Option<(Stored, usize)>| found.as_ref().is_some_and(|(found, _)| self.serves(found));
        (0..self.keys.len()).filter(|index| !serves(&self.found[*index])).collect()
    }

    fn serves(&self, found: &Stored) -> bool {
        found.meta().is_none_or(|meta| self.now < meta.deadlines.fresh_until.max(meta.deadlines.revalidate_until))
    }

    /// Takes an entry if it is newer than the one found before.
    fn offer(&mut self, index: usize, found: Option<Stored>, level: usize) {
        let Some(found) = found else { return };
        let best = self.found[index].as_ref().and_then(|(best, _)| best.meta());
        let newer = match (found.meta(), best) {
            (Some(found), Some(best)) => found.stored_at > best.stored_at,
            _ => true,
        };
        if newer {
            self.found[index] = Some((found, level));
        }
    }

    fn into_first(self) -> Option<Stored> {
        self.found.into_iter().next().flatten().map(|(found, _)| found)
    }
}

impl CacheStore for LevelChain {
    fn get(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        let found = self.get_many(std::slice::from_ref(key), now);
        found.map(|found| found.map(|found| found.into_iter().next().flatten()))
    }

    fn get_many(&self, keys: &[CacheKey], now: Timestamp) -> MaybeReady<Result<Vec<Option<Stored>>, Error>> {
        let (chain, keys) = (self.chain.clone(), keys.to_vec());
        MaybeReady::Pending(Box::pin(async move {
            let mut search = Search::new(&chain, &keys, now);
            chain.search(&mut search, 0..chain.levels.len()).await;
            chain.back_fill(&search);
            Ok(search.found.into_iter().map(|found| found.map(|(found, _)| found)).collect())
        }))
    }

    fn get_shared(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        self.get(key, now)
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<WriteResult> {
        let put = |level: &Level| level.store.put(key, stored.clone(), now).into_future();
        let (chain, key, puts) = (self.chain.clone(), key.clone(), join_all(self.chain.levels.iter().map(put)));
        MaybeReady::Pending(Box::pin(async move { chain.settle(key, puts.await).await }))
    }

    fn orders_puts(&self) -> bool {
        true
    }

    fn remove(&self, key: &CacheKey) -> MaybeReady<WriteResult> {
        let removals = join_all(self.chain.levels.iter().map(|level| level.store.remove(key).into_future()));
        MaybeReady::Pending(Box::pin(async move { removals.await.into_iter().collect() }))
    }

    fn claim(&self, lease: &Lease<CacheKey>) -> MaybeReady<LeaseState> {
        self.chain.lease_level().store.claim(lease)
    }

    fn release(&self, lease: &Lease<CacheKey>, uncacheable: Option<Duration>) -> MaybeReady<WriteResult> {
        self.chain.lease_level().store.release(lease, uncacheable)
    }

    /// Asks for the lease in the round trip of its level, unless a level before that has the entry.
    fn get_or_claim(
        &self,
        key: &CacheKey,
        lease: &Lease<CacheKey>,
        now: Timestamp,
    ) -> MaybeReady<Result<GetOrClaim<Stored>, Error>> {
        let (chain, key, lease) = (self.chain.clone(), key.clone(), lease.clone());
        MaybeReady::Pending(Box::pin(async move {
            let (at, level) = (chain.owner.unwrap_or(0), chain.lease_level());
            let mut search = Search::new(&chain, std::slice::from_ref(&key), now);
            chain.search(&mut search, 0..at).await;
            let mut state = None;
            if !search.open().is_empty() {
                let claim = level.store.get_or_claim(&key, &lease, now).into_future();
                match timeout_at(search.by, claim).await {
                    Ok(Ok(GetOrClaim::Found(found))) => {
                        search.offer(0, chain.checked(level, &key, found, now), at);
                    }
                    Ok(Ok(GetOrClaim::Missing(claimed))) => state = claimed,
                    // An outage grants.
                    Ok(Err(_)) | Err(_) => state = Some(LeaseState::Granted),
                }
                chain.search(&mut search, at + 1..chain.levels.len()).await;
            }
            chain.back_fill(&search);
            let served = search.open().is_empty();
            if served && state == Some(LeaseState::Granted) {
                // Without a release the lease expires.
                drop(level.store.release(&lease, None).await);
            }
            Ok(search.into_first().map_or(GetOrClaim::Missing(state), GetOrClaim::Found))
        }))
    }

    fn put_and_release(
        &self,
        key: &CacheKey,
        stored: Stored,
        lease: &Lease<CacheKey>,
        now: Timestamp,
    ) -> MaybeReady<WriteResult> {
        let leases = self.chain.owner.unwrap_or(0);
        let puts = self.chain.levels.iter().enumerate().map(|(at, level)| match at == leases {
            true => level.store.put_and_release(key, stored.clone(), lease, now).into_future(),
            false => level.store.put(key, stored.clone(), now).into_future(),
        });
        let (chain, key, puts) = (self.chain.clone(), key.clone(), join_all(puts));
        MaybeReady::Pending(Box::pin(async move { chain.settle(key, puts.await).await }))
    }

    fn deadline(&self) -> Option<Duration> {
        Some(self.chain.deadline)
    }

    fn copy_ttl(&self) -> Option<Duration> {
        match self.chain.owner() {
            Some(owner) => owner.copy_ttl(),
            None => self.chain.levels.iter().filter_map(|level| level.store.copy_ttl()).min(),
        }
    }

    fn generation(&self) -> u64 {
        self.chain.lease_level().store.generation()
    }

    fn invalidate(&self, invalidation: &Invalidation) -> MaybeReady<WriteResult> {
        let levels = self.chain.levels.iter().enumerate();
        let concerned = levels.filter(|(at, level)| self.chain.owner == Some(*at) || level.remote.is_none());
        let all = join_all(concerned.map(|(_, level)| level.store.invalidate(invalidation).into_future()));
        MaybeReady::Pending(Box::pin(async move { all.await.into_iter().collect() }))
    }

    /// Sweeps all levels, and returns the largest number of removed entries, since they hold copies of the same.
    fn sweep(&self, pattern: &str) -> MaybeReady<Result<u64, Error>> {
        let all = join_all(self.chain.levels.iter().map(|level| level.store.sweep(pattern).into_future()));
        MaybeReady::Pending(Box::pin(async move {
            all.await.into_iter().try_fold(0, |most, removed| removed.map(|removed| most.max(removed)))
        }))
    }

    fn listen(&self, sink: InvalidationSink) {
        // Entries that another host removes are removed from the levels that it cannot reach.
        let local = self.chain.levels.iter().enumerate();
        let local = local.filter(|(at, level)| self.chain.owner != Some(*at) && level.is_local());
        let of_owner = local.fold(sink.clone(), |sink, (_, level)| sink.behind(level.store.clone()));
        for (at, level) in self.chain.levels.iter().enumerate() {
            level.store.listen(if self.chain.owner == Some(at) { of_owner.clone() } else { sink.clone() });
        }
    }

    fn stats(&self) -> Vec<LevelStats> {
        self.chain.levels.iter().flat_map(|level| level.store.stats()).collect()
    }
}

impl fmt::Debug for LevelChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LevelChain").field("levels", &self.chain.levels.len()).finish_non_exhaustive()
    }
}
