//! Codec of stored records for stores that several processes share, across versions of this crate.
//!
//! ```text
//! "TGC" version │ CRC-32 of all that follows │ flags │ kind │ order │ log ID │ key │ record
//! ```
//!
//! Anything unexpected is a [`DecodeError`], which the store counts and the cache treats as a miss: another version, a
//! corrupt or truncated value, a foreign value, the entry of another key. Decoding never panics and never returns a
//! wrong body.
//!
//! Times are written by the *fleet clock*, that of the server, since processes agree on no other: [`FleetClock`]
//! converts them into this process's monotonic time. A node with a wrong calendar neither shortens nor extends a
//! lifetime.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::compression;
use super::record::{Entry, Language, Stored, StoredBody, Variant, VaryIndex};
use super::typed_value::TypedValue;
use crate::base::clock::{Timestamp, nanos};
use crate::base::codec::{Reader, Writer};
use crate::cache::http::deadlines::Deadlines;
use crate::cache::http::key::CacheKey;
use crate::cache::http::range::{ByteSpan, ContentRange};
use crate::cache::http::record_meta::{LogPosition, RecordMeta};
use crate::cache::http::stored_head::StoredHead;

/// Magic number; its last byte is the version.
const MAGIC: [u8; 4] = *b"TGC\x03";
/// End of the checksum, and start of the bytes it covers.
const CHECKSUM_END: usize = 8;
/// Position of the [order](FetchOrder): its two numbers in eight bytes each; 0 for an index.
const ORDER: usize = 10;
/// End of the order, and start of the log ID.
const ORDER_END: usize = ORDER + 16;
/// End of the log ID.
const LOG_ID_END: usize = ORDER_END + 8;
/// Flag: the record is compressed.
const COMPRESSED: u8 = 1;
const ENTRY: u8 = 0;
const VARY: u8 = 1;
const VALUE: u8 = 2;

/// Error of decoding an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// The value was not written by this crate.
    Foreign,
    /// The value was written by another version.
    Version,
    /// The value is truncated or corrupt.
    Corrupt,
    /// The value is intact but belongs to another key.
    KeyMismatch,
    /// The position of the value belongs to another invalidation log.
    OtherLog,
}

impl DecodeError {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "not written by tollgate",
            Self::Version => "written by another version",
            Self::Corrupt => "truncated or corrupt",
            Self::KeyMismatch => "stored under another key",
            Self::OtherLog => "numbered by another invalidation log",
        }
    }
}

/// Offset between this process's monotonic clock and the fleet clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FleetClock {
    /// Nanoseconds by which the fleet clock is ahead.
    offset: i128,
}

impl FleetClock {
    /// Creates the offset from simultaneous readings: `fleet` (nanoseconds since 1970) and `local`.
    pub(crate) fn reading(local: Timestamp, fleet: u64) -> Self {
        Self { offset: i128::from(fleet) - i128::from(local.as_nanos()) }
    }

    /// Returns the difference between two offsets.
    pub(crate) fn difference(self, other: Self) -> Duration {
        Duration::from_nanos(clamp((self.offset - other.offset).abs()))
    }

    pub(super) fn fleet(self, local: Timestamp) -> u64 {
        if local == Timestamp::MAX {
            return u64::MAX;
        }
        clamp(i128::from(local.as_nanos()) + self.offset)
    }

    /// Converts to this process's clock; also returns the time before that clock's origin.
    fn local(self, fleet: u64) -> (Timestamp, Duration) {
        if fleet == u64::MAX {
            return (Timestamp::MAX, Duration::ZERO);
        }
        let nanos = i128::from(fleet) - self.offset;
        (Timestamp::from_nanos(clamp(nanos)), Duration::from_nanos(clamp(-nanos)))
    }
}

fn clamp(nanos: i128) -> u64 {
    u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)
}

