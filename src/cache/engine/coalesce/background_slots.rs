//! [`BackgroundSlots`]: bounds the number of fetches that continue without a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counting semaphore without waiting.
#[derive(Debug)]
pub(crate) struct BackgroundSlots {
    capacity: u64,
    in_use: AtomicU64,
}

impl BackgroundSlots {
    pub(crate) fn new(capacity: u64) -> Arc<Self> {
        Arc::new(Self { capacity, in_use: AtomicU64::new(0) })
    }

    /// Acquires a slot if one is free.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<BackgroundSlot> {
        let free = |in_use: u64| (in_use < self.capacity).then_some(in_use + 1);
        self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok().map(|_| BackgroundSlot(self.clone()))
    }

    /// Returns the number of slots in use.
    pub(crate) fn in_use(&self) -> u64 {
        self.in_use.load(Ordering::Relaxed)
    }
}

/// An acquired slot, released on drop.
#[derive(Debug)]
pub(crate) struct BackgroundSlot(Arc<BackgroundSlots>);

impl Drop for BackgroundSlot {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded() {
        let slots = BackgroundSlots::new(2);
        let in_use: Vec<_> = (0..3).filter_map(|_| slots.try_acquire()).collect();
        assert_eq!((in_use.len(), slots.in_use()), (2, 2));
        drop(in_use);
        assert_eq!(slots.in_use(), 0);
        assert!(slots.try_acquire().is_some());
    }
}
