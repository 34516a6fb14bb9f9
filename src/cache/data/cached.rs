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
use super::{encoding, load, value_size};
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::maybe_ready::MaybeReady;
use crate::base::mode::Mode;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::typed_value::TypedValue;
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::Freshness;
use crate::cache::http::record_meta::LogPosition;

/// Handle to a namespace of typed values, looked up or loaded by key. Clones share state.
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
/// The behaviour in each case is documented in [`cache`](crate::cache#typed-values).
pub struct Cached<V> {
    pub(super) namespace: Arc<Namespace>,
    pub(super) weigher: Option<WeightFn<V>>,
}

/// Computes the size of a value in memory, in bytes.
pub(super) type WeightFn<V> = Arc<dyn Fn(&V) -> usize + Send + Sync>;

/// Result of a look-up.
pub(super) enum TypedLookup<V> {
    /// A value to serve.
    Value(Arc<V>, Arc<TypedValue>),
    /// An expired value to serve because a budget runs low.
    BudgetStretched(Arc<V>, Arc<TypedValue>),
    /// A value to serve and to refresh in the background.
    RefreshDue(Arc<V>, Arc<TypedValue>),
    /// A value to serve only if a load fails or exceeds a timeout.
    Expired(Arc<V>, Arc<TypedValue>),
    /// A value that was invalidated.
    Invalidated,
    /// No value.
    Miss,
}

