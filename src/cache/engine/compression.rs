//! Compression of large records (LZ4, feature `lz4`). Without the feature nothing is compressed, and records compressed
//! by other processes are misses.

/// Maximum decompressed size; a larger record is a miss.
#[cfg(feature = "lz4")]
const MAX_DECOMPRESSED: usize = 256 << 20;

/// Compresses the bytes; `None` without the feature.
#[cfg(feature = "lz4")]
pub(super) fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    (bytes.len() <= MAX_DECOMPRESSED).then(|| lz4_flex::compress_prepend_size(bytes))
}

/// Reverses [`compress`]; `None` if malformed or without the feature.
#[cfg(feature = "lz4")]
pub(super) fn decompress(compressed: &[u8]) -> Option<Vec<u8>> {
    // Checked before allocating.
    let (length, _) = lz4_flex::block::uncompressed_size(compressed).ok()?;
    if length > MAX_DECOMPRESSED { None } else { lz4_flex::decompress_size_prepended(compressed).ok() }
}

#[cfg(not(feature = "lz4"))]
pub(super) fn compress(_bytes: &[u8]) -> Option<Vec<u8>> {
    None
}

#[cfg(not(feature = "lz4"))]
pub(super) fn decompress(_packed: &[u8]) -> Option<Vec<u8>> {
    None
}
