//! The envelope: what lies under a key, as bytes that another process can read, today's version or tomorrow's.
//!
//! ```text
//! "TGC" version │ CRC-32 of all that follows │ flags │ kind │ key │ record
//! ```
//!
//! Whatever is odd is an [`DecodeError`], which the store counts and the cache takes for a miss: another version, a
//! byte that
//! changed on the way, half a value, somebody else's value, the entry of another key. Never a panic, never a wrong
//! body.
//!
//! Times are written by the *fleet's clock*, that of the server, since processes do not agree on any other:
//! [`FleetClock`] turns them into this process's own. So a node whose calendar is an hour off neither shortens nor
//! stretches a life.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::compression;
use super::record::{Entry, Language, Stored, StoredBody, TypedPayload, Variant, VaryIndex};
use crate::base::clock::{Timestamp, nanos};
use crate::base::codec::{Reader, Writer};
use crate::cache::data::record;
use crate::cache::http::deadlines::Deadlines;
use crate::cache::http::key::CacheKey;
use crate::cache::http::range::{ByteSpan, ContentRange};
use crate::cache::http::stored_head::{LogPosition, StoredHead};

/// The first bytes of every envelope; the last is the version.
const MAGIC: [u8; 4] = *b"TGC\x01";
/// Where the checksum ends, and what it covers begins.
const HEAD: usize = 8;
/// The record is compressed.
const PACKED: u8 = 1;
const ENTRY: u8 = 0;
const VARY: u8 = 1;

/// Error of decoding an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// It was written by something else.
    Foreign,
    /// It was written by another version.
    Version,
    /// It is cut short, or changed.
    Damaged,
    /// It is whole, and lies under another key than its own.
    OtherKey,
}

impl DecodeError {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "written by something else",
            Self::Version => "written by another version",
            Self::Damaged => "damaged",
            Self::OtherKey => "of another key",
        }
    }
}

/// Between this process's monotonic clock and the fleet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FleetClock {
    /// Nanoseconds by which the fleet's reading is larger.
    ahead: i128,
}

impl FleetClock {
    /// The fleet's clock read `fleet` (nanoseconds since 1970) when this process's read `here`.
    pub(crate) fn reading(here: Timestamp, fleet: u64) -> Self {
        Self { ahead: i128::from(fleet) - i128::from(here.as_nanos()) }
    }

    /// How far two readings are apart.
    pub(crate) fn apart(self, other: Self) -> Duration {
        Duration::from_nanos(clamp((self.ahead - other.ahead).abs()))
    }

    pub(crate) fn fleet(self, here: Timestamp) -> u64 {
        if here == Timestamp::MAX {
            return u64::MAX;
        }
        clamp(i128::from(here.as_nanos()) + self.ahead)
    }

    /// This process's reading, and by how much it lies before the clock's origin.
    fn here(self, fleet: u64) -> (Timestamp, Duration) {
        if fleet == u64::MAX {
            return (Timestamp::MAX, Duration::ZERO);
        }
        let nanos = i128::from(fleet) - self.ahead;
        (Timestamp::from_nanos(clamp(nanos)), Duration::from_nanos(clamp(-nanos)))
    }
}

fn clamp(nanos: i128) -> u64 {
    u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)
}

/// Writes what lies under a key. Records over `pack_over` bytes are compressed, where that makes them smaller.
pub(crate) fn seal(stored: &Stored, clock: FleetClock, pack_over: usize) -> Vec<u8> {
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
    };
    let record = record.0;
    let packed = if record.len() > pack_over { compression::pack(&record) } else { None };
    let packed = packed.filter(|packed| packed.len() < record.len());
    let mut out = Writer(Vec::with_capacity(packed.as_ref().unwrap_or(&record).len() + 256));
    out.0.extend_from_slice(&MAGIC);
    out.u32(0);
    out.u8(if packed.is_some() { PACKED } else { 0 });
    out.u8(kind);
    write_key(&mut out, stored.key());
    out.0.extend_from_slice(packed.as_ref().unwrap_or(&record));
    let checksum = crc32fast::hash(&out.0[HEAD..]);
    out.0[HEAD - 4..HEAD].copy_from_slice(&checksum.to_be_bytes());
    out.0
}

/// Reads what was found under `key`; `here` is the number of invalidations this process has seen when it asked.
///
/// # Errors
/// Why it is not what was asked for.
pub(crate) fn open(sealed: &Bytes, key: &CacheKey, clock: FleetClock, here: u64) -> Result<Stored, DecodeError> {
    let (head, checked) = sealed.split_at_checked(HEAD).ok_or(DecodeError::Foreign)?;
    if head[..3] != MAGIC[..3] {
        return Err(DecodeError::Foreign);
    }
    if head[3] != MAGIC[3] {
        return Err(DecodeError::Version);
    }
    if head[4..] != crc32fast::hash(checked).to_be_bytes() {
        return Err(DecodeError::Damaged);
    }
    let mut reader = Reader(checked);
    let (flags, kind) = reader.u8().zip(reader.u8()).ok_or(DecodeError::Damaged)?;
    if read_key(&mut reader).ok_or(DecodeError::Damaged)? != *key {
        return Err(DecodeError::OtherKey);
    }
    let record = match flags {
        0 => sealed.slice_ref(reader.0),
        // Written by a build that can compress, where this one cannot read it.
        PACKED => compression::unpack(reader.0).ok_or(DecodeError::Version)?.into(),
        _ => return Err(DecodeError::Version),
    };
    match kind {
        ENTRY => read_entry(&record, key, clock, here).map(|entry| Stored::Entry(Arc::new(entry))),
        VARY => read_index(&record, key).map(|index| Stored::Vary(Arc::new(index))),
        _ => return Err(DecodeError::Version),
    }
    .ok_or(DecodeError::Damaged)
}

