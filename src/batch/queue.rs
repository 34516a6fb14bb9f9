//! The batch that is being filled.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::sync::oneshot;

use super::error::BatchError;

/// Result that a caller receives.
pub(super) type BatchAnswer<V, E> = Result<Option<V>, BatchError<E>>;

/// Key with the callers that wait for its value.
pub(super) struct WaitingKey<K, V, E> {
    pub(super) key: K,
    pub(super) callers: Vec<oneshot::Sender<BatchAnswer<V, E>>>,
}

impl<K, V: Clone, E> WaitingKey<K, V, E> {
    /// Whether anybody waits still.
    pub(super) fn is_wanted(&self) -> bool {
        self.callers.iter().any(|caller| !caller.is_closed())
    }

    /// Tells all who wait. Who has left hears nothing.
    pub(super) fn tell(self, answer: &BatchAnswer<V, E>) {
        for caller in self.callers {
            drop(caller.send(answer.clone()));
        }
    }
}

/// Duty of a new caller.
pub(super) enum CallerDuty<K, V, E> {
    /// Nothing: another caller starts the batch.
    None,
    /// Sending the batch of this number off when its time has come.
    Watch(u64),
    /// Sending this batch off now.
    Send(Vec<WaitingKey<K, V, E>>),
}

/// The batch that is being filled.
pub(super) struct BatchQueue<K, V, E> {
    number: u64,
    places: HashMap<K, usize>,
    asked: Vec<WaitingKey<K, V, E>>,
}

impl<K, V, E> Default for BatchQueue<K, V, E> {
    fn default() -> Self {
        Self { number: 0, places: HashMap::new(), asked: Vec::new() }
    }
}

impl<K: Eq + Hash + Clone, V, E> BatchQueue<K, V, E> {
    /// Puts a caller's key into the batch.
    pub(super) fn add(
        &mut self,
        key: K,
        caller: oneshot::Sender<BatchAnswer<V, E>>,
        most: usize,
    ) -> CallerDuty<K, V, E> {
        if let Some(place) = self.places.get(&key) {
            self.asked[*place].callers.push(caller);
            return CallerDuty::None;
        }
        self.places.insert(key.clone(), self.asked.len());
        self.asked.push(WaitingKey { key, callers: vec![caller] });
        match self.asked.len() {
            length if length >= most => CallerDuty::Send(self.leave()),
            1 => CallerDuty::Watch(self.number),
            _ => CallerDuty::None,
        }
    }

    /// The batch of this number, unless it has left.
    pub(super) fn due(&mut self, number: u64) -> Option<Vec<WaitingKey<K, V, E>>> {
        (self.number == number).then(|| self.leave())
    }

    fn leave(&mut self) -> Vec<WaitingKey<K, V, E>> {
        self.number += 1;
        self.places.clear();
        std::mem::take(&mut self.asked)
    }
}
