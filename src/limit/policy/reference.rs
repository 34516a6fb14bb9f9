//! [`Reference`]: the name by which a refusal is found again.

use std::fmt;

/// Crockford's base 32: no letters that are mistaken for digits.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LENGTH: usize = 12;

/// Sixty bits in twelve characters: 52 random ones, and the bucket that the refusal is kept in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reference([u8; LENGTH]);

impl Reference {
    pub(crate) fn new(random: u64, bucket: u8) -> Self {
        let bits = random << 8 | u64::from(bucket);
        let digit = |at: usize| ALPHABET[(bits >> (5 * (LENGTH - 1 - at))) as usize & 31];
        Self(std::array::from_fn(digit))
    }

    /// Reads a reference, in capitals or not; `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; LENGTH] = text.as_bytes().try_into().ok()?;
        let bytes = bytes.map(|byte| byte.to_ascii_uppercase());
        bytes.iter().all(|byte| ALPHABET.contains(byte)).then_some(Self(bytes))
    }

    pub(crate) fn bucket(&self) -> u8 {
        let value = |byte: u8| ALPHABET.iter().position(|known| *known == byte).unwrap_or_default();
        (value(self.0[LENGTH - 2]) << 5 | value(self.0[LENGTH - 1])) as u8
    }

    pub(crate) fn as_str(&self) -> &str {
        // It is ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_back_with_their_bucket() {
        for (random, bucket) in [(0, 0), (u64::MAX, 255), (0x0123_4567_89AB_CDEF, 77)] {
            let reference = Reference::new(random, bucket);
            assert_eq!(reference.bucket(), bucket);
            assert_eq!(Reference::parse(&reference.as_str().to_lowercase()), Some(reference));
        }
    }
}
