//! [`Batcher`]: handle to batched calls.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use serde::Serialize;
use tokio::sync::oneshot;

use super::builder::BatcherBuilder;
use super::call::BulkFn;
use super::error::BatchError;
use super::queue::{BatchQueue, BatchResult, CallerAction};
use crate::base::lock::Mutex;

/// Batches concurrent requests for single keys into bulk calls. Clones share the batch.
///
/// ```
/// use std::collections::HashMap;
/// use tollgate::Batcher;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let prices = Batcher::new(|symbols: Vec<&'static str>| async move {
///     // GET /quotes?symbols=ACME,EVIL
///     Ok::<_, std::io::Error>(HashMap::from([("ACME", 42), ("EVIL", 7)]))
/// });
/// let (acme, evil, none) = tokio::join!(prices.get("ACME"), prices.get("EVIL"), prices.get("GONE"));
/// assert_eq!((acme?, evil?, none?), (Some(42), Some(7), None));
/// assert_eq!((prices.stats().requests, prices.stats().calls), (3, 1));
/// # Ok(()) }
/// ```
pub struct Batcher<K, V, E> {
    shared: Arc<BatcherShared<K, V, E>>,
}

pub(super) struct BatcherShared<K, V, E> {
    pub(super) settings: BatcherBuilder,
    pub(super) bulk: BulkFn<K, V, E>,
    queue: Mutex<BatchQueue<K, V, E>>,
    requests: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) keys: AtomicU64,
}

/// Statistics of a [`Batcher`] since it was built.
///
/// ```
/// use tollgate::Batcher;
///
/// let squares =
///     Batcher::new(|keys: Vec<u64>| async move { Ok::<_, std::io::Error>(keys.into_iter().map(|n| (n, n * n))) });
/// let stats = squares.stats();
/// assert_eq!((stats.requests, stats.calls, stats.keys), (0, 0, 0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BatchStats {
    /// Number of keys requested by callers.
    #[serde(rename = "requests_total")]
    pub requests: u64,
    /// Number of bulk calls.
    #[serde(rename = "calls_total")]
    pub calls: u64,
    /// Number of keys in these calls.
    #[serde(rename = "keys_total")]
    pub keys: u64,
}

impl Batcher<(), (), ()> {
    /// Returns a builder with all settings.
    ///
    /// ```
    /// use tollgate::Batcher;
    ///
    /// let squares = Batcher::builder()
    ///     .max_keys(500)
    ///     .build(|keys: Vec<u64>| async move { Ok::<_, std::io::Error>(keys.into_iter().map(|n| (n, n * n))) });
    /// # let _ = squares;
    /// ```
    pub fn builder() -> BatcherBuilder {
        BatcherBuilder::default()
    }
}

impl<K, V, E> Batcher<K, V, E>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    /// Creates a batcher that collects up to 100 keys for up to 2 ms. `call` returns the values of these keys.
    ///
    /// ```
    /// use tollgate::Batcher;
    ///
    /// let squares =
    ///     Batcher::new(|keys: Vec<u64>| async move { Ok::<_, std::io::Error>(keys.into_iter().map(|n| (n, n * n))) });
    /// # let _ = squares;
    /// ```
    #[must_use]
    pub fn new<F, Fut, M>(call: F) -> Self
    where
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<M, E>> + Send + 'static,
        M: IntoIterator<Item = (K, V)>,
    {
        BatcherBuilder::default().build(call)
    }

    pub(super) fn new_with(settings: BatcherBuilder, bulk: BulkFn<K, V, E>) -> Self {
        let zero = AtomicU64::default;
        let (queue, requests) = (Mutex::default(), zero());
        Self { shared: Arc::new(BatcherShared { settings, bulk, queue, requests, calls: zero(), keys: zero() }) }
    }

    /// Returns the key's value; `None` if the call returned none. The key is requested when the future is first polled;
    /// dropping it early cancels nothing for other callers.
    ///
    /// # Errors
    /// The call's error, if it failed for this key; [`BatchError::Panicked`] if it panicked.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time enabled.
    ///
    /// # Examples
    /// ```
    /// use tollgate::Batcher;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let squares =
    ///     Batcher::new(|keys: Vec<u64>| async move { Ok::<_, std::io::Error>(keys.into_iter().map(|n| (n, n * n))) });
    /// assert_eq!(squares.get(7).await?, Some(49));
    /// # Ok(()) }
    /// ```
    pub fn get(&self, key: K) -> impl Future<Output = BatchResult<V, E>> + Send + use<K, V, E> {
        let shared = self.shared.clone();
        async move {
            let (caller, result) = oneshot::channel();
            shared.requests.fetch_add(1, Ordering::Relaxed);
            let action = shared.queue().add(key, caller, shared.settings.max_keys);
            shared.spawn_batch(action);
            result.await.unwrap_or(Err(BatchError::Panicked))
        }
    }

    /// Returns the statistics.
    ///
    /// ```
    /// use tollgate::Batcher;
    ///
    /// let squares =
    ///     Batcher::new(|keys: Vec<u64>| async move { Ok::<_, std::io::Error>(keys.into_iter().map(|n| (n, n * n))) });
    /// assert_eq!(squares.stats().calls, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> BatchStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let BatcherShared { requests, calls, keys, .. } = &*self.shared;
        BatchStats { requests: read(requests), calls: read(calls), keys: read(keys) }
    }
}

impl<K, V, E> BatcherShared<K, V, E>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    /// Runs a batch in a detached task, outside the span and log of any single caller.
    fn spawn_batch(self: Arc<Self>, action: CallerAction<K, V, E>) {
        match action {
            CallerAction::None => {}
            CallerAction::StartTimer(number) => drop(tokio::spawn(async move {
                tokio::time::sleep(self.settings.delay).await;
                let take_due = self.queue().take_due(number);
                if let Some(batch) = take_due {
                    self.run(batch).await;
                }
            })),
            CallerAction::Send(batch) => drop(tokio::spawn(async move { self.run(batch).await })),
        }
    }
}

impl<K, V, E> BatcherShared<K, V, E> {
    fn queue(&self) -> MutexGuard<'_, BatchQueue<K, V, E>> {
        self.queue.lock()
    }
}

impl<K, V, E> Clone for Batcher<K, V, E> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K, V, E> fmt::Debug for Batcher<K, V, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}
