//! [`Entry`]: a stored response, prepared so that serving it decides nothing.
//!
//! The fields are those of the answer to be sent, with a place for `Age`; the times are compared, never computed; the
//! body is shared by reference count. [`Stored`] is what lies under a key: an entry, or (where responses vary) the
//! list of variants that leads to one.

use std::any::Any;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::body_memory::{BodyMemory, Holding};
use crate::base::clock::Timestamp;
use crate::base::headers::RATE_FIELDS;
use crate::cache::http::key::CacheKey;
use crate::cache::http::range::{ByteSpan, ContentRange};
use crate::cache::http::settings::TOLLGATE_CACHE_CONTROL;
use crate::cache::http::storability::StorePolicy;
use crate::cache::http::stored_head::{LogPosition, StoredHead};

/// What an entry weighs beside its bytes: keys, maps, counters.
const OVERHEAD: u64 = 1024;
/// What a field weighs beside its name and value: its place in the map, half empty, and an allocation.
const FIELD: usize = 192;

/// The bytes of a stored response.
#[derive(Clone, Debug)]
pub(crate) struct StoredBody {
    pub(crate) blocks: Blocks,
    /// Says that they are an entry's; none for those that no [`BodyMemory`] counts.
    _holding: Option<Arc<Holding>>,
}

/// The blocks of a body, in order.
#[derive(Clone, Debug)]
pub(crate) enum Blocks {
    /// One block, or none.
    One(Bytes),
    /// Several.
    Many(Arc<[Bytes]>),
}

impl StoredBody {
    /// A body that no gauge counts, in one piece.
    pub(crate) const fn one(body: Bytes) -> Self {
        Self { blocks: Blocks::One(body), _holding: None }
    }

    /// A body in counted blocks: from now on they are counted as stored.
    pub(crate) fn held(mut blocks: Vec<Bytes>, gauge: &Arc<BodyMemory>) -> Self {
        let _holding = Some(Holding::new(gauge, &blocks));
        let blocks = match blocks.len() {
            0 => Blocks::One(Bytes::new()),
            1 => Blocks::One(blocks.swap_remove(0)),
            _ => Blocks::Many(blocks.into()),
        };
        Self { blocks, _holding }
    }

    /// Its blocks, in order.
    pub(crate) fn chunks(&self) -> Vec<Bytes> {
        match &self.blocks {
            Blocks::One(bytes) => vec![bytes.clone()],
            Blocks::Many(chunks) => chunks.to_vec(),
        }
    }

    /// These bytes of it, by reference.
    pub(crate) fn slice(&self, wanted: ByteSpan) -> Vec<Bytes> {
        let mut at = 0;
        let mut kept = Vec::new();
        for chunk in self.chunks() {
            let (start, end) = (at, at + chunk.len() as u64);
            at = end;
            let (from, to) = (wanted.start.max(start), wanted.end.min(end));
            if from < to {
                kept.push(chunk.slice((from - start) as usize..(to - start) as usize));
            }
        }
        kept
    }
}

/// Decoded typed value with its weight; empty for a response.
#[derive(Clone, Debug, Default)]
pub(crate) struct TypedPayload {
    /// What the value weighs in memory, read or not yet.
    pub(crate) weight: u32,
    /// The value, once somebody has read it here, and as which version: it is read once, however often it is hit.
    pub(crate) value: OnceLock<(u32, Arc<dyn Any + Send + Sync>)>,
}

/// A stored response. Built by the cache, kept by a [`CacheStore`](crate::cache::CacheStore).
#[derive(Clone)]
pub struct Entry {
    pub(crate) key: CacheKey,
    pub(crate) meta: Arc<StoredHead>,
    pub(crate) body: StoredBody,
    pub(crate) length: u64,
    /// Which bytes of the whole these are, where they are not all (RFC 9111 §3.3).
    pub(crate) partial: Option<ContentRange>,
    pub(crate) typed: TypedPayload,
}

impl Entry {
    /// The key it was stored under, compared with the one asked for when it is read.
    #[must_use]
    pub const fn key(&self) -> &CacheKey {
        &self.key
    }

    /// The status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.meta.status
    }

    /// Its fields.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.meta.headers
    }

    /// How many bytes its body has.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The tags it can be invalidated by.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.meta.tags.iter().map(|tag| &**tag)
    }

    /// After this time it is of no use to anyone.
    #[must_use]
    pub fn retain_until(&self) -> Timestamp {
        self.meta.deadlines.retain_until
    }

    /// The same entry, as if its freshness had just ended.
    #[cfg(feature = "redis")]
    pub(crate) fn marked_stale(&self, now: Timestamp) -> Self {
        let mut meta = self.meta.with_headers(self.meta.headers.clone());
        meta.deadlines.fresh_until = meta.deadlines.fresh_until.min(now);
        meta.deadlines.refresh_from = meta.deadlines.refresh_from.min(now);
        Self { meta: Arc::new(meta), ..self.clone() }
    }

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let fields: usize =
            self.meta.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum();
        let tags: usize = self.meta.tags.iter().map(|tag| tag.len() + 16).sum();
        let typed = u64::from(self.typed.weight);
        self.length + typed + (fields + tags + 2 * self.key.as_bytes().len()) as u64 + OVERHEAD
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

/// One variant of a response that varies: what a request must say to be answered by it, and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub(crate) names: Arc<[HeaderName]>,
    /// What the request that made it said in those fields.
    pub(crate) selection: Box<[u8]>,
    pub(crate) language: Option<Language>,
    pub(crate) key: CacheKey,
}

