//! [`Entry`]: a stored response, prepared for serving without further decisions.
//!
//! The fields are those of the response to be sent, with a slot for `Age`; deadlines are compared, not computed; the
//! body is reference-counted. [`Stored`] is the record under a key: an entry, for responses that vary the index of variants,
//! or a typed value.

use std::cell::Cell;
use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::body_memory::{BodyMemory, StoredBlocks};
use super::typed_value::TypedValue;
use crate::base::clock::Timestamp;
use crate::base::headers::RATE_FIELDS;
use crate::cache::http::key::CacheKey;
use crate::cache::http::range::{ByteSpan, ContentRange};
use crate::cache::http::record_meta::{LogPosition, RECORD_OVERHEAD, RecordMeta};
use crate::cache::http::settings::TOLLGATE_CACHE_CONTROL;
use crate::cache::http::storability::StorePolicy;
use crate::cache::http::stored_head::StoredHead;

/// Overhead of a field: its slot in a half-empty map, and an allocation.
const FIELD_OVERHEAD: usize = 192;

/// Bytes of a stored response.
#[derive(Clone, Debug)]
pub(crate) struct StoredBody {
    pub(crate) blocks: Blocks,
    /// Attributes the blocks to the store; `None` for bodies that no [`BodyMemory`] counts.
    _stored_blocks: Option<Arc<StoredBlocks>>,
}

/// Blocks of a body, in order.
#[derive(Clone, Debug)]
pub(crate) enum Blocks {
    /// One block, or none.
    One(Bytes),
    /// Several.
    Many(Arc<[Bytes]>),
}

impl StoredBody {
    /// Creates a body of one block that is not accounted.
    pub(crate) const fn one(body: Bytes) -> Self {
        Self { blocks: Blocks::One(body), _stored_blocks: None }
    }

    /// Creates a body from accounted blocks, which count as stored from now on.
    pub(crate) fn from_blocks(blocks: &[Bytes], body_memory: &Arc<BodyMemory>) -> Self {
        let _stored_blocks = Some(StoredBlocks::new(body_memory, blocks));
        let blocks = match blocks {
            [] => Blocks::One(Bytes::new()),
            [block] => Blocks::One(block.clone()),
            _ => Blocks::Many(blocks.into()),
        };
        Self { blocks, _stored_blocks }
    }

    /// Returns the blocks, in order.
    pub(crate) fn chunks(&self) -> Vec<Bytes> {
        match &self.blocks {
            Blocks::One(bytes) => vec![bytes.clone()],
            Blocks::Many(chunks) => chunks.to_vec(),
        }
    }

    /// Returns a range of bytes by reference.
    pub(crate) fn slice(&self, range: ByteSpan) -> Vec<Bytes> {
        let mut at = 0;
        let mut storable = Vec::new();
        for chunk in self.chunks() {
            let (start, end) = (at, at + chunk.len() as u64);
            at = end;
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                storable.push(chunk.slice((from - start) as usize..(to - start) as usize));
            }
        }
        storable
    }
}

/// Stored response, created by the cache and held by a [`CacheStore`](crate::cache::CacheStore).
///
/// ```
/// use tollgate::cache::Entry;
///
/// fn describe(entry: &Entry) -> String {
///     format!("{} with {} bytes, tags {:?}", entry.status(), entry.length(), entry.tags().collect::<Vec<_>>())
/// }
/// # let _ = describe;
/// ```
#[derive(Clone)]
pub struct Entry {
    pub(crate) key: CacheKey,
    pub(crate) meta: Arc<StoredHead>,
    pub(crate) body: StoredBody,
    pub(crate) length: u64,
    /// Byte range of a partial response (RFC 9111 §3.3).
    pub(crate) partial: Option<ContentRange>,
}

impl Entry {
    /// Returns the key under which the entry was stored.
    #[must_use]
    pub const fn key(&self) -> &CacheKey {
        &self.key
    }

    /// Returns the status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.meta.status
    }

    /// Returns the header fields.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.meta.headers
    }

    /// Returns the body length in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Returns the tags for invalidation.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.meta.tags.iter().map(|tag| &**tag)
    }

    /// Returns the time after which the entry is unusable.
    #[must_use]
    pub fn retain_until(&self) -> Timestamp {
        self.meta.deadlines.retain_until
    }

    /// Returns a copy that became stale at `now`.
    pub(crate) fn marked_stale(&self, now: Timestamp) -> Self {
        let mut meta = self.meta.with_headers(self.meta.headers.clone());
        meta.expire(now);
        Self { meta: Arc::new(meta), ..self.clone() }
    }

    /// Returns the approximate size in memory, in bytes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let fields: usize =
            self.meta.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD).sum();
        let tags: usize = self.meta.tags.iter().map(|tag| tag.len() + 16).sum();
        self.length + (fields + tags + 2 * self.key.as_bytes().len()) as u64 + RECORD_OVERHEAD
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("status", &self.meta.status)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// Variant of a response: its selecting fields and its key.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub(crate) names: Arc<[HeaderName]>,
    /// Encoded values of the selecting fields in the original request.
    pub(crate) selection: Box<[u8]>,
    pub(crate) language: Option<Language>,
    pub(crate) key: CacheKey,
}

