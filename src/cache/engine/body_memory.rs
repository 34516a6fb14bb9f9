//! [`BodyMemory`]: the memory that bodies take, counted by what is allocated for them.
//!
//! | counted | until |
//! |---|---|
//! | a reservation: bytes promised to a body that is being read | they are allocated, or it is dropped |
//! | a block: bytes of a body that were copied out of the connection's buffers | its last reader has dropped it |
//! | not a block of a stored body: its entry is bounded by the store | the last entry that holds it is gone; a reader that still has it counts again |
//!
//! A body is shared and stored only where its memory can be had within the bound; so a client that reads slowly, or
//! stops,
//! takes memory that nothing else is promised. A quarter of the bound is kept for bodies of at most 64 KiB.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// Bodies up to this length may use the whole bound.
const SMALL: u64 = 64 * 1024;
/// What a block takes beside its bytes: its owner's allocation, its handle, and what the allocator rounds up.
pub(crate) const BLOCK_OVERHEAD: u64 = 128;

/// The bytes that bodies take outside the store, and their bound.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    bound: u64,
    reserved: AtomicU64,
    /// All living blocks.
    alive: AtomicU64,
    /// Of these, the ones that entries hold.
    stored: AtomicU64,
}

impl BodyMemory {
    pub(crate) fn new(bound: u64) -> Arc<Self> {
        let zero = AtomicU64::default;
        Arc::new(Self { bound, reserved: zero(), alive: zero(), stored: zero() })
    }

    /// The bytes that are taken outside the store.
    pub(crate) fn used(&self) -> u64 {
        let taken = self.reserved.load(Ordering::Relaxed) + self.alive.load(Ordering::Relaxed);
        taken.saturating_sub(self.stored.load(Ordering::Relaxed))
    }

    /// A reservation of nothing, to be grown.
    pub(crate) fn empty(self: &Arc<Self>) -> MemoryReservation {
        MemoryReservation { gauge: self.clone(), left: 0 }
    }

    /// Reserves `bytes` for a body that is `length` bytes long, or already that long; nothing where they cannot be had.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64, length: u64) -> Option<MemoryReservation> {
        let mut reservation = self.empty();
        reservation.grow(bytes, length).then_some(reservation)
    }

    fn take(&self, bytes: u64, length: u64) -> bool {
        let bound = if length <= SMALL { self.bound } else { self.bound - self.bound / 4 };
        let mut reserved = self.reserved.load(Ordering::Relaxed);
        loop {
            let alive = self.alive.load(Ordering::Relaxed).saturating_sub(self.stored.load(Ordering::Relaxed));
            if alive.saturating_add(reserved).saturating_add(bytes) > bound {
                return false;
            }
            let next = reserved + bytes;
            match self.reserved.compare_exchange_weak(reserved, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => reserved = now,
            }
        }
    }
}

/// Bytes that one body may still allocate.
#[derive(Debug)]
pub(crate) struct MemoryReservation {
    gauge: Arc<BodyMemory>,
    left: u64,
}

impl MemoryReservation {
    /// Reserves more, for a body that is `length` bytes long by now; whether it could be had.
    #[must_use]
    pub(crate) fn grow(&mut self, bytes: u64, length: u64) -> bool {
        let more = bytes.saturating_sub(self.left);
        let had = more == 0 || self.gauge.take(more, length);
        if had {
            self.left += more;
        }
        had
    }

    /// Gives back what was not used.
    pub(crate) fn release(&mut self) {
        self.gauge.reserved.fetch_sub(std::mem::take(&mut self.left), Ordering::Relaxed);
    }

    /// Turns memory into a block that is counted until its last reader drops it. Uses up as much of the reservation.
    pub(crate) fn block(&mut self, memory: Vec<u8>) -> Bytes {
        let memory = memory.into_boxed_slice();
        let size = memory.len() as u64 + BLOCK_OVERHEAD;
        self.gauge.alive.fetch_add(size, Ordering::Relaxed);
        let used = size.min(self.left);
        self.left -= used;
        self.gauge.reserved.fetch_sub(used, Ordering::Relaxed);
        Bytes::from_owner(Block { memory, gauge: self.gauge.clone() })
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.release();
    }
}

/// A block's memory.
struct Block {
    memory: Box<[u8]>,
    gauge: Arc<BodyMemory>,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.gauge.alive.fetch_sub(self.memory.len() as u64 + BLOCK_OVERHEAD, Ordering::Relaxed);
    }
}

/// Says that an entry holds these blocks: their bytes are the store's. Shared by the entries that a revalidation makes
/// of
/// one body.
#[derive(Debug)]
pub(crate) struct Holding {
    gauge: Arc<BodyMemory>,
    bytes: u64,
}

impl Holding {
    pub(crate) fn new(gauge: &Arc<BodyMemory>, blocks: &[Bytes]) -> Arc<Self> {
        let bytes = blocks.iter().map(|block| block.len() as u64 + BLOCK_OVERHEAD).sum();
        gauge.stored.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Self { gauge: gauge.clone(), bytes })
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.gauge.stored.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_counts_until_its_last_reader_drops_it_except_while_an_entry_holds_it() {
        let gauge = BodyMemory::new(1 << 20);
        let mut reservation = gauge.reserve(1000 + BLOCK_OVERHEAD, 1000).expect("room");
        assert_eq!(gauge.used(), 1000 + BLOCK_OVERHEAD);
        let block = reservation.block(vec![7; 1000]);
        drop(reservation);
        assert_eq!(gauge.used(), 1000 + BLOCK_OVERHEAD);
        let holding = Holding::new(&gauge, std::slice::from_ref(&block));
        assert_eq!(gauge.used(), 0);
        let reader = block.slice(10..20);
        drop((block, holding));
        assert_eq!(gauge.used(), 1000 + BLOCK_OVERHEAD, "the entry is gone, its reader is not");
        drop(reader);
        assert_eq!(gauge.used(), 0);
    }

    #[test]
    fn large_bodies_leave_a_quarter_to_small_ones() {
        let gauge = BodyMemory::new(1 << 20);
        let large = gauge.reserve(700 << 10, 700 << 10).expect("room");
        assert!(gauge.reserve(100 << 10, 100 << 10).is_none());
        let small = gauge.reserve(64 << 10, 64 << 10).expect("kept for it");
        drop((large, small));
        assert_eq!(gauge.used(), 0);
        assert!(gauge.reserve(u64::MAX, 1).is_none());
    }
}
