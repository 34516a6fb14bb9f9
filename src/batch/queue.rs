//! Queue of the batch being filled.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::sync::oneshot;

use super::error::BatchError;

/// Result that a caller receives.
pub(super) type BatchResult<V, E> = Result<Option<V>, BatchError<E>>;

/// Key with the callers that wait for its value.
pub(super) struct WaitingKey<K, V, E> {
    pub(super) key: K,
    pub(super) callers: Vec<oneshot::Sender<BatchResult<V, E>>>,
}

impl<K, V: Clone, E> WaitingKey<K, V, E> {
    /// Whether a caller is still waiting.
    pub(super) fn has_callers(&self) -> bool {
        self.callers.iter().any(|caller| !caller.is_closed())
    }

    /// Replies to all callers; those that have left are skipped.
    pub(super) fn reply(self, result: &BatchResult<V, E>) {
        for caller in self.callers {
            drop(caller.send(result.clone()));
        }
    }
}

/// Action required of a new caller.
pub(super) enum CallerAction<K, V, E> {
    /// None: another caller sends the batch.
    None,
    /// Send the batch with this number after the delay.
    StartTimer(u64),
    /// Send this batch now.
    Send(Vec<WaitingKey<K, V, E>>),
}

/// The batch being filled.
pub(super) struct BatchQueue<K, V, E> {
    number: u64,
    positions: HashMap<K, usize>,
    keys: Vec<WaitingKey<K, V, E>>,
}

impl<K, V, E> Default for BatchQueue<K, V, E> {
    fn default() -> Self {
        Self { number: 0, positions: HashMap::new(), keys: Vec::new() }
    }
}

impl<K: Eq + Hash + Clone, V, E> BatchQueue<K, V, E> {
    /// Adds a caller's key to the batch.
    pub(super) fn add(
        &mut self,
        key: K,
        caller: oneshot::Sender<BatchResult<V, E>>,
        most: usize,
    ) -> CallerAction<K, V, E> {
        if let Some(position) = self.positions.get(&key) {
            self.keys[*position].callers.push(caller);
            return CallerAction::None;
        }
        self.positions.insert(key.clone(), self.keys.len());
        self.keys.push(WaitingKey { key, callers: vec![caller] });
        match self.keys.len() {
            length if length >= most => CallerAction::Send(self.take_batch()),
            1 => CallerAction::StartTimer(self.number),
            _ => CallerAction::None,
        }
    }

    /// Returns the batch with this number, unless it has been sent.
    pub(super) fn take_due(&mut self, number: u64) -> Option<Vec<WaitingKey<K, V, E>>> {
        (self.number == number).then(|| self.take_batch())
    }

    fn take_batch(&mut self) -> Vec<WaitingKey<K, V, E>> {
        self.number += 1;
        self.positions.clear();
        std::mem::take(&mut self.keys)
    }
}