/// Encodes a record whose position belongs to the log `log_id`. Records over `compress_over` bytes are compressed if that
/// makes them smaller.
pub(crate) fn encode(stored: &Stored, clock: FleetClock, log_id: u64, compress_over: usize) -> Vec<u8> {
    let mut record = Writer(Vec::new());
    let kind = match stored {
        Stored::Entry(entry) => {
            write_entry(&mut record, entry, clock);
            ENTRY
        }
        Stored::Vary(index) => {
            write_index(&mut record, index);
            VARY
        }
        Stored::Value(value) => {
            write_value(&mut record, value, clock);
            VALUE
        }
    };
    let record = record.0;
    let compressed = if record.len() > compress_over { compression::compress(&record) } else { None };
    let compressed = compressed.filter(|compressed| compressed.len() < record.len());
    let mut out = Writer(Vec::with_capacity(compressed.as_ref().unwrap_or(&record).len() + 256));
    out.0.extend_from_slice(&MAGIC);
    out.u32(0);
    out.u8(if compressed.is_some() { COMPRESSED } else { 0 });
    out.u8(kind);
    let order = stored.meta().map_or_else(FetchOrder::default, |meta| FetchOrder {
        started_at: clock.fleet(meta.requested_at) / 1_000,
        position: meta.began.fleet,
    });
    out.u64(order.started_at);
    out.u64(order.position);
    out.u64(log_id);
    write_key(&mut out, stored.key());
    out.0.extend_from_slice(compressed.as_ref().unwrap_or(&record));
    let checksum = crc32fast::hash(&out.0[CHECKSUM_END..]);
    out.0[CHECKSUM_END - 4..CHECKSUM_END].copy_from_slice(&checksum.to_be_bytes());
    out.0
}

/// Decodes the value found under `key`; `local` is this process's generation at the time of the request.
///
/// # Errors
/// The reason the value cannot be used.
pub(crate) fn decode(encoded: &Bytes, key: &CacheKey, clock: FleetClock, local: u64) -> Result<Stored, DecodeError> {
    let (head, checked) = encoded.split_at_checked(CHECKSUM_END).ok_or(DecodeError::Foreign)?;
    if head[..3] != MAGIC[..3] {
        return Err(DecodeError::Foreign);
    }
    if head[3] != MAGIC[3] {
        return Err(DecodeError::Version);
    }
    if head[4..] != crc32fast::hash(checked).to_be_bytes() {
        return Err(DecodeError::Corrupt);
    }
    let mut reader = Reader(checked);
    let (flags, kind) = reader.u8().zip(reader.u8()).ok_or(DecodeError::Corrupt)?;
    let (started_at, position) = reader.u64().zip(reader.u64()).ok_or(DecodeError::Corrupt)?;
    let order = FetchOrder { started_at, position };
    reader.u64().ok_or(DecodeError::Corrupt)?;
    if read_key(&mut reader).ok_or(DecodeError::Corrupt)? != *key {
        return Err(DecodeError::KeyMismatch);
    }
    let record = match flags {
        0 => encoded.slice_ref(reader.0),
        // Written by a build with compression, which this build lacks.
        COMPRESSED => compression::decompress(reader.0).ok_or(DecodeError::Version)?.into(),
        _ => return Err(DecodeError::Version),
    };
    match kind {
        ENTRY => read_entry(&record, key, clock, local, order).map(|entry| Stored::Entry(Arc::new(entry))),
        VALUE => read_value(&record, key, clock, local, order).map(|value| Stored::Value(Arc::new(value))),
        VARY => read_index(&record, key).map(|index| Stored::Vary(Arc::new(index))),
        _ => return Err(DecodeError::Version),
    }
    .ok_or(DecodeError::Corrupt)
}

/// Whether the position of a value of this version belongs to another log than `log_id`. Other values are left to
/// [`decode`].
pub(crate) fn is_of_another_log(encoded: &[u8], log_id: u64) -> bool {
    let Some((head, _)) = encoded.split_at_checked(LOG_ID_END) else { return false };
    head[..4] == MAGIC && Reader(&head[ORDER_END..]).u64() != Some(log_id)
}

/// Decodes the key at the beginning of a value, without verifying the checksum. For scans over many values.
pub(crate) fn decode_key(beginning: &[u8]) -> Option<CacheKey> {
    let (head, rest) = beginning.split_at_checked(LOG_ID_END)?;
    (head[..4] == MAGIC).then(|| read_key(&mut Reader(rest))).flatten()
}

/// Whether the record of a value is compressed.
#[cfg(feature = "postgres")]
pub(crate) fn is_compressed(value: &[u8]) -> bool {
    value.get(CHECKSUM_END).is_some_and(|flags| flags & COMPRESSED != 0)
}

