//! One batch on its way: asked for together, halved where that fails.

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

/// The user's bulk call.
pub(super) type Bulk<K, V, E> = Box<dyn Fn(Vec<K>) -> BoxFuture<Result<HashMap<K, V>, E>> + Send + Sync>;

/// Keys of one failed call.
type Failed<K, V, E> = (Vec<WaitingKey<K, V, E>>, E);

impl<K, V, E> BatcherShared<K, V, E>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    /// Asks for a batch, and answers everybody who waits.
    pub(super) async fn run(&self, batch: Vec<WaitingKey<K, V, E>>) {
        let mut groups = vec![batch];
        let mut splits = self.settings.splits;
        while !groups.is_empty() {
            let failed = join_all(groups.drain(..).map(|group| self.ask(group))).await;
            for (mut group, error) in failed.into_iter().flatten() {
                if group.len() > 1 && splits >= 2 {
                    splits -= 2;
                    let second = group.split_off(group.len() / 2);
                    groups.extend([group, second]);
                } else {
                    let error = Err(BatchError::Failed(Arc::new(error)));
                    group.into_iter().for_each(|asked| asked.tell(&error));
                }
            }
        }
    }

    /// Makes one call. Answers the callers of keys it returned; returns the keys it failed for.
    async fn ask(&self, mut group: Vec<WaitingKey<K, V, E>>) -> Option<Failed<K, V, E>> {
        group.retain(WaitingKey::is_wanted);
        if group.is_empty() {
            return None;
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.keys.fetch_add(group.len() as u64, Ordering::Relaxed);
        let keys = group.iter().map(|asked| asked.key.clone()).collect();
        // Also where it panics before its first await.
        let call = AssertUnwindSafe(async { (self.bulk)(keys).await }).catch_unwind();
        match call.await {
            Ok(Ok(mut found)) => {
                for asked in group {
                    let value = found.remove(&asked.key);
                    asked.tell(&Ok(value));
                }
                None
            }
            Ok(Err(error)) => Some((group, error)),
            Err(_) => {
                group.into_iter().for_each(|asked| asked.tell(&Err(BatchError::Broken)));
                None
            }
        }
    }
}
