//! [`BatcherBuilder`]: size and delay of batches, and retries.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use super::batcher::Batcher;
use super::call::BulkFn;

/// Builder for [`Batcher`].
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
    /// Sets how long the first key of a batch waits for others. Defaults to 2 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::Batcher;
    ///
    /// let builder = Batcher::builder().delay(Duration::from_millis(1));
    /// # let _ = builder;
    /// ```
    pub fn delay(mut self, span: Duration) -> Self {
        self.delay = span;
        self
    }

    /// Sets the maximum number of keys per call; at least one. Defaults to 100.
    ///
    /// ```
    /// use tollgate::Batcher;
    ///
    /// let builder = Batcher::builder().max_keys(500);
    /// # let _ = builder;
    /// ```
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys.max(1);
        self
    }

    /// Sets the maximum number of additional calls after a failed one. The batch is split in halves to isolate the
    /// failing key. Defaults to 16, enough to isolate one of a hundred; with 0 all callers of the batch get the error.
    ///
    /// ```
    /// use tollgate::Batcher;
    ///
    /// let squares = Batcher::builder()
    ///     .splits(0)
    ///     .build(|keys: Vec<u64>| async move { Ok::<_, std::io::Error>(keys.into_iter().map(|n| (n, n * n))) });
    /// # let _ = squares;
    /// ```
    pub fn splits(mut self, calls: usize) -> Self {
        self.splits = calls;
        self
    }

    /// Builds the batcher; `call` returns the values of these keys.
    ///
    /// ```
    /// use tollgate::Batcher;
    ///
    /// let squares = Batcher::builder()
    ///     .build(|keys: Vec<u64>| async move { Ok::<_, std::io::Error>(keys.into_iter().map(|n| (n, n * n))) });
    /// # let _ = squares;
    /// ```
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
        let bulk: BulkFn<K, V, E> = Box::new(move |keys| {
            let result = call(keys);
            Box::pin(async move { result.await.map(|found| found.into_iter().collect::<HashMap<K, V>>()) })
        });
        Batcher::new_with(self, bulk)
    }
}
