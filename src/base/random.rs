//! Random numbers.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Returns a random number: the standard library's hasher is seeded by the operating system.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random(), random());
    }
}
