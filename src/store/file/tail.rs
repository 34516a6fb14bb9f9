//! [`Tail`]: the end of the log, in memory until the writer has written it. Pure: no files, no time.
//!
//! Records get their positions here, in order. A segment that has no room for the next record and its footer is sealed:
//! its footer follows its records, and the next record begins another segment.

use std::collections::VecDeque;
use std::sync::Arc;

use super::index::{IndexEntry, Position};
use super::record::{RecordHead, SEGMENT_HEADER, SegmentHeader, encode_footer, footer_length};

/// Size from which a chunk is written on its own.
const CHUNK: usize = 1 << 20;
/// Bytes that may wait for the writer; a single longer record is accepted if nothing waits.
const QUEUE: usize = 16 << 20;

/// Consecutive bytes of a segment.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) segment: u32,
    /// Offset of the first byte in the segment.
    pub(super) start: u32,
    pub(super) bytes: Vec<u8>,
    /// Whether the segment ends with it, and has a footer.
    pub(super) seals: bool,
}

impl Chunk {
    fn end(&self) -> u32 {
        self.start + self.bytes.len() as u32
    }

    fn contains(&self, at: Position) -> bool {
        self.segment == at.segment && (self.start..self.end()).contains(&at.offset)
    }
}

/// End of the log that is not written yet.
#[derive(Debug)]
pub(super) struct Tail {
    segment_bytes: usize,
    /// Chunks to write; the last one grows.
    chunks: VecDeque<Chunk>,
    /// Chunk that is being written.
    writing: Option<Arc<Chunk>>,
    /// Entries of the footer of the current segment.
    footer: Vec<(u64, IndexEntry)>,
    /// Position of the next record.
    next: Position,
    /// The segment before the current one; 0 for none.
    previous: u32,
    /// Whether the current segment has a header yet.
    is_begun: bool,
    queued: usize,
}

impl Tail {
    /// Creates the tail of a log whose next segment has this ID.
    pub(super) fn new(segment: u32, previous: u32, segment_bytes: u32) -> Self {
        Self {
            segment_bytes: segment_bytes as usize,
            chunks: VecDeque::new(),
            writing: None,
            footer: Vec::new(),
            next: Position { segment, offset: SEGMENT_HEADER as u32 },
            previous,
            is_begun: false,
            queued: 0,
        }
    }

    /// Appends a record: its head, and the rest in two parts. Returns its position; `None` if too much waits to be
    /// written.
    pub(super) fn append(&mut self, head: &RecordHead, name: &[u8], value: &[u8]) -> Option<Position> {
        if self.queued > 0 && self.queued + head.length as usize > QUEUE {
            return None;
        }
        Some(self.append_always(head, name, value))
    }

    /// Appends a record, whatever waits.
    pub(super) fn append_always(&mut self, head: &RecordHead, name: &[u8], value: &[u8]) -> Position {
        let sealed = self.next.offset as usize + head.length as usize + footer_length(self.footer.len() + 1);
        if self.is_begun && sealed > self.segment_bytes {
            self.seal();
        }
        self.begin();
        let at = self.next;
        self.extend(&head.encode(at));
        self.extend(name);
        self.extend(value);
        self.footer.push((head.hash, head.index_entry(at)));
        self.next.offset += head.length;
        at
    }