/// Order of the fetches of encoded values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FetchOrder {
    /// Start of the fetch, in microseconds since 1970 by the fleet clock.
    pub(crate) started_at: u64,
    /// Log position at its start.
    pub(crate) position: u64,
}

impl FetchOrder {
    /// Reads the order from the beginning of a value; the default if it has none.
    pub(crate) fn of(value: &[u8]) -> Self {
        match value.split_at_checked(ORDER_END) {
            Some((head, _)) if head[..4] == MAGIC => {
                let mut reader = Reader(&head[ORDER..]);
                let (started_at, position) = (reader.u64(), reader.u64());
                Self { started_at: started_at.unwrap_or_default(), position: position.unwrap_or_default() }
            }
            _ => Self::default(),
        }
    }

    /// Whether a value of this order may replace one of that: it began later, by the clock or by the log, or so much
    /// earlier that a clock was set back.
    pub(super) fn may_replace(self, old: Self) -> bool {
        const LONGEST_FETCH_MICROS: u64 = 300_000_000;
        old.started_at <= self.started_at
            || old.position < self.position
            || self.started_at == 0
            || old.started_at - self.started_at > LONGEST_FETCH_MICROS
    }
}

fn write_key(out: &mut Writer, key: &CacheKey) {
    out.count(key.resource().len());
    out.bytes(key.as_bytes());
}

fn read_key(reader: &mut Reader<'_>) -> Option<CacheKey> {
    let resource = reader.u32()? as usize;
    let bytes = reader.bytes()?;
    (resource <= bytes.len()).then(|| CacheKey::from_bytes(bytes, resource))
}

fn write_entry(out: &mut Writer, entry: &Entry, clock: FleetClock) {
    let meta = &*entry.meta;
    out.u16(meta.status.as_u16());
    out.u8(u8::from(meta.immutable) | u8::from(entry.partial.is_some()) << 1);
    write_meta(out, meta, clock);
    out.u64(nanos(meta.age));
    if let Some(part) = entry.partial {
        [part.span.start, part.span.end, part.total].into_iter().for_each(|number| out.u64(number));
    }
    out.count(meta.headers.len());
    for (name, value) in &meta.headers {
        out.bytes(name.as_str().as_bytes());
        out.bytes(value.as_bytes());
    }
    out.u64(entry.length);
    entry.body.chunks().iter().for_each(|chunk| out.0.extend_from_slice(chunk));
}

fn read_entry(record: &Bytes, key: &CacheKey, clock: FleetClock, local: u64, order: FetchOrder) -> Option<Entry> {
    let mut reader = Reader(record);
    let status = StatusCode::from_u16(reader.u16()?).ok()?;
    let flags = reader.u8()?;
    let (meta, before) = read_meta(&mut reader, clock, local, order)?;
    // Time before the origin of this process's clock is added to the age.
    let age = Duration::from_nanos(reader.u64()?) + before;
    let partial = match flags & 2 {
        0 => None,
        _ => Some(read_part(&mut reader)?),
    };
    let mut headers = HeaderMap::new();
    for _ in 0..reader.count()? {
        let name = HeaderName::from_bytes(reader.bytes()?).ok()?;
        headers.try_append(name, HeaderValue::from_bytes(reader.bytes()?).ok()?).ok()?;
    }
    let length = reader.u64()?;
    if length != reader.0.len() as u64 {
        return None;
    }
    let body = record.slice_ref(reader.0);
    let meta = StoredHead { record: meta, status, headers, age, immutable: flags & 1 != 0 };
    Some(Entry { key: key.clone(), meta: Arc::new(meta), body: StoredBody::one(body), length, partial })
}

fn write_value(out: &mut Writer, value: &TypedValue, clock: FleetClock) {
    write_meta(out, &value.meta, clock);
    out.u32(value.size);
    out.0.extend_from_slice(&value.encoded);
}

fn read_value(record: &Bytes, key: &CacheKey, clock: FleetClock, local: u64, order: FetchOrder) -> Option<TypedValue> {
    let mut reader = Reader(record);
    let (meta, _) = read_meta(&mut reader, clock, local, order)?;
    let size = reader.u32()?;
    let encoded = record.slice_ref(reader.0);
    Some(TypedValue { key: key.clone(), meta, size, encoded, value: OnceLock::new() })
}

