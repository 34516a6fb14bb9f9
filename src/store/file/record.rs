//! Formats of a segment file: header, records, footer. Pure functions over bytes.
//!
//! ```text
//! header   "TGFS" │ version │ ID │ ID of the segment before │ CRC-32
//! record   CRC-32 │ length │ hash of the name │ written at │ expires at │ length of the name │ kind │ 0 │ name │ value
//! footer   (hash │ offset │ length │ written at)… │ count │ end of the records │ CRC-32 │ "TGFE"
//! ```
//!
//! Numbers are big-endian, times milliseconds since 1970. A record's checksum is combined with its position, so that a
//! record of a deleted file, of which a disk may show remains after a power loss, is not taken for one of this file.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::index::{IndexEntry, Position};
use crate::base::codec::{Reader, Writer};

const SEGMENT_MAGIC: [u8; 4] = *b"TGFS";
const FOOTER_MAGIC: [u8; 4] = *b"TGFE";
/// Version of the formats of segments, journals and checkpoints.
pub(super) const VERSION: u32 = 1;
/// Length of a segment's header.
pub(super) const SEGMENT_HEADER: usize = 20;
/// Length of a record without name and value.
pub(super) const RECORD_HEADER: usize = 36;
/// Length of an entry of the footer.
pub(super) const FOOTER_ENTRY: usize = 20;
/// Length of the footer without its entries.
pub(super) const FOOTER_END: usize = 16;
const VALUE: u8 = 0;
const REMOVAL: u8 = 1;

/// Returns the hash of a name, the same in every process.
pub(super) fn hash(name: &str) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0x746f_6c6c_6761_7465, 0x6669_6c65);
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// Result of reading a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentHeader {
    /// A segment of this version, with the ID of the one before it; 0 for the first.
    Current { previous: u32 },
    /// A segment of another version.
    OtherVersion,
    /// Anything else.
    Damaged,
}

impl SegmentHeader {
    pub(super) fn encode(id: u32, previous: u32) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(SEGMENT_HEADER));
        out.raw(&SEGMENT_MAGIC);
        [VERSION, id, previous].into_iter().for_each(|number| out.u32(number));
        let checksum = crc32fast::hash(&out.0);
        out.u32(checksum);
        out.0
    }

    pub(super) fn decode(bytes: &[u8], id: u32) -> Self {
        let Some((checked, checksum)) = bytes.split_last_chunk::<4>() else { return Self::Damaged };
        let Some(rest) = checked.strip_prefix(&SEGMENT_MAGIC) else { return Self::Damaged };
        let mut reader = Reader(rest);
        // The rest of another version's header may be different.
        match (reader.u32(), reader.u32(), reader.u32()) {
            (Some(version), ..) if version != VERSION => Self::OtherVersion,
            (Some(_), Some(found), Some(previous))
                if found == id && *checksum == crc32fast::hash(checked).to_be_bytes() =>
            {
                Self::Current { previous }
            }
            _ => Self::Damaged,
        }
    }
}

/// Head of a record: everything but its name and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHead {
    /// Checksum of the record, without its position.
    checksum: u32,
    /// Length of the whole record.
    pub(super) length: u32,
    pub(super) hash: u64,
    /// Time of the put, in milliseconds since 1970.
    pub(super) written_at: u64,
    /// End of its lifetime, in milliseconds since 1970.
    pub(super) expires_at: u64,
    name_length: u16,
    kind: u8,
}

impl RecordHead {
    /// Creates the head of a value; `None` if name or value are too long.
    pub(super) fn value(name: &str, value: &[u8], written_at: u64, expires_at: u64) -> Option<Self> {
        let name_length = u16::try_from(name.len()).ok()?;
        let length = u32::try_from(RECORD_HEADER + name.len() + value.len()).ok()?;
        let head = Self { checksum: 0, length, hash: hash(name), written_at, expires_at, name_length, kind: VALUE };
        Some(Self { checksum: head.checksum_with([name.as_bytes(), value]), ..head })
    }

