//! [`BackgroundSlots`]: a bound on how much goes on without a client that waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number of places.
#[derive(Debug)]
pub(crate) struct BackgroundSlots {
    most: u64,
    taken: AtomicU64,
}

impl BackgroundSlots {
    pub(crate) fn new(most: u64) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicU64::new(0) })
    }

    /// A place, where one is free.
    pub(crate) fn take(self: &Arc<Self>) -> Option<BackgroundSlot> {
        let free = |taken: u64| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok().map(|_| BackgroundSlot(self.clone()))
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// A place that is taken; free again when dropped.
#[derive(Debug)]
pub(crate) struct BackgroundSlot(Arc<BackgroundSlots>);

impl Drop for BackgroundSlot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_taken_than_there_are() {
        let slots = BackgroundSlots::new(2);
        let taken: Vec<_> = (0..3).filter_map(|_| slots.take()).collect();
        assert_eq!((taken.len(), slots.taken()), (2, 2));
        drop(taken);
        assert_eq!(slots.taken(), 0);
        assert!(slots.take().is_some());
    }
}