/// The key that the beginning of an envelope names. Not checked: for a tool that looks at many.
pub(crate) fn key_of(beginning: &[u8]) -> Option<CacheKey> {
    let (head, rest) = beginning.split_at_checked(HEAD + 2)?;
    (head[..4] == MAGIC).then(|| read_key(&mut Reader(rest))).flatten()
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
    out.u64(meta.began.fleet);
    out.u16(meta.status.as_u16());
    out.u8(u8::from(meta.strict) | u8::from(meta.immutable) << 1 | u8::from(entry.partial.is_some()) << 2);
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
    for span in [meta.age, deadlines.initial_staleness, meta.took] {
        out.u64(nanos(span));
    }
    if let Some(part) = entry.partial {
        [part.span.start, part.span.end, part.total].into_iter().for_each(|number| out.u64(number));
    }
    out.count(meta.tags.len());
    meta.tags.iter().for_each(|tag| out.bytes(tag.as_bytes()));
    out.count(meta.headers.len());
    for (name, value) in &meta.headers {
        out.bytes(name.as_str().as_bytes());
        out.bytes(value.as_bytes());
    }
    out.u64(entry.length);
    entry.body.chunks().iter().for_each(|chunk| out.0.extend_from_slice(chunk));
}

fn read_entry(record: &Bytes, key: &CacheKey, clock: FleetClock, here: u64) -> Option<Entry> {
    let mut reader = Reader(record);
    let fleet = reader.u64()?;
    let status = StatusCode::from_u16(reader.u16()?).ok()?;
    let flags = reader.u8()?;
    let (stored_at, before) = clock.here(reader.u64()?);
    let mut time = || reader.u64().map(|fleet| clock.here(fleet));
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
    // What lies before this process's clock began is kept in the age.
    let age = Duration::from_nanos(reader.u64()?) + before;
    let deadlines = Deadlines { initial_staleness: Duration::from_nanos(reader.u64()?) + overdue, ..deadlines };
    let took = Duration::from_nanos(reader.u64()?);
    let partial = match flags & 4 {
        0 => None,
        _ => Some(read_part(&mut reader)?),
    };
    let tags = (0..reader.count()?).map(|_| reader.text().map(Box::from)).collect::<Option<_>>()?;
    let mut headers = HeaderMap::new();
    for _ in 0..reader.count()? {
        let name = HeaderName::from_bytes(reader.bytes()?).ok()?;
        headers.append(name, HeaderValue::from_bytes(reader.bytes()?).ok()?);
    }
    let length = reader.u64()?;
    if length != reader.0.len() as u64 {
        return None;
    }
    let body = record.slice_ref(reader.0);
    let typed = TypedPayload { weight: record::weight_of(key, &body), ..TypedPayload::default() };
    let meta = StoredHead {
        status,
        headers,
        age,
        stored_at,
        deadlines,
        strict: flags & 1 != 0,
        immutable: flags & 2 != 0,
        tags,
        took,
        began: LogPosition { here, fleet },
        checked: AtomicU64::new(0),
    };
    Some(Entry { key: key.clone(), meta: Arc::new(meta), body: StoredBody::one(body), length, partial, typed })
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
        out.maybe(variant.language.as_ref().map(|language| &*language.of));
        out.maybe(variant.language.as_ref().map(|language| &*language.others));
        write_key(out, &variant.key);
    }
}

fn read_index(record: &[u8], key: &CacheKey) -> Option<VaryIndex> {
    let mut reader = Reader(record);
    let nonce = reader.u64()?;
    let variants = (0..reader.count()?).map(|_| read_variant(&mut reader)).collect::<Option<Vec<_>>>()?;
    reader.end()?;
    (variants.len() <= VaryIndex::MOST).then(|| VaryIndex { key: key.clone(), nonce, variants })
}

fn read_variant(reader: &mut Reader<'_>) -> Option<Variant> {
    let name = |reader: &mut Reader<'_>| HeaderName::from_bytes(reader.bytes()?).ok();
    let names = (0..reader.count()?).map(|_| name(reader)).collect::<Option<Vec<_>>>()?;
    let selection = reader.bytes()?.into();
    let language = match (reader.maybe()?, reader.maybe()?) {
        (Some(of), Some(others)) => Some(Language { of: of.into(), others: others.into() }),
        (None, None) => None,
        _ => return None,
    };
    Some(Variant { names: names.into(), selection, language, key: read_key(reader)? })
}

#[cfg(test)]
mod tests;
