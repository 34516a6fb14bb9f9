//! [`BodyMemory`]: accounts for the memory allocated for bodies.
//!
//! | counted | until |
//! |---|---|
//! | a reservation: bytes granted to a body that is being read | they are allocated, or it is dropped |
//! | a block: bytes of a body, copied out of the connection's buffers | its last reader has dropped it |
//! | not a block of a stored body, which the store accounts for | the last entry with it is gone; remaining readers are counted again |
//!
//! A body is shared and stored only if its memory fits the bound, so a slow or stalled client cannot exceed it. A
//! quarter of the bound is reserved for bodies of at most 64 KiB.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// Bodies up to this length may use the whole bound.
const SMALL: u64 = 64 * 1024;
/// Overhead of a block: the owner's allocation, the handle, and rounding by the allocator.
pub(super) const BLOCK_OVERHEAD: u64 = 128;

/// Bytes of bodies outside the store, and their bound.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    bound: u64,
    reserved: AtomicU64,
    /// Bytes of all live blocks.
    live: AtomicU64,
    /// Bytes of blocks held by entries.
    stored: AtomicU64,
}

impl BodyMemory {
    pub(crate) fn new(bound: u64) -> Arc<Self> {
        let zero = AtomicU64::default;
        Arc::new(Self { bound, reserved: zero(), live: zero(), stored: zero() })
    }

    /// Returns the bytes in use outside the store.
    pub(crate) fn used(&self) -> u64 {
        let taken = self.reserved.load(Ordering::Relaxed) + self.live.load(Ordering::Relaxed);
        taken.saturating_sub(self.stored.load(Ordering::Relaxed))
    }

    /// Creates an empty reservation.
    pub(super) fn empty(self: &Arc<Self>) -> MemoryReservation {
        MemoryReservation { body_memory: self.clone(), left: 0 }
    }

    /// Reserves `bytes` for a body of `length` bytes, declared or received; `None` beyond the bound.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64, length: u64) -> Option<MemoryReservation> {
        let mut reservation = self.empty();
        reservation.grow(bytes, length).then_some(reservation)
    }

    fn take(&self, bytes: u64, length: u64) -> bool {
        let bound = if length <= SMALL { self.bound } else { self.bound - self.bound / 4 };
        let mut reserved = self.reserved.load(Ordering::Relaxed);
        loop {
            let live = self.live.load(Ordering::Relaxed).saturating_sub(self.stored.load(Ordering::Relaxed));
            if live.saturating_add(reserved).saturating_add(bytes) > bound {
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
pub(super) struct MemoryReservation {
    body_memory: Arc<BodyMemory>,
    left: u64,
}

impl MemoryReservation {
    /// Reserves more for a body of `length` bytes so far; returns whether it succeeded.
    #[must_use]
    pub(super) fn grow(&mut self, bytes: u64, length: u64) -> bool {
        let more = bytes.saturating_sub(self.left);
        let had = more == 0 || self.body_memory.take(more, length);
        if had {
            self.left += more;
        }
        had
    }

    /// Releases the unused part.
    pub(super) fn release(&mut self) {
        self.body_memory.reserved.fetch_sub(std::mem::take(&mut self.left), Ordering::Relaxed);
    }

    /// Converts a buffer into a block that is counted until its last reader drops it, and reduces the reservation
    /// accordingly.
    pub(super) fn block(&mut self, memory: Vec<u8>) -> Bytes {
        let memory = memory.into_boxed_slice();
        let size = memory.len() as u64 + BLOCK_OVERHEAD;
        self.body_memory.live.fetch_add(size, Ordering::Relaxed);
        let used = size.min(self.left);
        self.left -= used;
        self.body_memory.reserved.fetch_sub(used, Ordering::Relaxed);
        Bytes::from_owner(Block { memory, body_memory: self.body_memory.clone() })
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.release();
    }
}

/// Memory of a block.
struct Block {
    memory: Box<[u8]>,
    body_memory: Arc<BodyMemory>,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.body_memory.live.fetch_sub(self.memory.len() as u64 + BLOCK_OVERHEAD, Ordering::Relaxed);
    }
}

/// Attributes blocks to the store while an entry holds them. Shared by the entries that revalidations create for one
/// body.
#[derive(Debug)]
pub(super) struct StoredBlocks {
    body_memory: Arc<BodyMemory>,
    bytes: u64,
}

impl StoredBlocks {
    pub(super) fn new(body_memory: &Arc<BodyMemory>, blocks: &[Bytes]) -> Arc<Self> {
        let bytes = blocks.iter().map(|block| block.len() as u64 + BLOCK_OVERHEAD).sum();
        body_memory.stored.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Self { body_memory: body_memory.clone(), bytes })
    }
}

impl Drop for StoredBlocks {
    fn drop(&mut self) {
        self.body_memory.stored.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_count_while_read_unless_stored() {
        let body_memory = BodyMemory::new(1 << 20);
        let mut reservation = body_memory.reserve(1000 + BLOCK_OVERHEAD, 1000).expect("room");
        assert_eq!(body_memory.used(), 1000 + BLOCK_OVERHEAD);
        let block = reservation.block(vec![7; 1000]);
        drop(reservation);
        assert_eq!(body_memory.used(), 1000 + BLOCK_OVERHEAD);
        let holding = StoredBlocks::new(&body_memory, std::slice::from_ref(&block));
        assert_eq!(body_memory.used(), 0);
        let reader = block.slice(10..20);
        drop((block, holding));
        assert_eq!(body_memory.used(), 1000 + BLOCK_OVERHEAD, "the entry is gone, its reader is not");
        drop(reader);
        assert_eq!(body_memory.used(), 0);
    }

    #[test]
    fn large_bodies_leave_a_quarter_to_small_ones() {
        let body_memory = BodyMemory::new(1 << 20);
        let large = body_memory.reserve(700 << 10, 700 << 10).expect("room");
        assert!(body_memory.reserve(100 << 10, 100 << 10).is_none());
        let small = body_memory.reserve(64 << 10, 64 << 10).expect("kept for it");
        drop((large, small));
        assert_eq!(body_memory.used(), 0);
        assert!(body_memory.reserve(u64::MAX, 1).is_none());
    }
}