fn write_meta(out: &mut Writer, meta: &RecordMeta, clock: FleetClock) {
    out.u8(u8::from(meta.strict));
    let deadlines = &meta.deadlines;
    out.u64(clock.fleet(meta.stored_at));
    for time in [
        deadlines.fresh_until,
        deadlines.refresh_from,
        deadlines.revalidate_until,
        deadlines.error_until,
        deadlines.unreachable_until,
        deadlines.retain_until,
    ] {
        out.u64(clock.fleet(time));
    }
    for span in [deadlines.initial_staleness, meta.took] {
        out.u64(nanos(span));
    }
    out.count(meta.tags.len());
    meta.tags.iter().for_each(|tag| out.bytes(tag.as_bytes()));
}

/// Reads times, tags and order; also returns how long before the origin of this process's clock the record was stored.
fn read_meta(
    reader: &mut Reader<'_>,
    clock: FleetClock,
    local: u64,
    order: FetchOrder,
) -> Option<(RecordMeta, Duration)> {
    let strict = reader.u8()? & 1 != 0;
    let (stored_at, before) = clock.local(reader.u64()?);
    let mut time = || reader.u64().map(|fleet| clock.local(fleet));
    let (fresh_until, overdue) = time()?;
    let deadlines = Deadlines {
        fresh_until,
        initial_staleness: Duration::ZERO,
        refresh_from: time()?.0,
        revalidate_until: time()?.0,
        error_until: time()?.0,
        unreachable_until: time()?.0,
        retain_until: time()?.0,
    };
    let deadlines = Deadlines { initial_staleness: Duration::from_nanos(reader.u64()?) + overdue, ..deadlines };
    let took = Duration::from_nanos(reader.u64()?);
    let tags = (0..reader.count()?).map(|_| reader.text().map(Box::from)).collect::<Option<_>>()?;
    let requested_at = clock.local(order.started_at.saturating_mul(1_000)).0;
    let began = LogPosition { local, fleet: order.position };
    let (checked, copied_at) = (AtomicU64::new(0), AtomicU64::new(0));
    let meta = RecordMeta { stored_at, requested_at, deadlines, strict, tags, took, began, checked, copied_at };
    Some((meta, before))
}

fn read_part(reader: &mut Reader<'_>) -> Option<ContentRange> {
    let (start, end, total) = (reader.u64()?, reader.u64()?, reader.u64()?);
    (start <= end && end <= total).then_some(ContentRange { span: ByteSpan { start, end }, total })
}

fn write_index(out: &mut Writer, index: &VaryIndex) {
    out.u64(index.nonce);
    out.count(index.variants.len());
    for variant in &index.variants {
        out.count(variant.names.len());
        variant.names.iter().for_each(|name| out.bytes(name.as_str().as_bytes()));
        out.bytes(&variant.selection);
        out.maybe(variant.language.as_ref().map(|language| &*language.tag));
        out.maybe(variant.language.as_ref().map(|language| &*language.other_selection));
        write_key(out, &variant.key);
    }
}

fn read_index(record: &[u8], key: &CacheKey) -> Option<VaryIndex> {
    let mut reader = Reader(record);
    let nonce = reader.u64()?;
    let variants = (0..reader.count()?).map(|_| read_variant(&mut reader)).collect::<Option<Vec<_>>>()?;
    reader.end()?;
    (variants.len() <= VaryIndex::MAX_VARIANTS).then(|| VaryIndex { key: key.clone(), nonce, variants })
}

fn read_variant(reader: &mut Reader<'_>) -> Option<Variant> {
    let name = |reader: &mut Reader<'_>| HeaderName::from_bytes(reader.bytes()?).ok();
    let names = (0..reader.count()?).map(|_| name(reader)).collect::<Option<Vec<_>>>()?;
    let selection = reader.bytes()?.into();
    let language = match (reader.maybe()?, reader.maybe()?) {
        (Some(tag), Some(others)) => Some(Language { tag: tag.into(), other_selection: others.into() }),
        (None, None) => None,
        _ => return None,
    };
    Some(Variant { names: names.into(), selection, language, key: read_key(reader)? })
}

#[cfg(test)]
mod tests;
