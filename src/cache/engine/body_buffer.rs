//! [`BodyBuffer`]: bytes received of a body, in accounted blocks.
//!
//! A chunk from the connection is a slice of a read buffer that may be many times larger and stays allocated as long as
//! the slice. So each chunk is copied once, and small ones are merged.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::body_memory::{BLOCK_OVERHEAD, BodyMemory, MemoryReservation};
use super::body_pump::BodyPumpStep;

/// Maximum size of a block, unless a chunk is larger.
const MAX_BLOCK: usize = 256 * 1024;
/// Minimum size of the first block of a body of unknown length.
const MIN_FIRST_BLOCK: usize = 1024;

/// Returns the allocation size of a body of this length.
fn allocation_size(length: u64) -> u64 {
    length + (length / MAX_BLOCK as u64 + 1) * BLOCK_OVERHEAD
}

/// Bytes received: finished blocks, and the block being filled.
pub(super) struct BodyBuffer {
    pub(super) blocks: SmallVec<[Bytes; 1]>,
    pub(super) tail: Vec<u8>,
    pub(super) length: u64,
    promised: Option<u64>,
    reservation: MemoryReservation,
}

impl BodyBuffer {
    /// Creates an empty buffer for a body of this declared length; `None` if no memory is available.
    pub(super) fn new(promised: Option<u64>, body_memory: &Arc<BodyMemory>) -> Option<Self> {
        let reservation = match promised {
            Some(length) => body_memory.reserve(allocation_size(length), length)?,
            None => body_memory.empty(),
        };
        Some(Self { blocks: SmallVec::new(), tail: Vec::new(), length: 0, promised, reservation })
    }

    /// Drops the bytes received.
    pub(super) fn clear(&mut self) {
        (self.blocks, self.tail) = (SmallVec::new(), Vec::new());
        self.reservation.release();
    }

    /// Copies a chunk into the buffer.
    ///
    /// # Errors
    /// [`BodyPumpStep::TooLarge`] or [`BodyPumpStep::OutOfMemory`], after copying the part that fits.
    pub(super) fn push(&mut self, mut data: &[u8], max_entry: u64) -> Result<(), BodyPumpStep> {
        if self.promised.is_none() && self.length.saturating_add(data.len() as u64) > max_entry {
            return Err(BodyPumpStep::TooLarge);
        }
        while !data.is_empty() {
            let free_space = self.free_space(data.len())?;
            let (now, later) = data.split_at(free_space.min(data.len()));
            self.tail.extend_from_slice(now);
            self.length += now.len() as u64;
            data = later;
            let is_last = self.promised == Some(self.length);
            if is_last || self.tail.len() == self.tail.capacity() && self.tail.len() >= MAX_BLOCK {
                self.seal();
            }
        }
        Ok(())
    }

    /// Returns the free space of the block being filled, after growing it for some of `needed_len`.
    fn free_space(&mut self, needed_len: usize) -> Result<usize, BodyPumpStep> {
        let free = self.tail.capacity() - self.tail.len();
        if free > 0 {
            return Ok(free);
        }
        let more = match self.promised {
            Some(promised) => usize::try_from(promised - self.length).unwrap_or(MAX_BLOCK).min(MAX_BLOCK),
            None if self.tail.is_empty() => needed_len.max(MIN_FIRST_BLOCK),
            // Doubled, up to the maximum size of a block.
            None => self.tail.len().max(needed_len).min(MAX_BLOCK - self.tail.len().min(MAX_BLOCK - 1)),
        };
        if more == 0 {
            return Err(BodyPumpStep::TooLarge);
        }
        if self.promised.is_none() {
            let needed = (self.tail.len() + more) as u64 + BLOCK_OVERHEAD;
            if !self.reservation.grow(needed, self.length + needed_len as u64) {
                return Err(BodyPumpStep::OutOfMemory);
            }
        }
        self.tail.reserve_exact(more);
        Ok(self.tail.capacity() - self.tail.len())
    }

    /// Finishes the block being filled.
    pub(super) fn seal(&mut self) {
        if !self.tail.is_empty() {
            let memory = std::mem::take(&mut self.tail);
            self.blocks.push(self.reservation.block(memory));
        }
    }
}

/// Copies chunks of this total length into accounted blocks; `None` if no memory is available.
pub(crate) fn copied(chunks: &[Bytes], length: u64, body_memory: &Arc<BodyMemory>) -> Option<SmallVec<[Bytes; 1]>> {
    let mut buffer = BodyBuffer::new(Some(length), body_memory)?;
    chunks.iter().try_for_each(|chunk| buffer.push(chunk, length)).ok()?;
    buffer.seal();
    Some(buffer.blocks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memory_is_bounded() {
        let body_memory = BodyMemory::new(10_000);
        assert!(BodyBuffer::new(Some(10_000), &body_memory).is_none());
        let mut unknown = BodyBuffer::new(None, &body_memory).expect("nothing is needed yet");
        assert_eq!(unknown.push(&[0; 9_000], 20_000), Ok(()));
        assert_eq!(unknown.push(&[0; 9_000], 20_000), Err(BodyPumpStep::OutOfMemory));
        assert_eq!(unknown.push(&[0; 12_000], 20_000), Err(BodyPumpStep::TooLarge));
        unknown.clear();
        drop(unknown);
        assert_eq!(body_memory.used(), 0);
    }

    #[test]
    fn bytes_beyond_the_declared_length_are_rejected() {
        let body_memory = BodyMemory::new(10_000);
        let mut buffer = BodyBuffer::new(Some(3), &body_memory).expect("room");
        assert_eq!(buffer.push(b"abcdef", 100), Err(BodyPumpStep::TooLarge));
        assert_eq!((buffer.length, buffer.blocks.concat()), (3, b"abc".to_vec()));
    }

    proptest! {
        #[test]
        fn pushed_bytes_are_kept_and_accounted(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3_000), 0..40), promised: bool,
        ) {
            let body_memory = BodyMemory::new(1 << 30);
            let all = chunks.concat();
            let length = all.len() as u64;
            let mut buffer = BodyBuffer::new(promised.then_some(length), &body_memory).expect("room");
            chunks.iter().for_each(|chunk| buffer.push(chunk, u64::MAX).expect("it fits"));
            buffer.seal();
            prop_assert_eq!(buffer.blocks.concat(), all);
            let blocks = buffer.blocks.clone();
            drop(buffer);
            prop_assert_eq!(body_memory.used(), length + blocks.len() as u64 * BLOCK_OVERHEAD);
            prop_assert!(blocks.len() as u64 <= length / MAX_BLOCK as u64 + 1);
            drop(blocks);
            prop_assert_eq!(body_memory.used(), 0);
        }
    }
}
