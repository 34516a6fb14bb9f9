//! [`Hashed`]: identity hasher for maps whose keys are keyed hashes.

use std::hash::{BuildHasher, Hasher};

/// Uses a key's own hash.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hashed;

impl BuildHasher for Hashed {
    type Hasher = HashSlot;

    fn build_hasher(&self) -> HashSlot {
        HashSlot(0)
    }
}

pub(super) struct HashSlot(u64);

impl Hasher for HashSlot {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
