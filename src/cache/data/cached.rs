//! [`Cached`]: the handle to a namespace of typed values.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::invalidate::DataInvalidate;
use super::key::{self, KeyPart};
use super::loaded::{LoadError, Loaded};
use super::namespace::{LoadedValue, Namespace};
use super::stats::{DataStats, count};
use super::{load, record, shape};
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::base::mode::Switch;
use crate::cache::engine::record::{Blocks, Entry};
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::Freshness;
use crate::cache::http::stored_head::LogPosition;

/// Typed values by key: looked up, or loaded once. Clones share them.
///
/// ```
/// use std::time::Duration;
/// use tollgate::cache::{Cached, DataCache};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # async fn ask_github(name: &str) -> std::io::Result<u64> { Ok(name.len() as u64) }
/// let data = DataCache::in_memory(64 << 20);
/// let stars: Cached<u64> = data.cached("github").ttl(Duration::from_secs(900)).build()?;
///
/// for _ in 0..3 {
///     let found = stars.get_or_load(("stars", "rust-lang/rust"), || ask_github("rust-lang/rust")).await?;
///     assert_eq!(*found, 14);
/// }
/// assert_eq!((stars.stats().loads, stars.stats().avoided), (1, 2));
/// # Ok(()) }
/// ```
///
/// What it does in which case is told in [`cache`](crate::cache#typed-values).
pub struct Cached<V> {
    pub(super) space: Arc<Namespace>,
    pub(super) weigh: Option<SizeOf<V>>,
}

/// How many bytes a value takes in memory.
pub(super) type SizeOf<V> = Arc<dyn Fn(&V) -> usize + Send + Sync>;

/// Result of a look-up.
pub(super) enum TypedLookup<V> {
    /// A value to be served.
    Value(Arc<V>, Arc<Entry>),
    /// An expired value to be served all the same, since a budget runs low.
    BudgetStretched(Arc<V>, Arc<Entry>),
    /// A value to be served, and refreshed meanwhile.
    Old(Arc<V>, Arc<Entry>),
    /// A value to be served only where a load fails or takes long.
    Expired(Arc<V>, Arc<Entry>),
    /// None.
    Nothing,
}

