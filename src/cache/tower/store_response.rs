//! Storing: from a complete body to an entry in the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderName, header};

use super::live_rules::MatchedRule;
use super::partial;
use super::shared::{CacheRequest, CacheShared};
use super::stats::{RouteCounters, count};
use crate::base::headers::number;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::fetch_permit::HeldLease;
use crate::cache::engine::record::{Entry, Language, Stored, StoredBody, Variant, VaryIndex};
use crate::cache::http::key::CacheKey;
use crate::cache::http::range::ContentRange;
use crate::cache::http::reason::Reason;
use crate::cache::http::stored_head::StoredHead;

/// A response to store, and its key.
pub(super) struct StoreTask {
    pub(super) core: Arc<CacheShared>,
    pub(super) route: Arc<RouteCounters>,
    pub(super) rule: MatchedRule,
    /// Primary key.
    pub(super) key: CacheKey,
    pub(super) names: Arc<[HeaderName]>,
    pub(super) selection: Arc<[u8]>,
    pub(super) meta: Arc<StoredHead>,
    /// Range of a partial body.
    pub(super) part: Option<ContentRange>,
    pub(super) language: Option<Language>,
    /// Declared length of the body.
    pub(super) promised: Option<u64>,
    /// Lease to release.
    pub(super) lease: Option<Box<HeldLease>>,
}

impl StoreTask {
    pub(super) fn new(
        core: &Arc<CacheShared>,
        params: &CacheRequest,
        names: Arc<[HeaderName]>,
        selection: Arc<[u8]>,
        meta: Arc<StoredHead>,
        part: Option<ContentRange>,
    ) -> Self {
        let (core, route, key) = (core.clone(), params.route.clone(), params.key.clone());
        Self {
            core,
            route,
            rule: params.rule.clone(),
            key,
            names,
            selection,
            meta,
            part,
            language: None,
            promised: None,
            lease: None,
        }
    }

    /// Stores a complete body; returns the reason if it is not stored.
    pub(super) async fn commit(&mut self, body: StoredBody, length: u64) -> Result<(), Reason> {
        // Compared with the declared length: a body of another length is not the representation.
        let promised = match self.part {
            Some(part) => Some(part.span.len()),
            None => self.promised,
        };
        if promised.is_some_and(|promised| promised != length) && !is_bodiless(&self.meta) {
            return Err(Reason::Truncated);
        }
        self.put(body, length).await.map(|_| ())
    }

    /// Stores this body, already in compact blocks, and returns the entry.
    pub(super) async fn put(&mut self, body: StoredBody, length: u64) -> Result<Arc<Entry>, Reason> {
        // A fetch that began before an invalidation must not bring the old state back.
        if self.core.barriers.check(&self.key, &self.meta) != Validity::Valid {
            return Err(Reason::Invalidated);
        }
        let index = match self.names.is_empty() {
            true => None,
            // Other processes add variants too.
            false => Some(self.updated_index(match self.read_shared().await {
                None => self.read(&self.key).await,
                shared => shared,
            })),
        };
        if self.key.as_bytes().len() > self.key.resource().len() {
            self.core.has_divided.store(true, Ordering::Relaxed);
        }
        let variant = index.as_ref().and_then(|index| index.variants.first());
        let key = variant.map_or_else(|| self.key.clone(), |variant| variant.key.clone());
        let entry = Arc::new(self.entry(key, body, length).await?);
        let lease = self.lease.take();
        self.write(&entry.key, Stored::Entry(entry.clone()), lease.filter(|_| index.is_none())).await?;
        if let Some(index) = index {
            self.write(&self.key, Stored::Vary(Arc::new(index)), None).await?;
        }
        count(&self.route.stored);
        self.core.mark_useful(&self.rule);
        self.core.hit_for_miss.clear(&self.key);
        Ok(entry)
    }

