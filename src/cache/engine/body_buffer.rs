//! [`BodyBuffer`]: the bytes of a body that have come, in blocks that are counted.
//!
//! A chunk as it came from the wire is a slice of a read buffer that may be many times larger, and would hold it alive
//! for
//! as long as it is kept; so each is copied, once, and small ones are joined.

use std::sync::Arc;

use bytes::Bytes;

use super::body_memory::{BLOCK_OVERHEAD, BodyMemory, MemoryReservation};
use super::body_pump::PumpStep;

/// The most bytes in a block, unless a chunk is larger.
const BLOCK: usize = 256 * 1024;
/// The first block of a body of unknown length has at least this many.
const FIRST: usize = 1024;

/// What a body of this length allocates.
fn allocated(length: u64) -> u64 {
    length + (length / BLOCK as u64 + 1) * BLOCK_OVERHEAD
}

/// The bytes that have come: finished blocks, and the block that is being filled.
pub(crate) struct BodyBuffer {
    pub(crate) blocks: Vec<Bytes>,
    pub(crate) tail: Vec<u8>,
    pub(crate) length: u64,
    promised: Option<u64>,
    reservation: MemoryReservation,
}

impl BodyBuffer {
    /// An empty one for a body of this length, where one is promised; nothing where there is no memory for it.
    pub(crate) fn new(promised: Option<u64>, gauge: &Arc<BodyMemory>) -> Option<Self> {
        let reservation = match promised {
            Some(length) => gauge.reserve(allocated(length), length)?,
            None => gauge.empty(),
        };
        Some(Self { blocks: Vec::new(), tail: Vec::new(), length: 0, promised, reservation })
    }

    /// Drops what has come.
    pub(crate) fn clear(&mut self) {
        (self.blocks, self.tail) = (Vec::new(), Vec::new());
        self.reservation.release();
    }

    /// Copies a chunk in.
    ///
    /// # Errors
    /// [`PumpStep::TooLarge`] or [`PumpStep::NoRoom`], once it has taken in what fits.
    pub(crate) fn push(&mut self, mut data: &[u8], most: u64) -> Result<(), PumpStep> {
        if self.promised.is_none() && self.length.saturating_add(data.len() as u64) > most {
            return Err(PumpStep::TooLarge);
        }
        while !data.is_empty() {
            let room = self.room(data.len())?;
            let (now, later) = data.split_at(room.min(data.len()));
            self.tail.extend_from_slice(now);
            self.length += now.len() as u64;
            data = later;
            let is_last = self.promised == Some(self.length);
            if is_last || self.tail.len() == self.tail.capacity() && self.tail.len() >= BLOCK {
                self.seal();
            }
        }
        Ok(())
    }

    /// How many bytes the block that is being filled has room for, after making room for some of `wanted`.
    fn room(&mut self, wanted: usize) -> Result<usize, PumpStep> {
        let free = self.tail.capacity() - self.tail.len();
        if free > 0 {
            return Ok(free);
        }
        let more = match self.promised {
            Some(promised) => usize::try_from(promised - self.length).unwrap_or(BLOCK).min(BLOCK),
            None if self.tail.is_empty() => wanted.max(FIRST),
            // Doubled, up to a block.
            None => self.tail.len().max(wanted).min(BLOCK - self.tail.len().min(BLOCK - 1)),
        };
        if more == 0 {
            return Err(PumpStep::TooLarge);
        }
        if self.promised.is_none() {
            let needed = (self.tail.len() + more) as u64 + BLOCK_OVERHEAD;
            if !self.reservation.grow(needed, self.length + wanted as u64) {
                return Err(PumpStep::NoRoom);
            }
        }
        self.tail.reserve_exact(more);
        Ok(self.tail.capacity() - self.tail.len())
    }

    /// Finishes the block that is being filled.
    pub(crate) fn seal(&mut self) {
        if !self.tail.is_empty() {
            let memory = std::mem::take(&mut self.tail);
            self.blocks.push(self.reservation.block(memory));
        }
    }
}

/// Copies chunks of this length together into blocks of their own; nothing where there is no memory for them.
pub(crate) fn copied(chunks: &[Bytes], length: u64, gauge: &Arc<BodyMemory>) -> Option<Vec<Bytes>> {
    let mut buffer = BodyBuffer::new(Some(length), gauge)?;
    chunks.iter().try_for_each(|chunk| buffer.push(chunk, length)).ok()?;
    buffer.seal();
    Some(buffer.blocks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_taken_that_cannot_be_had() {
        let gauge = BodyMemory::new(10_000);
        assert!(BodyBuffer::new(Some(10_000), &gauge).is_none());
        let mut unknown = BodyBuffer::new(None, &gauge).expect("nothing is needed yet");
        assert_eq!(unknown.push(&[0; 9_000], 20_000), Ok(()));
        assert_eq!(unknown.push(&[0; 9_000], 20_000), Err(PumpStep::NoRoom));
        assert_eq!(unknown.push(&[0; 12_000], 20_000), Err(PumpStep::TooLarge));
        unknown.clear();
        drop(unknown);
        assert_eq!(gauge.used(), 0);
    }

    #[test]
    fn beyond_its_promise_nothing_is_taken() {
        let gauge = BodyMemory::new(10_000);
        let mut buffer = BodyBuffer::new(Some(3), &gauge).expect("room");
        assert_eq!(buffer.push(b"abcdef", 100), Err(PumpStep::TooLarge));
        assert_eq!((buffer.length, buffer.blocks.concat()), (3, b"abc".to_vec()));
    }

    proptest! {
        #[test]
        fn what_came_is_there_and_counted(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3_000), 0..40), promised: bool,
        ) {
            let gauge = BodyMemory::new(1 << 30);
            let all = chunks.concat();
            let length = all.len() as u64;
            let mut buffer = BodyBuffer::new(promised.then_some(length), &gauge).expect("room");
            chunks.iter().for_each(|chunk| buffer.push(chunk, u64::MAX).expect("it fits"));
            buffer.seal();
            prop_assert_eq!(buffer.blocks.concat(), all);
            let blocks = buffer.blocks.clone();
            drop(buffer);
            prop_assert_eq!(gauge.used(), length + blocks.len() as u64 * BLOCK_OVERHEAD);
            prop_assert!(blocks.len() as u64 <= length / BLOCK as u64 + 1);
            drop(blocks);
            prop_assert_eq!(gauge.used(), 0);
        }
    }
}
