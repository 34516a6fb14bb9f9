//! Compression of large records (LZ4, feature `lz4`). Without the feature nothing is compressed, and what another
//! process compressed is a miss.

/// The largest record that is unpacked; a larger one is a miss.
#[cfg(feature = "lz4")]
const MOST: usize = 256 << 20;

/// The bytes packed, where this build can.
#[cfg(feature = "lz4")]
pub(crate) fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    (bytes.len() <= MOST).then(|| lz4_flex::compress_prepend_size(bytes))
}

/// The bytes as they were before [`pack`], where this build can.
#[cfg(feature = "lz4")]
pub(crate) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    // Asked before it is allocated.
    let (length, _) = lz4_flex::block::uncompressed_size(packed).ok()?;
    if length > MOST { None } else { lz4_flex::decompress_size_prepended(packed).ok() }
}

#[cfg(not(feature = "lz4"))]
pub(crate) fn pack(_bytes: &[u8]) -> Option<Vec<u8>> {
    None
}

#[cfg(not(feature = "lz4"))]
pub(crate) fn unpack(_packed: &[u8]) -> Option<Vec<u8>> {
    None
}