impl<V> Cached<V>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The value under this key; loaded, and kept, where it is not there.
    ///
    /// A fresh value costs a look-up: `load` is not called, nothing is cloned and nothing decoded. Of all that ask for
    /// what is not there one loads, in a task of its own: a caller who leaves cancels nothing. See the
    /// [table](crate::cache#typed-values) for what happens when.
    ///
    /// # Errors
    /// What the load says, where it fails; [`LoadError::TimedOut`], where it takes longer than the hard time-out. In
    /// both
    /// cases only if no stale value may stand in.
    ///
    /// # Panics
    /// Where the load panics, in the caller whose load it is. Outside of a tokio runtime.
    pub async fn get_or_load<K, F, Fut, L, E>(&self, key: K, load: F) -> Result<Arc<V>, LoadError<E>>
    where
        K: KeyPart,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>> + Send + 'static,
        E: Send + 'static,
    {
        let key = self.key(&key);
        let now = self.space.engine.clock.now();
        let found = match self.space.engine.store.get(&key, now) {
            MaybeReady::Ready(stored) => self.found(&key, self.space.accept(&key, stored), now),
            MaybeReady::Pending(stored) => {
                let entry = self.space.accept(&key, stored.await);
                self.found(&key, entry, now)
            }
        };
        match found {
            TypedLookup::Value(value, entry) if self.space.switch.get() == Switch::On => {
                self.space.counters.hit(entry.meta.took);
                Ok(value)
            }
            found => Box::pin(load::go(self.clone(), key, found, load)).await,
        }
    }

    /// The value under this key, where there is one that may be served without a load.
    pub async fn get<K: KeyPart>(&self, key: K) -> Option<Arc<V>> {
        let key = self.key(&key);
        if self.space.switch.get() == Switch::Off {
            return None;
        }
        let entry = self.look(&key).await;
        self.served(&key, entry)
    }

    /// Keeps a value that was not loaded here, as long as a loaded one.
    ///
    /// A load that is under way in this process does not undo it. Another process goes on serving a copy it holds,
    /// until
    /// that expires: [`remove`](Self::remove) first where that matters.
    ///
    /// # Errors
    /// Where it cannot be kept: no level of the store took it, it cannot be written, has no life, or a tag that cannot
    /// be
    /// one. What lay there before may still be served.
    pub async fn put<K: KeyPart>(&self, key: K, value: impl Into<Loaded<V>>) -> Result<Arc<V>, Error> {
        let key = self.key(&key);
        let (asked, began) = (self.space.engine.clock.now(), self.space.engine.log_position());
        let (value, entry) = self.made(&key, value.into(), asked, began);
        let entry = entry?;
        self.space.fit(&entry)?;
        self.space.fetches.remove(&key, None);
        self.space.put(&entry).await.map(|()| value)
    }

    /// Forgets a key, in every process. A load that is under way anywhere does not bring it back.
    ///
    /// # Errors
    /// Where other processes could not be told; it binds in this one all the same.
    pub async fn remove<K: KeyPart>(&self, key: K) -> Result<(), Error> {
        let encoded = self.key(&key);
        self.invalidate().key(key).await?;
        self.space.engine.store.remove(&encoded).await
    }

    /// The handle to take values back with. Cheap to clone; works from anywhere.
    pub fn invalidate(&self) -> DataInvalidate {
        DataInvalidate::new(self.space.clone())
    }

    /// Returns the statistics of this namespace.
    #[must_use]
    pub fn stats(&self) -> DataStats {
        self.space.stats()
    }

    /// Switches the namespace from now on. [`Off`](Switch::Off): every caller loads for itself, what is loaded is not
    /// kept,
    /// and nothing is found. [`Shadow`](Switch::Shadow): the same, while what is loaded is kept, and what could have
    /// been
    /// answered is counted as if it had been.
    pub fn switch(&self, switch: Switch) {
        self.space.switch.set(switch);
    }

    #[inline]
    pub(super) fn key<K: KeyPart + ?Sized>(&self, parts: &K) -> CacheKey {
        key::key(&self.space.beginning, parts)
    }

    /// Returns the entry of the key from the first level that has one.
    pub(super) async fn look(&self, key: &CacheKey) -> Option<Arc<Entry>> {
        let now = self.space.engine.clock.now();
        self.space.accept(key, self.space.engine.store.get(key, now).await)
    }

    /// Answers a look-up that loads nothing, and counts it; in the shadow it counts alone.
    pub(super) fn served(&self, key: &CacheKey, entry: Option<Arc<Entry>>) -> Option<Arc<V>> {
        let value = match self.found(key, entry, self.space.engine.clock.now()) {
            TypedLookup::Value(value, entry) => {
                self.space.counters.hit(entry.meta.took);
                Some(value)
            }
            TypedLookup::BudgetStretched(value, entry) => {
                self.space.counters.spared(entry.meta.took);
                Some(value)
            }
            TypedLookup::Old(value, entry) => {
                self.space.counters.stale(entry.meta.took);
                Some(value)
            }
            TypedLookup::Expired(..) | TypedLookup::Nothing => {
                count(&self.space.counters.misses);
                None
            }
        };
        value.filter(|_| self.space.switch.get() == Switch::On)
    }

    /// Returns the entry with its freshness.
    #[inline]
    pub(super) fn found(&self, key: &CacheKey, entry: Option<Arc<Entry>>, now: Timestamp) -> TypedLookup<V> {
        let Some(entry) = entry else { return TypedLookup::Nothing };
        let freshness = self.space.freshness(key, &entry, now);
        if freshness == Freshness::Unusable {
            return TypedLookup::Nothing;
        }
        let Some(value) = self.value(&entry) else { return TypedLookup::Nothing };
        match freshness {
            Freshness::Fresh => TypedLookup::Value(value, entry),
            Freshness::BudgetStretched => TypedLookup::BudgetStretched(value, entry),
            Freshness::RefreshAhead | Freshness::StaleWhileRevalidate => TypedLookup::Old(value, entry),
            Freshness::Stale { .. } | Freshness::Unusable => TypedLookup::Expired(value, entry),
        }
    }

    /// The entry's value: read from its bytes the first time, shared afterwards.
    #[inline]
    pub(super) fn value(&self, entry: &Entry) -> Option<Arc<V>> {
        match entry.typed.value.get() {
            Some(read) => self.checked(read),
            None => self.read(entry),
        }
    }

    /// A value that was read as this version, where it is one of ours.
    #[inline]
    fn checked(&self, (version, value): &(u32, Arc<dyn Any + Send + Sync>)) -> Option<Arc<V>> {
        let ours = if *version == self.space.stamp.version { value.clone().downcast().ok() } else { None };
        if ours.is_none() {
            count(&self.space.counters.decode_errors);
        }
        ours
    }

    #[cold]
    fn read(&self, entry: &Entry) -> Option<Arc<V>> {
        let bytes = match &entry.body.blocks {
            Blocks::One(bytes) => bytes,
            Blocks::Many(_) => return None,
        };
        let Some(value) = record::open::<V>(bytes, self.space.stamp) else {
            count(&self.space.counters.decode_errors);
            return None;
        };
        // Two may read at the same time: the first stands.
        self.checked(entry.typed.value.get_or_init(|| (self.space.stamp.version, Arc::new(value))))
    }

    /// A loaded value, and its entry, unless it cannot be written for other processes.
    pub(super) fn made(
        &self,
        key: &CacheKey,
        loaded: Loaded<V>,
        asked: Timestamp,
        began: LogPosition,
    ) -> (Arc<V>, Result<Arc<Entry>, Error>) {
        let Loaded { value, ttl, tags } = loaded;
        // What cannot be written for others cannot be seen through either: its size is all that is known of it.
        let (shape, weight) = shape::of(&value).unwrap_or((0, size_of::<V>()));
        let weight = self.weigh.as_ref().map_or(weight, |weigh| weigh(&value));
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let sealed = match self.space.engine.in_process {
            true => Ok(Bytes::new()),
            false => {
                record::seal(&value, self.space.stamp, weight, shape).map_err(|error| self.space.unwritable(error))
            }
        };
        let value = Arc::new(value);
        let entry = sealed.map(|sealed| {
            let fresh = LoadedValue { value: value.clone(), weight, sealed, ttl, tags, asked, began };
            Arc::new(self.space.entry(key, fresh))
        });
        (value, entry)
    }
}

impl<V> Clone for Cached<V> {
    fn clone(&self) -> Self {
        Self { space: self.space.clone(), weigh: self.weigh.clone() }
    }
}

impl<V> fmt::Debug for Cached<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("name", &self.space.name).finish_non_exhaustive()
    }
}