    /// Creates the record of a removal.
    pub(super) fn removal(hash: u64, written_at: u64) -> Self {
        let length = RECORD_HEADER as u32;
        let head = Self { checksum: 0, length, hash, written_at, expires_at: 0, name_length: 0, kind: REMOVAL };
        Self { checksum: head.checksum_with([&[], &[]]), ..head }
    }

    pub(super) const fn is_removal(&self) -> bool {
        self.kind == REMOVAL
    }

    /// Offset of the value in the record.
    pub(super) const fn value_offset(&self) -> usize {
        RECORD_HEADER + self.name_length as usize
    }

    /// Encodes the head for a record at this position.
    pub(super) fn encode(&self, at: Position) -> [u8; RECORD_HEADER] {
        let mut out = self.encode_unpositioned();
        out[..4].copy_from_slice(&(self.checksum ^ mix(at)).to_be_bytes());
        out
    }

    /// Decodes a head found at this position, without verifying the checksum.
    pub(super) fn decode(bytes: &[u8], at: Position) -> Option<Self> {
        let mut reader = Reader(bytes.get(..RECORD_HEADER)?);
        let head = Self {
            checksum: reader.u32()? ^ mix(at),
            length: reader.u32()?,
            hash: reader.u64()?,
            written_at: reader.u64()?,
            expires_at: reader.u64()?,
            name_length: reader.u16()?,
            kind: reader.u8()?,
        };
        (head.length as usize >= head.value_offset() && head.kind <= REMOVAL && reader.u8()? == 0).then_some(head)
    }

    /// Decodes and verifies a whole record found at this position.
    pub(super) fn verify(record: &[u8], at: Position) -> Option<Self> {
        let head = Self::decode(record, at)?;
        (head.length as usize == record.len() && head.checksum == head.checksum_with([&record[RECORD_HEADER..], &[]]))
            .then_some(head)
    }

    /// Returns the name in a record.
    pub(super) fn name_in<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        record.get(RECORD_HEADER..self.value_offset()).unwrap_or_default()
    }

    /// Returns the entry of the footer.
    pub(super) fn index_entry(&self, at: Position) -> IndexEntry {
        let length = if self.is_removal() { 0 } else { self.length };
        IndexEntry::new(at, length, self.written_at)
    }

    fn encode_unpositioned(&self) -> [u8; RECORD_HEADER] {
        let mut out = [0; RECORD_HEADER];
        out[4..8].copy_from_slice(&self.length.to_be_bytes());
        out[8..16].copy_from_slice(&self.hash.to_be_bytes());
        out[16..24].copy_from_slice(&self.written_at.to_be_bytes());
        out[24..32].copy_from_slice(&self.expires_at.to_be_bytes());
        out[32..34].copy_from_slice(&self.name_length.to_be_bytes());
        out[34] = self.kind;
        out
    }

    fn checksum_with(&self, parts: [&[u8]; 2]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.encode_unpositioned()[4..]);
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize()
    }
}

/// Spreads a position over 32 bits.
const fn mix(at: Position) -> u32 {
    at.segment.wrapping_mul(0x9E37_79B1) ^ at.offset.wrapping_mul(0x85EB_CA6B)
}

/// Encodes the footer of a segment whose records end at `end`.
pub(super) fn encode_footer(segment: u32, entries: &[(u64, IndexEntry)], end: u32) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(footer_length(entries.len())));
    for (hash, entry) in entries {
        out.u64(*hash);
        [entry.at.offset, entry.length, entry.written].into_iter().for_each(|number| out.u32(number));
    }
    out.count(entries.len());
    out.u32(end);
    let checksum = crc32fast::hash(&out.0) ^ mix(Position { segment, offset: end });
    out.u32(checksum);
    out.raw(&FOOTER_MAGIC);
    out.0
}

pub(super) const fn footer_length(entries: usize) -> usize {
    entries * FOOTER_ENTRY + FOOTER_END
}

