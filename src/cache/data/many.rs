//! Many keys at a time: one round trip for each level of the store, then only what is missing.

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
use crate::base::mode::Switch;
use crate::cache::engine::record::Entry;
use crate::cache::http::key::CacheKey;

impl<V> Cached<V>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The values under these keys, in their order, where there are any that may be served without a load. The store is
    /// asked once: one round trip for each of its levels.
    pub async fn get_many<K: KeyPart>(&self, keys: impl IntoIterator<Item = K>) -> Vec<Option<Arc<V>>> {
        let keys: Vec<CacheKey> = keys.into_iter().map(|key| self.key(&key)).collect();
        if self.space.switch.get() == Switch::Off {
            return vec![None; keys.len()];
        }
        let entries = self.look_many(&keys).await;
        keys.iter().zip(entries).map(|(key, entry)| self.served(key, entry)).collect()
    }

    /// The values under these keys, in their order; those that are not there are loaded, by one call of `load` each, so
    /// many [at a time](super::CachedBuilder::parallel), and kept.
    ///
    /// The store is asked once. Each key's load is shared, and fails, as if it had been asked for alone
    /// ([`get_or_load`](Self::get_or_load)). A [`Batcher`](crate::Batcher) makes one call of them:
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
    /// let asked = bulk.clone();
    /// let found = users.get_or_load_many([1, 2, 3], move |id| asked.get(id)).await;
    /// let names: Vec<_> = found.into_iter().map(|user| user.unwrap().as_deref().map(str::to_owned)).collect();
    /// assert_eq!(names, [Some("Ada".to_owned()), Some("user 2".to_owned()), Some("user 3".to_owned())]);
    /// assert_eq!((bulk.stats().calls, bulk.stats().keys), (1, 2)); // only the missing, together
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// Where a load panics. Outside of a tokio runtime.
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
        E: Send + 'static,
    {
        let keys: Vec<K> = keys.into_iter().collect();
        let encoded: Vec<CacheKey> = keys.iter().map(|key| self.key(key)).collect();
        let entries = self.look_many(&encoded).await;
        let (load, now) = (Arc::new(load), self.space.engine.clock.now());
        let on = self.space.switch.get() == Switch::On;
        let (mut answers, mut jobs) = (Vec::with_capacity(keys.len()), Vec::new());
        for ((key, encoded), entry) in keys.into_iter().zip(encoded).zip(entries) {
            match self.found(&encoded, entry, now) {
                TypedLookup::Value(value, entry) if on => {
                    self.space.counters.hit(entry.meta.took);
                    answers.push(Some(Ok(value)));
                }
                found => {
                    let (at, cached, load) = (answers.len(), self.clone(), load.clone());
                    answers.push(None);
                    jobs.push(async move { (at, load::go(cached, encoded, found, move || load(key)).await) });
                }
            }
        }
        let mut loads = stream::iter(jobs).buffer_unordered(self.space.settings.parallel);
        while let Some((at, answer)) = loads.next().await {
            answers[at] = Some(answer);
        }
        answers.into_iter().flatten().collect()
    }

    /// Keeps these values, as [`put`](Self::put) does each, so many at a time as loads.
    ///
    /// # Errors
    /// The first of those that could not be kept; the others are.
    pub async fn put_many<K, L>(&self, values: impl IntoIterator<Item = (K, L)>) -> Result<(), Error>
    where
        K: KeyPart,
        L: Into<Loaded<V>>,
    {
        let puts: Vec<_> = values.into_iter().map(|(key, value)| self.put(key, value)).collect();
        let done: Vec<Result<_, Error>> =
            stream::iter(puts).buffer_unordered(self.space.settings.parallel).collect().await;
        done.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    /// What lies under these keys now, wherever that is.
    pub(super) async fn look_many(&self, keys: &[CacheKey]) -> Vec<Option<Arc<Entry>>> {
        let now = self.space.engine.clock.now();
        let mut found = match self.space.engine.store.get_many(keys, now).await {
            Ok(found) => found,
            Err(error) => {
                self.space.store_failed(&error);
                Vec::new()
            }
        };
        // A store of somebody's own may answer too little.
        found.resize(keys.len(), None);
        keys.iter().zip(found).map(|(key, stored)| self.space.accept(key, Ok(stored))).collect()
    }
}

impl<V> Cached<V> {
    /// Counts what would have been served, while the namespace only looks.
    pub(super) fn would_serve(&self, found: &TypedLookup<V>) {
        let counters = &self.space.counters;
        match found {
            TypedLookup::Value(_, entry) => counters.hit(entry.meta.took),
            TypedLookup::BudgetStretched(_, entry) => counters.spared(entry.meta.took),
            TypedLookup::Old(_, entry) => counters.stale(entry.meta.took),
            TypedLookup::Expired(..) | TypedLookup::Nothing => {}
        }
    }
}
