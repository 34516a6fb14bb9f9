//! Look-ups of many keys: one round trip per level of the store, then loads of the missing values.

use std::future::Future;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cached::{Cached, TypedLookup};
use super::key::KeyPart;
use super::load;
use super::loaded::{LoadError, Loaded};
use crate::base::error::Error;
use crate::base::mode::Mode;
use crate::cache::engine::typed_value::TypedValue;
use crate::cache::http::key::CacheKey;

impl<V> Cached<V>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Returns the values under these keys, in order, that may be served without a load. Takes one round trip per level
    /// of the store.
    ///
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// users.put(1, "Ada".to_owned()).await?;
    /// let found = users.get_many([1, 2]).await;
    /// assert_eq!((found[0].is_some(), found[1].is_some()), (true, false));
    /// # Ok(()) }
    /// ```
    pub async fn get_many<K: KeyPart>(&self, keys: impl IntoIterator<Item = K>) -> Vec<Option<Arc<V>>> {
        let keys: Vec<CacheKey> = keys.into_iter().map(|key| self.key(&key)).collect();
        if self.namespace.mode.get() == Mode::Off {
            return vec![None; keys.len()];
        }
        let entries = self.lookup_many(&keys).await;
        keys.iter().zip(entries).map(|(key, entry)| self.serve_cached(key, entry)).collect()
    }

    /// Returns the values under these keys, in order. Missing ones are loaded by one call of `load` each, with bounded
    /// [concurrency](super::CachedBuilder::concurrency), and stored.
    ///
    /// The store is queried once. Loads are shared and fail per key, as in [`get_or_load`](Self::get_or_load). A
    /// [`Batcher`](crate::Batcher) combines them into one call:
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use std::convert::Infallible;
    /// use tollgate::Batcher;
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // SELECT id, name FROM users WHERE id = ANY($1)
    /// let bulk = Batcher::new(|ids: Vec<u64>| async move {
    ///     Ok::<HashMap<u64, String>, Infallible>(ids.into_iter().map(|id| (id, format!("user {id}"))).collect())
    /// });
    /// let users: Cached<Option<String>> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// users.put(1, Some("Ada".to_owned())).await?;
    ///
    /// let batcher = bulk.clone();
    /// let found = users.get_or_load_many([1, 2, 3], move |id| batcher.get(id)).await;
    /// let names: Vec<_> = found.into_iter().map(|user| user.unwrap().as_deref().map(str::to_owned)).collect();
    /// assert_eq!(names, [Some("Ada".to_owned()), Some("user 2".to_owned()), Some("user 3".to_owned())]);
    /// assert_eq!((bulk.stats().calls, bulk.stats().keys), (1, 2)); // only the missing keys
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If a load panics. Outside of a tokio runtime.
    pub async fn get_or_load_many<K, F, Fut, L, E>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: F,
    ) -> Vec<Result<Arc<V>, LoadError<E>>>
    where
        K: KeyPart + Send + 'static,
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let keys: Vec<K> = keys.into_iter().collect();
        let encoded: Vec<CacheKey> = keys.iter().map(|key| self.key(key)).collect();
        let entries = self.lookup_many(&encoded).await;
        let (load, now) = (Arc::new(load), self.namespace.engine.clock.now());
        let on = self.namespace.mode.get() == Mode::On;
        let (mut results, mut jobs) = (Vec::with_capacity(keys.len()), Vec::new());
        for ((key, encoded), entry) in keys.into_iter().zip(encoded).zip(entries) {
            match self.classify(&encoded, entry, now) {
                TypedLookup::Value(value, entry) if on => {
                    self.namespace.counters.hit(entry.meta.took);
                    results.push(Some(Ok(value)));
                }
                found => {
                    let (at, cached, load) = (results.len(), self.clone(), load.clone());
                    results.push(None);
                    jobs.push(
                        async move { (at, load::serve_or_load(cached, encoded, found, move || load(key)).await) },
                    );
                }
            }
        }
        let mut loads = stream::iter(jobs).buffer_unordered(self.namespace.settings.concurrency);
        while let Some((at, result)) = loads.next().await {
            results[at] = Some(result);
        }
        results.into_iter().flatten().collect()
    }

    /// Stores these values like [`put`](Self::put), with the concurrency of loads.
    ///
    /// # Errors
    /// The first error; the remaining values are stored.
    ///
    /// # Examples
    /// ```
    /// use tollgate::cache::{Cached, DataCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let users: Cached<String> = DataCache::in_memory(1 << 20).cached("users").build()?;
    /// users.put_many([(1, "Ada".to_owned()), (2, "Grace".to_owned())]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn put_many<K, L>(&self, values: impl IntoIterator<Item = (K, L)>) -> Result<(), Error>
    where
        K: KeyPart,
        L: Into<Loaded<V>>,
    {
        let puts: Vec<_> = values.into_iter().map(|(key, value)| self.put(key, value)).collect();
        let done: Vec<Result<_, Error>> =
            stream::iter(puts).buffer_unordered(self.namespace.settings.concurrency).collect().await;
        done.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    /// Returns the entries of these keys from the first level that has one.
    pub(super) async fn lookup_many(&self, keys: &[CacheKey]) -> Vec<Option<Arc<TypedValue>>> {
        let now = self.namespace.engine.clock.now();
        let mut found = match self.namespace.engine.store.get_many(keys, now).await {
            Ok(found) => found,
            Err(error) => {
                self.namespace.store_failed(&error);
                Vec::new()
            }
        };
        // A user-supplied store may return fewer values.
        found.resize(keys.len(), None);
        keys.iter().zip(found).map(|(key, stored)| self.namespace.accept(key, Ok(stored))).collect()
    }
}

impl<V> Cached<V> {
    /// Counts a look-up as if it had been served, in shadow mode.
    pub(super) fn count_shadow_lookup(&self, found: &TypedLookup<V>) {
        let counters = &self.namespace.counters;
        match found {
            TypedLookup::Value(_, entry) => counters.hit(entry.meta.took),
            TypedLookup::BudgetStretched(_, entry) => counters.budget_stretched(entry.meta.took),
            TypedLookup::RefreshDue(_, entry) => counters.stale(entry.meta.took),
            TypedLookup::Expired(..) | TypedLookup::Miss | TypedLookup::Invalidated => {}
        }
    }
}