/// Decodes the last bytes of a footer: the number of entries, and the end of the records.
pub(super) fn decode_footer_end(bytes: &[u8; FOOTER_END]) -> Option<(usize, u32)> {
    let mut reader = Reader(bytes);
    let (count, end) = (reader.u32()? as usize, reader.u32()?);
    (bytes[12..] == FOOTER_MAGIC).then_some((count, end))
}

/// Decodes and verifies a footer.
pub(super) fn decode_footer(segment: u32, footer: &[u8]) -> Option<Vec<(u64, IndexEntry)>> {
    let (entries, last) = footer.split_last_chunk::<FOOTER_END>()?;
    let (count, end) = decode_footer_end(last)?;
    let checked = &footer[..footer.len() - 8];
    let checksum = (crc32fast::hash(checked) ^ mix(Position { segment, offset: end })).to_be_bytes();
    if count.checked_mul(FOOTER_ENTRY)? != entries.len() || last[8..12] != checksum {
        return None;
    }
    let mut reader = Reader(entries);
    let mut entry = || {
        let hash = reader.u64()?;
        let (offset, length, written) = (reader.u32()?, reader.u32()?, reader.u32()?);
        Some((hash, IndexEntry { at: Position { segment, offset }, length, written }))
    };
    (0..count).map(|_| entry()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { segment: 3, offset: 20 };

    fn record() -> Vec<u8> {
        let head = RecordHead::value("a name", b"a value", 1_600_000_000_123, 1_600_000_060_000).expect("short");
        [&head.encode(AT)[..], b"a name", b"a value"].concat()
    }

    #[test]
    fn records_are_verified_with_their_position() {
        let record = record();
        let head = RecordHead::verify(&record, AT).expect("valid");
        assert_eq!((head.name_in(&record), &record[head.value_offset()..]), (&b"a name"[..], &b"a value"[..]));
        assert_eq!((head.hash, head.written_at), (hash("a name"), 1_600_000_000_123));
        assert!(!head.is_removal());
        for elsewhere in [Position { segment: 4, ..AT }, Position { offset: 21, ..AT }] {
            assert_eq!(RecordHead::verify(&record, elsewhere), None);
        }
        let removal = RecordHead::removal(7, 1_600_000_000_000).encode(AT);
        assert!(RecordHead::verify(&removal, AT).is_some_and(|head| head.is_removal() && head.hash == 7));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let entries = [(7, IndexEntry::new(AT, 49, 1_600_000_000_123)), (8, IndexEntry::new(AT, 0, 1_600_000_000_123))];
        let (record, footer) = (record(), encode_footer(3, &entries, 69));
        let header = SegmentHeader::encode(3, 2);
        assert_eq!(decode_footer(3, &footer).as_deref(), Some(&entries[..]));
        assert_eq!(SegmentHeader::decode(&header, 3), SegmentHeader::Current { previous: 2 });
        assert_eq!(decode_footer(4, &footer), None);
        for (bytes, is_valid) in [
            (&record, (|bytes: &[u8]| RecordHead::verify(bytes, AT).is_some()) as fn(&[u8]) -> bool),
            (&footer, |bytes| decode_footer(3, bytes).is_some()),
            (&header, |bytes| matches!(SegmentHeader::decode(bytes, 3), SegmentHeader::Current { .. })),
        ] {
            assert!(is_valid(bytes));
            for length in 0..bytes.len() {
                assert!(!is_valid(&bytes[..length]), "cut at {length}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_valid(&flipped), "bit {bit}");
            }
        }
    }

    #[test]
    fn segments_of_other_versions_are_recognized() {
        let mut header = SegmentHeader::encode(3, 2);
        header[7] = 9;
        assert_eq!(SegmentHeader::decode(&header, 3), SegmentHeader::OtherVersion);
        assert_eq!(SegmentHeader::decode(&header[..16], 3), SegmentHeader::OtherVersion);
        assert_eq!(SegmentHeader::decode(b"something else entirely", 3), SegmentHeader::Damaged);
    }
}