/// Language of a response that varies on `Accept-Language`.
#[derive(Clone, Debug)]
pub(crate) struct Language {
    /// Language tag.
    pub(crate) tag: Box<[u8]>,
    /// Encoded values of the other selecting fields.
    pub(crate) other_selection: Box<[u8]>,
}

/// Index of the variants of one key, the most recent first.
///
/// ```
/// use tollgate::cache::VaryIndex;
///
/// fn is_full(index: &VaryIndex) -> bool {
///     index.len() >= 32
/// }
/// # let _ = is_full;
/// ```
#[derive(Clone, Debug)]
pub struct VaryIndex {
    pub(crate) key: CacheKey,
    /// Part of every variant's key: removing the index orphans the variants.
    pub(crate) nonce: u64,
    pub(crate) variants: Vec<Variant>,
}

impl VaryIndex {
    /// Maximum number of variants per key; the least recently stored is evicted.
    pub(crate) const MAX_VARIANTS: usize = 32;

    /// Returns the number of variants.
    #[must_use]
    pub fn len(&self) -> usize {
        self.variants.len()
    }

    /// Whether the index is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.variants.is_empty()
    }
}

/// Value stored under a key. Cloning it is cheap.
///
/// ```
/// use tollgate::cache::Stored;
///
/// fn describe(stored: &Stored) -> &'static str {
///     match stored {
///         Stored::Entry(_) => "a response",
///         Stored::Vary(_) => "an index of variants",
///         Stored::Value(_) => "a typed value",
///         _ => "unknown",
///     }
/// }
/// # let _ = describe;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Stored {
    /// A response.
    Entry(Arc<Entry>),
    /// An index of variants.
    Vary(Arc<VaryIndex>),
    /// A typed value.
    Value(Arc<TypedValue>),
}

impl Stored {
    /// Whether this value may replace a stored one: its fetch began later, or the other is an index.
    pub(crate) fn may_replace(&self, old: &Self) -> bool {
        match (self.meta(), old.meta()) {
            (Some(new), Some(old)) => new.may_replace(old),
            _ => true,
        }
    }

    /// Returns times, tags and order; an index has none.
    pub(crate) fn meta(&self) -> Option<&RecordMeta> {
        match self {
            Self::Entry(entry) => Some(&entry.meta),
            Self::Value(value) => Some(&value.meta),
            Self::Vary(_) => None,
        }
    }

    /// Returns a copy that became stale at `now`.
    pub(crate) fn marked_stale(&self, now: Timestamp) -> Self {
        match self {
            Self::Entry(entry) => Self::Entry(Arc::new(entry.marked_stale(now))),
            Self::Value(value) => Self::Value(Arc::new(value.marked_stale(now))),
            Self::Vary(index) => Self::Vary(index.clone()),
        }
    }

    /// Whether no other process could decode it.
    pub(crate) fn stays_in_process(&self) -> bool {
        matches!(self, Self::Value(value) if value.encoded.is_empty())
    }

    /// Returns the key under which the value was stored.
    ///
    /// ```
    /// use tollgate::cache::{CacheKey, Stored};
    ///
    /// fn belongs_to(stored: &Stored, key: &CacheKey) -> bool {
    ///     stored.key() == key
    /// }
    /// # let _ = belongs_to;
    /// ```
    #[must_use]
    pub fn key(&self) -> &CacheKey {
        match self {
            Self::Entry(entry) => &entry.key,
            Self::Vary(index) => &index.key,
            Self::Value(value) => &value.key,
        }
    }

    /// Returns the approximate size in memory, in bytes.
    ///
    /// ```
    /// use tollgate::cache::Stored;
    ///
    /// fn fits(stored: &Stored, free_bytes: u64) -> bool {
    ///     stored.weight() <= free_bytes
    /// }
    /// # let _ = fits;
    /// ```
    #[must_use]
    pub fn weight(&self) -> u64 {
        match self {
            Self::Entry(entry) => entry.weight(),
            Self::Value(value) => value.weight(),
            Self::Vary(index) => {
                let variants: usize = index.variants.iter().map(|variant| variant.selection.len() + 512).sum();
                (variants + index.key.as_bytes().len()) as u64 + RECORD_OVERHEAD
            }
        }
    }
}

/// RFC 9111 §3.1: fields a cache must not store, beside those that `Connection` names.
const NOT_STORED: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    TOLLGATE_CACHE_CONTROL,
];

