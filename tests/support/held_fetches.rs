//! Fetches that are held open and end in another order than they began, and what then may be answered: see `levels_model.rs`.
#![allow(clippy::expect_used, reason = "a test may fail")]

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Difference of two starts from which the order of puts says nothing: five minutes, less what clocks may differ.
const COMPARABLE: u64 = 290_000;

/// The gates of one process: the next fetch of a key waits at its gate.
#[derive(Default)]
pub(crate) struct Gates(Mutex<HashMap<u8, Gate>>);

pub(crate) enum Gate {
    /// No fetch has come.
    Closed(oneshot::Receiver<()>),
    /// The fetch of this number waits.
    Reached(usize),
}

impl Gates {
    /// Closes the gate of a key; the fetch goes on when the answer is used or dropped.
    pub(crate) fn close(&self, key: u8) -> oneshot::Sender<()> {
        let (open, opened) = oneshot::channel();
        self.0.lock().expect("not poisoned").insert(key, Gate::Closed(opened));
        open
    }

    /// Returns what a fetch waits for.
    pub(crate) fn reach(&self, key: u8, number: usize) -> Option<oneshot::Receiver<()>> {
        let mut gates = self.0.lock().expect("not poisoned");
        match gates.remove(&key) {
            Some(Gate::Closed(opened)) => {
                gates.insert(key, Gate::Reached(number));
                Some(opened)
            }
            Some(reached) => {
                gates.insert(key, reached);
                None
            }
            None => None,
        }
    }

    /// Returns the number of the fetch that waits.
    pub(crate) fn reached(&self, key: u8) -> Option<usize> {
        match self.0.lock().expect("not poisoned").get(&key) {
            Some(Gate::Reached(number)) => Some(*number),
            _ => None,
        }
    }

    /// Removes a gate; returns the number of the fetch that waits at it.
    pub(crate) fn remove(&self, key: u8) -> Option<usize> {
        match self.0.lock().expect("not poisoned").remove(&key) {
            Some(Gate::Reached(number)) => Some(number),
            _ => None,
        }
    }
}

/// A fetch that waits at its gate.
pub(crate) struct Held {
    pub(crate) process: usize,
    pub(crate) key: u8,
    pub(crate) number: usize,
    pub(crate) open: oneshot::Sender<()>,
    /// The request that waits for it; none if it was answered with something stale.
    pub(crate) asked: Option<JoinHandle<String>>,
    /// Lowest number that it may be answered with.
    pub(crate) floor: usize,
}

/// A fetch that was answered, and is in every level.
#[derive(Clone, Copy)]
struct Kept {
    number: usize,
    began: u64,
    fresh_until: u64,
}

/// By key, the newest answer that is in every level, and the one that each process must not go behind: its own copy is at
/// least as new, or was dropped when a level refused it.
#[derive(Default)]
pub(crate) struct Order {
    everywhere: HashMap<u8, Kept>,
    seen: [HashMap<u8, Kept>; 2],
    /// Number of fetches that ended after one that began later.
    pub(crate) late: u64,
}

impl Order {
    /// Notes that a process has put the answer of a fetch into every level, or was refused for a newer one.
    pub(crate) fn put(&mut self, process: usize, key: u8, number: usize, began: u64, fresh_until: u64) {
        let put = Kept { number, began, fresh_until };
        let before = self.everywhere.get(&key).copied();
        let newest = match before {
            Some(before) if before.began.abs_diff(began) > COMPARABLE => return self.forget(key),
            Some(before) if before.number > number => {
                self.late += 1;
                before
            }
            _ => put,
        };
        self.everywhere.insert(key, newest);
        self.seen[process].insert(key, newest);
    }

    /// Notes that a process has lost its memory.
    pub(crate) fn restart(&mut self, process: usize) {
        self.seen[process] = self.everywhere.clone();
    }

    pub(crate) fn forget(&mut self, key: u8) {
        self.everywhere.remove(&key);
        self.seen.iter_mut().for_each(|seen| _ = seen.remove(&key));
    }

    pub(crate) fn forget_all(&mut self) {
        *self = Self { late: self.late, ..Self::default() };
    }

    /// Checks an answer against what its process has seen.
    pub(crate) fn check(&self, process: usize, key: u8, number: usize, now: u64) {
        if let Some(seen) = self.seen[process].get(&key).filter(|seen| now < seen.fresh_until) {
            assert!(
                number >= seen.number,
                "order: process {process} answers {key} with {number}, and fetch {} began later and is in every level",
                seen.number
            );
        }
    }
}