    /// Ends the current segment, if it has begun.
    pub(super) fn seal(&mut self) {
        if !self.is_begun {
            return;
        }
        let Position { segment, offset } = self.next;
        let footer = encode_footer(segment, &std::mem::take(&mut self.footer), offset);
        self.extend(&footer);
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.seals = true;
        }
        self.previous = segment;
        self.next = Position { segment: segment + 1, offset: SEGMENT_HEADER as u32 };
        self.is_begun = false;
    }

    /// Takes the next chunk to write; it stays readable until [`written`](Self::written).
    pub(super) fn take(&mut self) -> Option<Arc<Chunk>> {
        let chunk = Arc::new(self.chunks.pop_front()?);
        self.writing = Some(chunk.clone());
        Some(chunk)
    }

    /// Releases the chunk that was taken.
    pub(super) fn written(&mut self) {
        if let Some(chunk) = self.writing.take() {
            self.queued -= chunk.bytes.len();
        }
    }

    /// Bytes that wait to be written.
    pub(super) const fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.writing.is_none()
    }

    /// Reads a record that is not written yet; `None` if it is.
    pub(super) fn read(&self, at: Position, length: u32) -> Option<Vec<u8>> {
        let chunk = self.chunks.iter().find(|chunk| chunk.contains(at));
        let chunk = chunk.or_else(|| self.writing.as_deref().filter(|chunk| chunk.contains(at)))?;
        let start = (at.offset - chunk.start) as usize;
        Some(chunk.bytes.get(start..start + length as usize)?.to_vec())
    }

    fn begin(&mut self) {
        if !self.is_begun {
            self.is_begun = true;
            let bytes = SegmentHeader::encode(self.next.segment, self.previous);
            self.queued += bytes.len();
            self.chunks.push_back(Chunk { segment: self.next.segment, start: 0, bytes, seals: false });
        } else if self.chunks.back().is_none_or(|chunk| chunk.bytes.len() >= CHUNK) {
            let Position { segment, offset } = self.next;
            self.chunks.push_back(Chunk { segment, start: offset, bytes: Vec::new(), seals: false });
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        // A seal may follow a chunk that was taken.
        if self.chunks.is_empty() {
            let Position { segment, offset } = self.next;
            self.chunks.push_back(Chunk { segment, start: offset, bytes: Vec::new(), seals: false });
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.bytes.extend_from_slice(bytes);
            self.queued += bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::file::record::decode_footer;

    fn value(name: &str, length: usize) -> (RecordHead, Vec<u8>) {
        let value = vec![name.len() as u8; length];
        (RecordHead::value(name, &value, 1_600_000_000_000, 1_700_000_000_000).expect("short"), value)
    }

    #[test]
    fn records_are_readable_until_they_are_written_and_segments_end_with_a_footer() {
        let mut tail = Tail::new(1, 0, 4_096);
        let mut segments = vec![Vec::new(); 8];
        let mut places = Vec::new();
        for n in 0..20 {
            let (head, value) = value(&format!("name {n}"), 500);
            let at = tail.append(&head, format!("name {n}").as_bytes(), &value).expect("room");
            places.push((at, head));
            assert!(tail.read(at, head.length).is_some_and(|record| RecordHead::verify(&record, at) == Some(head)));
            if n % 3 == 0 {
                while let Some(chunk) = tail.take() {
                    assert!(tail.read(at, head.length).is_some() || chunk.segment < at.segment);
                    let segment = &mut segments[chunk.segment as usize];
                    assert_eq!(segment.len(), chunk.start as usize);
                    segment.extend_from_slice(&chunk.bytes);
                    tail.written();
                }
                assert!(tail.is_empty() && tail.queued() == 0);
                assert_eq!(tail.read(at, head.length), None);
            }
        }
        tail.seal();
        while let Some(chunk) = tail.take() {
            segments[chunk.segment as usize].extend_from_slice(&chunk.bytes);
            tail.written();
        }
        let mut listed = Vec::new();
        for (id, segment) in segments.iter().enumerate().filter(|(_, segment)| !segment.is_empty()) {
            assert!(segment.len() <= 4_096, "{}", segment.len());
            let end = u32::from_be_bytes(segment[segment.len() - 12..][..4].try_into().expect("four bytes"));
            listed.extend(decode_footer(id as u32, &segment[end as usize..]).expect("a footer"));
        }
        assert_eq!(listed, places.iter().map(|(at, head)| (head.hash, head.index_entry(*at))).collect::<Vec<_>>());
    }

    #[test]
    fn puts_are_refused_when_too_much_waits_and_removals_are_not() {
        let mut tail = Tail::new(1, 0, u32::MAX);
        let (head, large) = value("large", QUEUE);
        assert!(tail.append(&head, b"large", &large).is_some(), "alone");
        let (head, small) = value("small", 10);
        assert!(tail.append(&head, b"small", &small).is_none());
        tail.append_always(&RecordHead::removal(7, 0), b"", b"");
        while tail.take().is_some() {
            tail.written();
        }
        assert!(tail.append(&head, b"small", &small).is_some());
    }
}
