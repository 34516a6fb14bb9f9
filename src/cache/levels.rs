//! [`Levels`]: a near store in front of a far one, as one.
//!
//! | asked for | near answers | far is asked |
//! |---|---|---|
//! | an entry that may be served | at once, whatever the far level is doing | no |
//! | an entry that was invalidated, or must be revalidated | if the far level has none that is newer, or fails | yes |
//! | nothing it knows | | yes, and near keeps a copy with the life that remains |
//!
//! A far level that fails is a far level that has nothing. What is put is put near first, so that this process serves it
//! whatever becomes of the rest; removals and invalidations go to the far level, which tells other processes.
//!
//! `Levels` is a store itself, so that it nests: memory, then Redis, then a database.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::barrier::Validity;
use super::entry::Stored;
use super::invalidation::Invalidation;
use super::key::CacheKey;
use super::listener::Listener;
use super::store::{CacheStore, LevelStats};
use crate::answer::Answer;
use crate::clock::Timestamp;
use crate::error::Error;

type Found = Result<Option<Stored>, Error>;
type Done = Result<(), Error>;

/// Two stores, one behind the other.
///
/// ```
/// use std::sync::Arc;
/// use tollgate::cache::{CacheLayer, CacheStore, Levels};
/// use tollgate::store::memory::MemoryCache;
///
/// let far: Arc<dyn CacheStore> = Arc::new(MemoryCache::new(64 << 20));
/// let levels = Levels::new(Arc::new(MemoryCache::new(8 << 20)), far);
/// let layer = CacheLayer::builder().store(Arc::new(levels)).build()?;
/// assert_eq!(layer.stats().levels.len(), 2);
/// # Ok::<(), tollgate::Error>(())
/// ```
pub struct Levels {
    near: Arc<dyn CacheStore>,
    far: Arc<dyn CacheStore>,
    listener: OnceLock<Listener>,
}

impl Levels {
    /// `near` is in this process and answers at once; `far` may be anywhere.
    #[must_use]
    pub const fn new(near: Arc<dyn CacheStore>, far: Arc<dyn CacheStore>) -> Self {
        Self { near, far, listener: OnceLock::new() }
    }

    /// Whether what was found near may be served without looking further.
    fn serves(&self, key: &CacheKey, found: &Stored, now: Timestamp) -> bool {
        let Stored::Entry(entry) = found else { return true };
        let windows = &entry.meta.windows;
        self.is_valid(key, found) && now < windows.fresh_until.max(windows.revalidate_until)
    }

    /// Whether nobody has taken it back.
    fn is_valid(&self, key: &CacheKey, found: &Stored) -> bool {
        let Stored::Entry(entry) = found else { return true };
        self.listener.get().is_none_or(|ear| ear.check(key, &entry.meta) == Validity::Valid)
    }

    /// Whether what was found far is to be used rather than what was found near.
    fn prefers(&self, key: &CacheKey, near: Option<&Stored>) -> impl Fn(&Stored) -> bool + Send + 'static + use<> {
        // RFC 9111 §4: of two the most recent is used; one that was taken back is no match for any.
        let rival = match near {
            Some(Stored::Entry(entry)) if near.is_some_and(|near| self.is_valid(key, near)) => {
                Some(entry.meta.stored_at)
            }
            _ => None,
        };
        move |found| match (found, rival) {
            (Stored::Entry(found), Some(rival)) => found.meta.stored_at > rival,
            _ => true,
        }
    }

    fn ask_far(&self, key: &CacheKey, near: Option<Stored>, now: Timestamp) -> Answer<Found> {
        let (store, copy_of, prefers) = (self.near.clone(), key.clone(), self.prefers(key, near.as_ref()));
        self.far.get(key, now).map(move |found| {
            let found = found.unwrap_or_default().filter(prefers);
            if let Some(found) = &found {
                // A copy that is not kept is a copy that is fetched again.
                drop(store.put(&copy_of, found.clone(), now));
            }
            Ok(found.or(near))
        })
    }
}