    /// Creates the entry, combined with a stored part.
    async fn entry(&self, key: CacheKey, body: StoredBody, length: u64) -> Result<Entry, Reason> {
        let Some(part) = self.part else {
            return Ok(Entry { key, meta: with_length(&self.meta, length), body, length, partial: None });
        };
        let old = match self.read(&key).await {
            Some(Stored::Entry(old)) if self.core.barriers.check(&self.key, &old.meta) == Validity::Valid => Some(old),
            _ => None,
        };
        // A part never replaces a fresh whole.
        if old.as_ref().is_some_and(|old| old.partial.is_none() && self.meta.stored_at < old.meta.deadlines.fresh_until)
        {
            return Err(Reason::Partial);
        }
        let max = self.core.settings.max_entry;
        let etag = self.meta.headers.get(header::ETAG);
        let (body, part) = partial::combine(body, part, etag, old.as_deref(), &self.core.body_memory, max)?;
        let length = part.span.len();
        let whole = length == part.total;
        let meta = if whole { with_length(&self.meta, length) } else { self.meta.clone() };
        Ok(Entry { key, meta, body, length, partial: (!whole).then_some(part) })
    }

    async fn read(&self, key: &CacheKey) -> Option<Stored> {
        if self.core.was_never_stored(key) {
            return None;
        }
        let found = self.core.store.get(key, self.meta.stored_at).await.unwrap_or_default();
        found.filter(|stored| stored.key() == key)
    }

    async fn read_shared(&self) -> Option<Stored> {
        let found = self.core.store.get_shared(&self.key, self.meta.stored_at).await.unwrap_or_default();
        found.filter(|stored| stored.key() == &self.key)
    }

    async fn write(&self, key: &CacheKey, stored: Stored, lease: Option<Box<HeldLease>>) -> Result<(), Reason> {
        self.core.stored_keys.insert(key);
        let put = match lease {
            Some(lease) => lease.put(key, stored, self.meta.stored_at),
            None => self.core.store.put(key, stored, self.meta.stored_at),
        };
        // RFC 9111 §4: "the cache MUST use the most recent one".
        put.await.map_err(|error| {
            if error.is_superseded() {
                return Reason::Superseded;
            }
            self.core.store_failed(&error);
            Reason::StoreFailed
        })
    }

    /// Returns the index with this variant first.
    fn updated_index(&self, old: Option<Stored>) -> VaryIndex {
        let (nonce, mut variants) = match old {
            Some(Stored::Vary(index)) if index.key == self.key => (index.nonce, index.variants.clone()),
            _ => (self.nonce(), Vec::new()),
        };
        let mut suffix = nonce.to_be_bytes().to_vec();
        suffix.extend_from_slice(&self.selection);
        let key = self.key.variant(&suffix);
        variants.retain(|variant| variant.key != key);
        let (names, selection) = (self.names.clone(), (*self.selection).into());
        variants.insert(0, Variant { names, selection, language: self.language.clone(), key });
        variants.truncate(VaryIndex::MAX_VARIANTS);
        VaryIndex { key: self.key.clone(), nonce, variants }
    }

    /// Unique and unpredictable: hashed with the secret of this process.
    fn nonce(&self) -> u64 {
        let count = self.core.nonces.fetch_add(1, Ordering::Relaxed);
        let mut bytes = count.to_be_bytes().to_vec();
        bytes.extend_from_slice(self.key.as_bytes());
        CacheKey::from_bytes(&bytes, 0).hash64()
    }
}

fn is_bodiless(meta: &StoredHead) -> bool {
    matches!(meta.status.as_u16(), 204 | 205 | 304)
}

/// RFC 9110 §8.6: adds the length that the body has declared.
pub(super) fn with_promised_length(mut meta: StoredHead, promised: Option<u64>) -> StoredHead {
    if let Some(length) = promised.filter(|_| !is_bodiless(&meta)) {
        meta.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| number(length));
    }
    meta
}

/// RFC 9110 §8.6: adds the length, which is known now.
fn with_length(meta: &Arc<StoredHead>, length: u64) -> Arc<StoredHead> {
    if meta.headers.contains_key(header::CONTENT_LENGTH) || is_bodiless(meta) {
        return meta.clone();
    }
    let mut headers = meta.headers.clone();
    headers.insert(header::CONTENT_LENGTH, number(length));
    Arc::new(meta.with_headers(headers))
}