impl<V> Cached<V>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Returns the value under this key, loading and storing it if necessary.
    ///
    /// A fresh value costs a look-up: `load` is not called, and nothing is cloned or decoded. Concurrent callers share
    /// one load, which runs in a detached task, so that a caller that leaves does not cancel it. See the
    /// [table](crate::cache#typed-values) for all cases.
    ///
    /// # Errors
    /// The load's error, or [`LoadError::TimedOut`] if it exceeds the hard timeout; in both cases only if no stale
    /// value may be served.
    ///
    /// # Panics
    /// If the load panics, in the caller that triggered it. Outside of a tokio runtime.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// let user = users.get_or_load(7, || async { Ok::<_, std::io::Error>("Ada".to_owned()) }).await?;
    /// assert_eq!(*user, "Ada");
    /// # Ok(()) }
    /// ```
    pub async fn get_or_load<K, F, Fut, L, E>(&self, key: K, load: F) -> Result<Arc<V>, LoadError<E>>
    where
        K: KeyPart,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let key = self.key(&key);
        let now = self.namespace.engine.clock.now();
        let found = match self.namespace.engine.store.get(&key, now) {
            MaybeReady::Ready(stored) => self.classify(&key, self.namespace.accept(&key, stored), now),
            MaybeReady::Pending(stored) => {
                let entry = self.namespace.accept(&key, stored.await);
                self.classify(&key, entry, now)
            }
        };
        match found {
            TypedLookup::Value(value, entry) if self.namespace.mode.get() == Mode::On => {
                self.namespace.counters.hit(entry.meta.took);
                Ok(value)
            }
            found => Box::pin(load::serve_or_load(self.clone(), key, found, load)).await,
        }
    }

    /// Returns the value under this key if one may be served without a load.
    ///
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// assert!(users.get(7).await.is_none());
    /// # Ok(()) }
    /// ```
    pub async fn get<K: KeyPart>(&self, key: K) -> Option<Arc<V>> {
        let key = self.key(&key);
        if self.namespace.mode.get() == Mode::Off {
            return None;
        }
        let entry = self.lookup(&key).await;
        self.serve_cached(&key, entry)
    }

    /// Stores a value under this key, with the lifetime of a loaded one.
    ///
    /// A load under way in this process does not overwrite it. Other processes continue to serve their copies until
    /// those expire: call [`remove`](Self::remove) first if that matters.
    ///
    /// # Errors
    /// If the value cannot be stored: no level of the store accepted it, it cannot be serialized, its lifetime is zero,
    /// or a tag is malformed. A previous value may still be served.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// users.put(7, "Ada".to_owned()).await?;
    /// assert_eq!(users.get(7).await.as_deref().map(String::as_str), Some("Ada"));
    /// # Ok(()) }
    /// ```
    pub async fn put<K: KeyPart>(&self, key: K, value: impl Into<Loaded<V>>) -> Result<Arc<V>, Error> {
        let key = self.key(&key);
        let (requested_at, began) = (self.namespace.engine.clock.now(), self.namespace.engine.log_position());
        let (value, entry) = self.new_entry(&key, value.into(), requested_at, began);
        self.namespace.check_storable(&entry)?;
        self.namespace.check_encoded(&entry)?;
        self.namespace.fetches.remove(&key);
        self.namespace.put(&entry).await.map(|()| value)
    }

    /// Removes a key in every process. A load under way in any of them does not restore it.
    ///
    /// # Errors
    /// If other processes cannot be reached; the removal is effective in this one in any case.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// users.put(7, "Ada".to_owned()).await?;
    /// users.remove(7).await?;
    /// assert!(users.get(7).await.is_none());
    /// # Ok(()) }
    /// ```
    pub async fn remove<K: KeyPart>(&self, key: K) -> Result<(), Error> {
        self.invalidate().key(key).await
    }

    /// Returns the handle for invalidations. Cheap to clone.
    ///
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// users.invalidate().all().await?;
    /// # Ok(()) }
    /// ```
    pub fn invalidate(&self) -> DataInvalidate {
        DataInvalidate::new(self.namespace.clone())
    }

    /// Returns the statistics of this namespace.
    ///
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// assert_eq!(users.stats().hits, 0);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> DataStats {
        self.namespace.stats()
    }

    /// Changes the mode of the namespace. [`Off`](Mode::Off): every caller loads by itself, results are not stored, and look-ups
    /// miss. [`Shadow`](Mode::Shadow): the same, but results are stored, and look-ups are counted as if they had been
    /// served.
    ///
    /// ```
    /// use tollgate::Mode;
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// users.set_mode(Mode::Off);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn set_mode(&self, mode: Mode) {
        self.namespace.mode.set(mode);
    }

    #[inline]
    pub(super) fn key<K: KeyPart + ?Sized>(&self, parts: &K) -> CacheKey {
        key::key(&self.namespace.key_prefix, parts)
    }

    /// Returns the entry of the key from the first level that has one.
    pub(super) async fn lookup(&self, key: &CacheKey) -> Option<Arc<TypedValue>> {
        let now = self.namespace.engine.clock.now();
        self.namespace.accept(key, self.namespace.engine.store.get(key, now).await)
    }

    /// Serves a look-up without a load, and counts it; in shadow mode only counts it.
    pub(super) fn serve_cached(&self, key: &CacheKey, entry: Option<Arc<TypedValue>>) -> Option<Arc<V>> {
        let value = match self.classify(key, entry, self.namespace.engine.clock.now()) {
            TypedLookup::Value(value, entry) => {
                self.namespace.counters.hit(entry.meta.took);
                Some(value)
            }
            TypedLookup::BudgetStretched(value, entry) => {
                self.namespace.counters.budget_stretched(entry.meta.took);
                Some(value)
            }
            TypedLookup::RefreshDue(value, entry) => {
                self.namespace.counters.stale(entry.meta.took);
                Some(value)
            }
            TypedLookup::Expired(..) | TypedLookup::Miss | TypedLookup::Invalidated => {
                count(&self.namespace.counters.misses);
                None
            }
        };
        value.filter(|_| self.namespace.mode.get() == Mode::On)
    }

    /// Classifies an entry by its freshness.
    #[inline]
    pub(super) fn classify(&self, key: &CacheKey, entry: Option<Arc<TypedValue>>, now: Timestamp) -> TypedLookup<V> {
        let Some(entry) = entry else { return TypedLookup::Miss };
        let freshness = self.namespace.freshness(key, &entry, now);
        if freshness == Freshness::Unusable {
            let validity = self.namespace.engine.barriers.check(key, &entry.meta);
            return if validity == Validity::Void { TypedLookup::Invalidated } else { TypedLookup::Miss };
        }
        let Some(value) = self.value(&entry) else { return TypedLookup::Miss };
        match freshness {
            Freshness::Fresh => TypedLookup::Value(value, entry),
            Freshness::BudgetStretched => TypedLookup::BudgetStretched(value, entry),
            Freshness::RefreshAhead | Freshness::StaleWhileRevalidate => TypedLookup::RefreshDue(value, entry),
            Freshness::Stale { .. } | Freshness::Unusable => TypedLookup::Expired(value, entry),
        }
    }

    /// Returns the decoded value of an entry, decoding it on first use.
    #[inline]
    pub(super) fn value(&self, entry: &TypedValue) -> Option<Arc<V>> {
        match entry.value.get() {
            Some(read) => self.downcast(read),
            None => self.read(entry),
        }
    }

    /// Returns the decoded value if it has this version and type.
    #[inline]
    fn downcast(&self, (version, value): &(u32, Arc<dyn Any + Send + Sync>)) -> Option<Arc<V>> {
        let typed = if *version == self.namespace.stamp.version { value.clone().downcast().ok() } else { None };
        if typed.is_none() {
            count(&self.namespace.counters.decode_errors);
        }
        typed
    }

    #[cold]
    fn read(&self, entry: &TypedValue) -> Option<Arc<V>> {
        let Some(value) = encoding::decode::<V>(&entry.encoded, self.namespace.stamp) else {
            count(&self.namespace.counters.decode_errors);
            return None;
        };
        // Concurrent readers may decode at the same time: the first value is used.
        self.downcast(entry.value.get_or_init(|| (self.namespace.stamp.version, Arc::new(value))))
    }

    /// Creates the entry of a loaded value. A value that cannot be encoded for other processes stays in this one.
    pub(super) fn new_entry(
        &self,
        key: &CacheKey,
        loaded: Loaded<V>,
        requested_at: Timestamp,
        began: LogPosition,
    ) -> (Arc<V>, Arc<TypedValue>) {
        let Loaded { value, ttl, tags } = loaded;
        let weight = match &self.weigher {
            Some(weigher) => weigher(&value),
            None => value_size::of(&value),
        };
        let encoded = match self.namespace.engine.in_process {
            true => Bytes::new(),
            false => encoding::encode(&value, self.namespace.stamp).unwrap_or_else(|error| {
                self.namespace.report_unencodable(&error);
                Bytes::new()
            }),
        };
        let (value, weight) = (Arc::new(value), u32::try_from(weight).unwrap_or(u32::MAX));
        let loaded = LoadedValue { value: value.clone(), weight, encoded, ttl, tags, requested_at, began };
        (value, Arc::new(self.namespace.entry(key, loaded)))
    }
}

impl<V> Clone for Cached<V> {
    fn clone(&self) -> Self {
        Self { namespace: self.namespace.clone(), weigher: self.weigher.clone() }
    }
}

impl<V> fmt::Debug for Cached<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("name", &self.namespace.name).finish_non_exhaustive()
    }
}
