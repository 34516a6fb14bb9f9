//! [`Batcher`]: the handle.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use serde::Serialize;
use tokio::sync::oneshot;

use super::builder::BatcherBuilder;
use super::call::Bulk;
use super::error::BatchError;
use super::queue::{BatchAnswer, BatchQueue, CallerDuty};
use crate::base::lock::Mutex;

/// Asks for keys together that are asked for one by one. Clones share the batch.
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
/// assert_eq!((prices.stats().asked, prices.stats().calls), (3, 1));
/// # Ok(()) }
/// ```
pub struct Batcher<K, V, E> {
    shared: Arc<BatcherShared<K, V, E>>,
}

pub(super) struct BatcherShared<K, V, E> {
    pub(super) settings: BatcherBuilder,
    pub(super) bulk: Bulk<K, V, E>,
    queue: Mutex<BatchQueue<K, V, E>>,
    asked: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) keys: AtomicU64,
}

/// Statistics of a [`Batcher`] since it was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BatchStats {
    /// How often somebody asked for a key.
    pub asked: u64,
    /// How often the bulk call was made.
    pub calls: u64,
    /// How many keys these calls asked for, together.
    pub keys: u64,
}

impl Batcher<(), (), ()> {
    /// Everything that can be set.
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
    /// Collects for up to 2 ms or 100 keys, and asks by this call: for these keys, the values there are.
    #[must_use]
    pub fn new<F, Fut, M>(call: F) -> Self
    where
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<M, E>> + Send + 'static,
        M: IntoIterator<Item = (K, V)>,
    {
        BatcherBuilder::default().build(call)
    }

    pub(super) fn new_with(settings: BatcherBuilder, bulk: Bulk<K, V, E>) -> Self {
        let zero = AtomicU64::default;
        let (queue, asked) = (Mutex::default(), zero());
        Self { shared: Arc::new(BatcherShared { settings, bulk, queue, asked, calls: zero(), keys: zero() }) }
    }

    /// Returns the key's value; `None` if the call returned none. The key is requested when the future is first polled;
    /// dropping it early cancels nothing for other callers.
    ///
    /// # Errors
    /// What the call said, where it failed for this key; [`BatchError::Broken`] where it panicked.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time enabled.
    pub fn get(&self, key: K) -> impl Future<Output = BatchAnswer<V, E>> + Send + use<K, V, E> {
        let shared = self.shared.clone();
        async move {
            let (caller, answer) = oneshot::channel();
            shared.asked.fetch_add(1, Ordering::Relaxed);
            let duty = shared.queue().add(key, caller, shared.settings.max_keys);
            shared.take_up(duty);
            answer.await.unwrap_or(Err(BatchError::Broken))
        }
    }

    /// Returns the statistics.
    #[must_use]
    pub fn stats(&self) -> BatchStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let BatcherShared { asked, calls, keys, .. } = &*self.shared;
        BatchStats { asked: read(asked), calls: read(calls), keys: read(keys) }
    }
}

impl<K, V, E> BatcherShared<K, V, E>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    /// Runs a batch in its own task, without the span or log of any one caller.
    fn take_up(self: Arc<Self>, duty: CallerDuty<K, V, E>) {
        match duty {
            CallerDuty::None => {}
            CallerDuty::Watch(number) => drop(tokio::spawn(async move {
                tokio::time::sleep(self.settings.delay).await;
                let due = self.queue().due(number);
                if let Some(batch) = due {
                    self.run(batch).await;
                }
            })),
            CallerDuty::Send(batch) => drop(tokio::spawn(async move { self.run(batch).await })),
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