/// Copies the fields that may be stored: without hop-by-hop fields, rate-limit fields, and those of each list in `omit`.
///
/// RFC 9110 §6.6.1: a recipient with a clock adds the `Date` of arrival, `wall`, to a response it caches.
///
/// The values are copied: received values are slices of the connection's read buffer, and would keep hundreds of
/// kilobytes allocated for the lifetime of the entry.
pub(crate) fn storable(headers: &HeaderMap, omit: &[&[HeaderName]], wall: Option<SystemTime>) -> HeaderMap {
    // Capacity for fields added on a hit: Age, Cache-Status, three of a limit.
    let mut storable = HeaderMap::with_capacity(headers.len() + 5);
    let is_omitted = |name| {
        NOT_STORED.contains(name) || RATE_FIELDS.contains(name) || omit.iter().any(|omitted| omitted.contains(name))
    };
    for (name, value) in headers.iter().filter(|(name, _)| !is_omitted(*name)) {
        storable.append(name, value.clone());
    }
    for line in headers.get_all(header::CONNECTION) {
        for name in line.as_bytes().split(|b| *b == b',') {
            if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
                storable.remove(name);
            }
        }
    }
    let date = wall.filter(|_| !storable.contains_key(header::DATE)).and_then(http_date);
    compact_values(&mut storable, date.as_ref().map_or(&[], |date| date));
    storable
}

/// Moves all values, and those of a `Date` if it is not empty, into one allocation: a hit that copies the fields then touches
/// one reference count.
fn compact_values(headers: &mut HeaderMap, date: &[u8]) {
    let mut block = Vec::with_capacity(headers.values().map(HeaderValue::len).sum::<usize>() + date.len());
    block.extend_from_slice(date);
    headers.values().for_each(|value| block.extend_from_slice(value.as_bytes()));
    let (block, mut at) = (Bytes::from(block), date.len());
    for value in headers.values_mut() {
        let slice = block.slice(at..at + value.len());
        at += value.len();
        // The bytes came from a valid value.
        if let Ok(mut moved) = HeaderValue::from_maybe_shared(slice) {
            moved.set_sensitive(value.is_sensitive());
            *value = moved;
        }
    }
    if let Some(date) = (!date.is_empty()).then(|| HeaderValue::from_maybe_shared(block.slice(..date.len()))) {
        date.map(|date| headers.insert(header::DATE, date)).ok();
    }
}

/// Creates the head to store under this policy.
pub(crate) fn meta(status: StatusCode, mut headers: HeaderMap, policy: StorePolicy, began: LogPosition) -> StoredHead {
    // A slot for `Age`, so that a hit changes a value without moving others.
    headers.insert(header::AGE, HeaderValue::from_static("0"));
    let deadlines = policy.deadlines();
    let record = RecordMeta {
        stored_at: policy.exchange.received_at,
        requested_at: policy.exchange.requested_at,
        deadlines,
        strict: policy.strict,
        tags: policy.tags,
        took: policy.exchange.received_at.since(policy.exchange.requested_at),
        began,
        checked: AtomicU64::new(0),
        copied_at: AtomicU64::new(0),
    };
    StoredHead { record, status, headers, age: policy.age, immutable: policy.immutable }
}

/// Text of an HTTP date.
type DateText = [u8; 29];

/// Formats IMF-fixdate (RFC 9110 §5.6.7); `None` outside the years 1970 to 9999. A thread formats each second once.
fn http_date(wall: SystemTime) -> Option<DateText> {
    thread_local! {
        static LATEST: Cell<(u64, DateText)> = const { Cell::new((u64::MAX, [0; 29])) };
    }
    let second = wall.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    if second >= 253_402_300_800 {
        return None;
    }
    let latest = LATEST.try_with(Cell::get).ok().filter(|(known, _)| *known == second);
    if let Some((_, text)) = latest {
        return Some(text);
    }
    let mut text = [0; 29];
    write!(&mut text[..], "{}", httpdate::HttpDate::from(wall)).ok()?;
    let _ = LATEST.try_with(|latest| latest.set((second, text)));
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn hop_by_hop_and_connection_fields_are_not_stored() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("x-ratelimit-remaining", "4"),
            ("tollgate-cache-control", "max-age=1"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("x-strip", "1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let storable = storable(&headers, &[&[HeaderName::from_static("x-strip")]], None);
        for (name, value) in &storable {
            let sent = headers.get(name).expect("it was sent");
            assert_ne!(value.as_bytes().as_ptr(), sent.as_bytes().as_ptr(), "{name} is in memory of its own");
        }
        assert_eq!(storable.len(), 2);
        assert_eq!(storable.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn dates_outside_the_format_are_omitted() {
        let epoch = std::time::UNIX_EPOCH;
        assert_eq!(&http_date(epoch).expect("a date"), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert!(http_date(epoch - Duration::from_secs(1)).is_none());
        assert!(http_date(epoch + Duration::from_secs(1 << 40)).is_none());
    }
}
