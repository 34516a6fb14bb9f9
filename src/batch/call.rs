//! Execution of a batch: one bulk call, split in halves if it fails.

use std::collections::HashMap;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::batcher::BatcherShared;
use super::error::BatchError;
use super::queue::WaitingKey;
use crate::base::maybe_ready::BoxFuture;

/// User-supplied bulk call.
pub(super) type BulkFn<K, V, E> = Box<dyn Fn(Vec<K>) -> BoxFuture<Result<HashMap<K, V>, E>> + Send + Sync>;

/// Keys of a failed call, and its error.
type Failed<K, V, E> = (Vec<WaitingKey<K, V, E>>, E);

impl<K, V, E> BatcherShared<K, V, E>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    /// Executes a batch, and replies to all callers.
    pub(super) async fn run(&self, batch: Vec<WaitingKey<K, V, E>>) {
        let mut groups = vec![batch];
        let mut splits = self.settings.splits;
        while !groups.is_empty() {
            let failed = join_all(groups.drain(..).map(|group| self.call_group(group))).await;
            for (mut group, error) in failed.into_iter().flatten() {
                if group.len() > 1 && splits >= 2 {
                    splits -= 2;
                    let second = group.split_off(group.len() / 2);
                    groups.extend([group, second]);
                } else {
                    let error = Err(BatchError::Failed(Arc::new(error)));
                    group.into_iter().for_each(|waiting| waiting.reply(&error));
                }
            }
        }
    }

    /// Makes one call. Replies to the callers of returned keys; returns the keys it failed for.
    async fn call_group(&self, mut group: Vec<WaitingKey<K, V, E>>) -> Option<Failed<K, V, E>> {
        group.retain(WaitingKey::has_callers);
        if group.is_empty() {
            return None;
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.keys.fetch_add(group.len() as u64, Ordering::Relaxed);
        let keys = group.iter().map(|waiting| waiting.key.clone()).collect();
        // Also catches panics before the first await.
        let call = AssertUnwindSafe(async { (self.bulk)(keys).await }).catch_unwind();
        match call.await {
            Ok(Ok(mut found)) => {
                for waiting in group {
                    let value = found.remove(&waiting.key);
                    waiting.reply(&Ok(value));
                }
                None
            }
            Ok(Err(error)) => Some((group, error)),
            Err(_) => {
                group.into_iter().for_each(|waiting| waiting.reply(&Err(BatchError::Panicked)));
                None
            }
        }
    }
}
