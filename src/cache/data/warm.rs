//! Warm-up: loads many values in advance, with bounded concurrency.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::cached::{Cached, TypedLookup};
use super::key::KeyPart;
use super::load;
use super::loaded::Loaded;

/// Number of keys per query of the store.
const CHUNK: usize = 100;

/// Limits of a warm-up. Defaults to eight concurrent loads without a rate limit.
///
/// ```
/// use tollgate::cache::WarmUpLimits;
///
/// let gentle = WarmUpLimits::default().concurrency(2).per_second(10);
/// # let _ = gentle;
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct WarmUpLimits {
    concurrency: usize,
    per_second: Option<u32>,
}

impl Default for WarmUpLimits {
    fn default() -> Self {
        Self { concurrency: 8, per_second: None }
    }
}

impl WarmUpLimits {
    /// Sets the number of concurrent loads; at least one.
    ///
    /// ```
    /// use tollgate::cache::WarmUpLimits;
    ///
    /// let limits = WarmUpLimits::default().concurrency(2);
    /// # let _ = limits;
    /// ```
    pub fn concurrency(mut self, loads: usize) -> Self {
        self.concurrency = loads.max(1);
        self
    }

    /// Sets the maximum number of loads per second, evenly spaced; at least one.
    ///
    /// ```
    /// use tollgate::cache::WarmUpLimits;
    ///
    /// let limits = WarmUpLimits::default().per_second(10);
    /// # let _ = limits;
    /// ```
    pub fn per_second(mut self, loads: u32) -> Self {
        self.per_second = Some(loads.max(1));
        self
    }
}

/// Result of a warm-up.
///
/// ```
/// use tollgate::cache::WarmUpReport;
///
/// fn is_complete(report: &WarmUpReport) -> bool {
///     report.failed == 0
/// }
/// # let _ = is_complete;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmUpReport {
    /// Keys with a stored value.
    pub known: u64,
    /// Keys whose value was loaded.
    pub loaded: u64,
    /// Keys whose load failed.
    pub failed: u64,
}

impl<V> Cached<V>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Loads the missing values of these keys within the limits. The keys are consumed lazily and may be many.
    ///
    /// ```
    /// use tollgate::cache::{Cached, DataCache, WarmUpLimits};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let squares: Cached<u64> = DataCache::in_memory(1 << 20).cached("squares").build()?;
    /// squares.put(3, 9_u64).await?;
    /// let load = |n: u64| async move { Ok::<_, std::convert::Infallible>(n * n) };
    /// let warmed = squares.warm(1..=10_u64, load, WarmUpLimits::default().per_second(1_000)).await;
    /// assert_eq!((warmed.known, warmed.loaded), (1, 9));
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If a load panics. Outside of a tokio runtime with time enabled.
    pub async fn warm<K, F, Fut, L, E>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: F,
        limits: WarmUpLimits,
    ) -> WarmUpReport
    where
        K: KeyPart + Send + 'static,
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let loading = Arc::new(load);
        let ticks = limits.per_second.map(|loads| Mutex::new(interval_of(Duration::from_secs(1) / loads)));
        let mut warmed = WarmUpReport::default();
        let mut keys = keys.into_iter();
        loop {
            let chunk: Vec<K> = keys.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return warmed;
            }
            let requested = chunk.len() as u64;
            let stored = self.known(&chunk).await;
            let missing: Vec<K> =
                chunk.into_iter().zip(stored).filter(|(_, stored)| !stored).map(|(key, _)| key).collect();
            warmed.known += requested - missing.len() as u64;
            let loads: Vec<_> = missing
                .into_iter()
                .map(|key| {
                    let (load_one, ticks) = (loading.clone(), &ticks);
                    async move {
                        if let Some(ticks) = ticks {
                            ticks.lock().await.tick().await;
                        }
                        let encoded = self.key(&key);
                        load::serve_or_load(self.clone(), encoded, TypedLookup::Miss, move || load_one(key)).await
                    }
                })
                .collect();
            let mut loads = stream::iter(loads).buffer_unordered(limits.concurrency);
            while let Some(done) = loads.next().await {
                *if done.is_ok() { &mut warmed.loaded } else { &mut warmed.failed } += 1;
            }
        }
    }

    /// Returns which of these keys have a value that may be served, without counting look-ups.
    async fn known<K: KeyPart>(&self, keys: &[K]) -> Vec<bool> {
        let encoded: Vec<_> = keys.iter().map(|key| self.key(key)).collect();
        let now = self.namespace.engine.clock.now();
        let stored =
            |key, entry| !matches!(self.classify(key, entry, now), TypedLookup::Expired(..) | TypedLookup::Miss);
        encoded.iter().zip(self.lookup_many(&encoded).await).map(|(key, entry)| stored(key, entry)).collect()
    }
}

fn interval_of(span: Duration) -> Interval {
    let mut ticks = interval(span.max(Duration::from_nanos(1)));
    // A delayed load is not followed by a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