/// For a response that varies on `Accept-Language`: who else may be answered by it.
#[derive(Clone, Debug)]
pub(crate) struct Language {
    /// The language it is in.
    pub(crate) of: Box<[u8]>,
    /// What the request that made it said in the other fields.
    pub(crate) others: Box<[u8]>,
}

/// The variants stored for one key, the most recent first.
#[derive(Clone, Debug)]
pub struct VaryIndex {
    pub(crate) key: CacheKey,
    /// Part of every variant's key: removing the index orphans them all.
    pub(crate) nonce: u64,
    pub(crate) variants: Vec<Variant>,
}

impl VaryIndex {
    /// The most a key may have; the one least recently stored goes.
    pub(crate) const MOST: usize = 32;

    /// How many variants there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.variants.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.variants.is_empty()
    }
}

/// What lies under a key. Cloning it counts references.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Stored {
    /// A response.
    Entry(Arc<Entry>),
    /// The way to the responses that vary.
    Vary(Arc<VaryIndex>),
}

impl Stored {
    /// The key it was stored under.
    #[must_use]
    pub fn key(&self) -> &CacheKey {
        match self {
            Self::Entry(entry) => &entry.key,
            Self::Vary(index) => &index.key,
        }
    }

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        match self {
            Self::Entry(entry) => entry.weight(),
            Self::Vary(index) => {
                let variants: usize = index.variants.iter().map(|variant| variant.selection.len() + 512).sum();
                (variants + index.key.as_bytes().len()) as u64 + OVERHEAD
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

/// A copy of these fields as they may be stored: without hop-by-hop fields, another user's limits, and `strip`.
///
/// The values are copied: as they came from the wire they are slices of the connection's read buffer, and would hold
/// hundreds of kilobytes alive for as long as the entry is kept.
pub(crate) fn storable(headers: &HeaderMap, strip: &[HeaderName]) -> HeaderMap {
    // Room for what a hit, and the layers outside, add: Age, Cache-Status, three of a limit's.
    let mut kept = HeaderMap::with_capacity(headers.len() + 5);
    for (name, value) in headers {
        kept.append(name, value.clone());
    }
    for line in headers.get_all(header::CONNECTION) {
        for name in line.as_bytes().split(|b| *b == b',') {
            if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
                kept.remove(name);
            }
        }
    }
    for name in NOT_STORED.iter().chain(&RATE_FIELDS).chain(strip) {
        kept.remove(name);
    }
    settle(&mut kept);
    kept
}

/// Moves all values into one block of memory: a hit that copies the fields counts references in one place.
fn settle(headers: &mut HeaderMap) {
    let mut block = Vec::with_capacity(headers.values().map(HeaderValue::len).sum());
    headers.values().for_each(|value| block.extend_from_slice(value.as_bytes()));
    let (block, mut at) = (Bytes::from(block), 0);
    for value in headers.values_mut() {
        let slice = block.slice(at..at + value.len());
        at += value.len();
        // Bytes that were a value are one again.
        if let Ok(mut moved) = HeaderValue::from_maybe_shared(slice) {
            moved.set_sensitive(value.is_sensitive());
            *value = moved;
        }
    }
}

/// The head to store for a response that `plan` keeps.
pub(crate) fn meta(status: StatusCode, mut headers: HeaderMap, plan: StorePolicy, began: LogPosition) -> StoredHead {
    if !headers.contains_key(header::DATE) {
        // RFC 9110 §6.6.1: a recipient with a clock adds the Date of arrival to a response it keeps.
        if let Some(date) = http_date(plan.moments.wall) {
            headers.insert(header::DATE, date);
        }
    }
    // A place for the age, so that writing it on a hit changes a value and moves nothing.
    headers.remove(header::AGE);
    headers.insert(header::AGE, HeaderValue::from_static("0"));
    let deadlines = plan.deadlines();
    StoredHead {
        status,
        headers,
        age: plan.age,
        stored_at: plan.moments.answered,
        deadlines,
        strict: plan.strict,
        immutable: plan.immutable,
        tags: plan.tags,
        took: plan.moments.answered.since(plan.moments.asked),
        began,
        checked: AtomicU64::new(0),
    }
}

/// IMF-fixdate (RFC 9110 §5.6.7); nothing for a clock outside the years 1970 to 9999.
pub(crate) fn http_date(wall: std::time::SystemTime) -> Option<HeaderValue> {
    let since = wall.duration_since(std::time::UNIX_EPOCH).ok()?;
    if since.as_secs() >= 253_402_300_800 {
        return None;
    }
    HeaderValue::try_from(httpdate::fmt_http_date(wall)).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn hop_by_hop_fields_and_those_connection_names_are_not_stored() {
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
        let kept = storable(&headers, &[HeaderName::from_static("x-strip")]);
        for (name, value) in &kept {
            let sent = headers.get(name).expect("it was sent");
            assert_ne!(value.as_bytes().as_ptr(), sent.as_bytes().as_ptr(), "{name} is in memory of its own");
        }
        assert_eq!(kept.len(), 2);
        assert_eq!(kept.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn dates_outside_the_format_are_left_out() {
        let epoch = std::time::UNIX_EPOCH;
        assert_eq!(http_date(epoch).expect("a date"), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert!(http_date(epoch - Duration::from_secs(1)).is_none());
        assert!(http_date(epoch + Duration::from_secs(1 << 40)).is_none());
    }
}