impl CacheStore for Levels {
    fn get(&self, key: &CacheKey, now: Timestamp) -> Answer<Found> {
        match self.near.get(key, now) {
            Answer::Ready(Ok(Some(found))) if self.serves(key, &found, now) => Answer::Ready(Ok(Some(found))),
            Answer::Ready(found) => self.ask_far(key, found.unwrap_or_default(), now),
            pending @ Answer::Pending(_) => pending,
        }
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> Answer<Result<(), Error>> {
        let near = self.near.put(key, stored.clone(), now);
        let far = self.far.put(key, stored, now);
        either(near, far)
    }

    fn remove(&self, key: &CacheKey) -> Answer<Result<(), Error>> {
        let near = self.near.remove(key);
        both(near, self.far.remove(key))
    }

    fn stats(&self) -> Vec<LevelStats> {
        [self.near.stats(), self.far.stats()].concat()
    }

    fn get_many(&self, keys: &[CacheKey], now: Timestamp) -> Answer<Result<Vec<Option<Stored>>, Error>> {
        let near = match self.near.get_many(keys, now) {
            Answer::Ready(found) => found.unwrap_or_else(|_| vec![None; keys.len()]),
            pending @ Answer::Pending(_) => return pending,
        };
        let served = |(key, found): (&CacheKey, &Option<Stored>)| {
            found.as_ref().is_some_and(|found| self.serves(key, found, now))
        };
        let missing: Vec<usize> = (0..keys.len()).filter(|at| !served((&keys[*at], &near[*at]))).collect();
        if missing.is_empty() {
            return Answer::Ready(Ok(near));
        }
        let wanted: Vec<CacheKey> = missing.iter().map(|at| keys[*at].clone()).collect();
        let choices: Vec<_> = missing.iter().map(|at| self.prefers(&keys[*at], near[*at].as_ref())).collect();
        let store = self.near.clone();
        self.far.get_many(&wanted, now).map(move |found| {
            let mut all = near;
            let asked = missing.into_iter().zip(&wanted).zip(choices);
            for (((at, key), prefers), found) in asked.zip(found.unwrap_or_default()) {
                if let Some(found) = found.filter(prefers) {
                    drop(store.put(key, found.clone(), now));
                    all[at] = Some(found);
                }
            }
            Ok(all)
        })
    }

    fn get_shared(&self, key: &CacheKey, now: Timestamp) -> Answer<Found> {
        let near = match self.near.get(key, now) {
            Answer::Ready(found) => found.unwrap_or_default(),
            Answer::Pending(_) => None,
        };
        self.ask_far(key, near, now)
    }

    fn claim(&self, key: &CacheKey, lease: Duration) -> Answer<bool> {
        self.far.claim(key, lease)
    }

    fn release(&self, key: &CacheKey) -> Answer<Done> {
        self.far.release(key)
    }

    fn generation(&self) -> u64 {
        self.far.generation()
    }

    fn invalidate(&self, invalidation: &Invalidation) -> Answer<Result<(), Error>> {
        self.far.invalidate(invalidation)
    }

    fn sweep(&self, pattern: &str) -> Answer<Result<u64, Error>> {
        let near = match self.near.sweep(pattern) {
            Answer::Ready(near) => near.unwrap_or_default(),
            Answer::Pending(_) => 0,
        };
        // What lies near is a copy of what lies far, where both are well.
        self.far.sweep(pattern).map(move |far| far.map(|far| far.max(near)))
    }

    fn listen(&self, listener: Listener) {
        self.near.listen(listener.clone());
        self.far.listen(listener.clone().behind(self.near.clone()));
        // The first layer that is built around it.
        drop(self.listener.set(listener));
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Levels").finish_non_exhaustive()
    }
}

/// Well where either is: what lies in one level can be served.
fn either(near: Answer<Done>, far: Answer<Done>) -> Answer<Done> {
    combine(near, far, |near, far| near.or(far))
}

/// Well where both are.
fn both(near: Answer<Done>, far: Answer<Done>) -> Answer<Done> {
    combine(near, far, Result::and)
}

fn combine(near: Answer<Done>, far: Answer<Done>, join: fn(Done, Done) -> Done) -> Answer<Done> {
    match near {
        Answer::Ready(near) => far.map(move |far| join(near, far)),
        Answer::Pending(near) => Answer::Pending(Box::pin(async move {
            let far = far.await;
            join(near.await, far)
        })),
    }
}

/// Every answer, in order; the first error where there is one.
pub(super) fn all<T: Send + 'static>(answers: Vec<Answer<Result<T, Error>>>) -> Answer<Result<Vec<T>, Error>> {
    if answers.iter().all(|answer| matches!(answer, Answer::Ready(_))) {
        let ready = answers.into_iter().filter_map(|answer| match answer {
            Answer::Ready(answer) => Some(answer),
            Answer::Pending(_) => None,
        });
        return Answer::Ready(ready.collect());
    }
    Answer::Pending(Box::pin(async move {
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            all.push(answer.await?);
        }
        Ok(all)
    }))
}
