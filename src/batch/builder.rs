//! [`BatcherBuilder`]: when a batch leaves, and how it is tried again.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use super::batcher::Batcher;
use super::call::Bulk;

/// Sets up a [`Batcher`].
///
/// ```
/// use std::time::Duration;
/// use tollgate::Batcher;
///
/// let squares = Batcher::builder()
///     .delay(Duration::from_millis(1))
///     .max_keys(500)
///     .build(|keys: Vec<u64>| async move { Ok::<_, std::io::Error>(keys.into_iter().map(|n| (n, n * n))) });
/// # let _ = squares;
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct BatcherBuilder {
    pub(super) delay: Duration,
    pub(super) max_keys: usize,
    pub(super) splits: usize,
}

impl Default for BatcherBuilder {
    fn default() -> Self {
        Self { delay: Duration::from_millis(2), max_keys: 100, splits: 16 }
    }
}

impl BatcherBuilder {
    /// How long the first of a batch waits for others. 2 ms unless set.
    pub fn delay(mut self, span: Duration) -> Self {
        self.delay = span;
        self
    }

    /// How many keys one call asks for; at least one. 100 unless set.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys.max(1);
        self
    }

    /// How many more calls a failed call may lead to, while it is halved to find the key that made it fail. 16 unless
    /// set, which isolates one among a hundred; with 0 its error is for all who were in the batch.
    pub fn splits(mut self, calls: usize) -> Self {
        self.splits = calls;
        self
    }

    /// A batcher that asks by this call: for these keys, the values there are.
    #[must_use]
    pub fn build<K, V, E, F, Fut, M>(self, call: F) -> Batcher<K, V, E>
    where
        K: Eq + Hash + Clone + Send + Sync + 'static,
        V: Clone + Send + 'static,
        E: Send + Sync + 'static,
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<M, E>> + Send + 'static,
        M: IntoIterator<Item = (K, V)>,
    {
        let bulk: Bulk<K, V, E> = Box::new(move |keys| {
            let answer = call(keys);
            Box::pin(async move { answer.await.map(|found| found.into_iter().collect::<HashMap<K, V>>()) })
        });
        Batcher::new_with(self, bulk)
    }
}
