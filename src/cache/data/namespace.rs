//! A namespace: its settings, its counters, and what it shares with the others. Knows nothing of the values' type.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::record::SchemaStamp;
use super::stats::{DataStats, NamespaceCounters, count};
use super::ttl::TtlPolicy;
use crate::base::budget::Budget;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::event::Once;
use crate::base::mode::SwitchCell;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::coalesce::{Coalescer, Role};
use crate::cache::engine::engine_parts::Engine;
use crate::cache::engine::record::{Entry, Stored, StoredBody, TypedPayload};
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::{self, Freshness};
use crate::cache::http::stored_head::{LogPosition, StoredHead};
use crate::cache::http::tag;

/// Namespace of typed values.
pub(crate) struct Namespace {
    pub(super) name: Box<str>,
    /// How its keys begin.
    pub(super) beginning: Box<[u8]>,
    pub(super) stamp: SchemaStamp,
    pub(super) settings: NamespaceSettings,
    pub(super) engine: Engine,
    pub(super) fetches: Arc<Coalescer<Arc<Entry>>>,
    pub(super) counters: NamespaceCounters,
    pub(super) switch: SwitchCell,
    pub(super) warned: Once,
}

/// Configuration of a namespace, checked.
pub(crate) struct NamespaceSettings {
    pub(crate) life: TtlPolicy,
    pub(crate) tags: Vec<Box<str>>,
    /// After this a stale value is served while the load goes on.
    pub(crate) soft: Option<Duration>,
    /// After this the caller gets an error while the load goes on.
    pub(crate) hard: Option<Duration>,
    /// How long a caller waits for somebody else's load.
    pub(crate) wait: Duration,
    /// How long one process may keep the others waiting.
    pub(crate) lease: Duration,
    /// How many loads a call for many keys has under way.
    pub(crate) parallel: usize,
    pub(crate) target: Option<f64>,
    pub(crate) budget: Option<Budget>,
}

/// Loaded value with its storage options.
pub(super) struct LoadedValue {
    pub(super) value: Arc<dyn Any + Send + Sync>,
    pub(super) weight: u32,
    /// Nothing where no other process reads it.
    pub(super) sealed: Bytes,
    pub(super) ttl: Option<Duration>,
    pub(super) tags: Vec<Box<str>>,
    pub(super) asked: Timestamp,
    pub(super) began: LogPosition,
}

impl Namespace {
    /// How this entry may be used now. A fresh one costs two comparisons.
    #[inline]
    pub(super) fn freshness(&self, key: &CacheKey, entry: &Entry, now: Timestamp) -> Freshness {
        match (policy::freshness(&entry.meta.deadlines, now), self.engine.barriers.check(key, &entry.meta)) {
            (Freshness::Fresh, Validity::Valid) => Freshness::Fresh,
            (freshness, validity) => self.older(entry, freshness, validity, now),
        }
    }

    fn older(&self, entry: &Entry, freshness: Freshness, validity: Validity, now: Timestamp) -> Freshness {
        let deadlines = &entry.meta.deadlines;
        match (validity, freshness) {
            (Validity::Void, _) | (_, Freshness::Unusable) => Freshness::Unusable,
            (Validity::Valid, freshness) => match &self.settings.budget {
                Some(budget) => {
                    policy::stretched_freshness(freshness, deadlines, entry.meta.stored_at, budget.effect(now), now)
                }
                None => freshness,
            },
            // Marked stale: as if its freshness had just ended.
            (Validity::Stale, Freshness::Fresh | Freshness::RefreshAhead) => {
                match deadlines.revalidate_until > deadlines.fresh_until {
                    true => Freshness::StaleWhileRevalidate,
                    false => Freshness::Stale { on_error: deadlines.error_until > deadlines.fresh_until },
                }
            }
            (Validity::Stale, freshness) => freshness,
        }
    }

    /// Whether this entry may be served where a load failed, or takes long.
    pub(super) fn stands_in(&self, key: &CacheKey, entry: &Entry) -> bool {
        let now = self.engine.clock.now();
        now < entry.meta.deadlines.error_until.max(entry.meta.deadlines.revalidate_until)
            && self.engine.barriers.check(key, &entry.meta) != Validity::Void
    }

    /// What lies in this namespace under the key, of what a store says lies there.
    pub(super) fn accept(&self, key: &CacheKey, stored: Result<Option<Stored>, Error>) -> Option<Arc<Entry>> {
        match stored {
            Ok(None) => None,
            Ok(Some(Stored::Entry(entry))) if entry.key == *key => Some(entry),
            Ok(Some(_)) => {
                count(&self.counters.decode_errors);
                None
            }
            Err(error) => {
                self.store_failed(&error);
                None
            }
        }
    }

    /// Joins the load that is under way for this key, or begins one.
    pub(super) fn join(&self, key: &CacheKey) -> Role<Arc<Entry>> {
        let barriers = &self.engine.barriers;
        let is_void = |began| barriers.compare(key, &self.settings.tags, began) != Validity::Valid;
        self.fetches.join_or_lead(key, barriers.generation(), is_void)
    }

    /// The entry of a value that has just been loaded.
    pub(super) fn entry(&self, key: &CacheKey, fresh: LoadedValue) -> Entry {
        let now = self.engine.clock.now();
        let mut tags = [&*self.settings.tags, &*fresh.tags].concat();
        tags.sort_unstable();
        tags.dedup();
        let noise = key.hash64() ^ now.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let meta = StoredHead {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            age: Duration::ZERO,
            stored_at: now,
            deadlines: self.settings.life.deadlines(fresh.ttl, now, noise),
            strict: false,
            immutable: false,
            tags: tags.into(),
            took: now.since(fresh.asked),
            began: fresh.began,
            checked: AtomicU64::new(0),
        };
        let length = fresh.sealed.len() as u64;
        let typed = TypedPayload { weight: fresh.weight, value: (self.stamp.version, fresh.value).into() };
        Entry {
            key: key.clone(),
            meta: Arc::new(meta),
            body: StoredBody::one(fresh.sealed),
            length,
            partial: None,
            typed,
        }
    }

    /// Stores a value that was asked for at `asked`, unless it was taken back, or put, meanwhile.
    pub(super) async fn keep(&self, entry: &Arc<Entry>, asked: Timestamp) {
        let (key, meta) = (&entry.key, &entry.meta);
        if let Err(error) = self.fit(entry) {
            // A load that says its value has no life means what it says.
            if meta.deadlines.retain_until > meta.stored_at {
                self.engine.events.warn_once(&self.warned, "unusable-tag", &error.to_string());
            }
            return;
        }
        if self.engine.barriers.check(key, meta) != Validity::Valid {
            return;
        }
        // What was stored after this load began may be newer than what it read.
        let there = self.accept(key, self.engine.store.get(key, meta.stored_at).await);
        let is_valid = |old: &Entry| self.engine.barriers.check(key, &old.meta) == Validity::Valid;
        if there.is_some_and(|old| old.meta.stored_at > asked && is_valid(&old)) {
            return;
        }
        if let Err(error) = self.put(entry).await {
            self.store_failed(&error);
        }
    }

    /// Stores this entry, whatever lies there.
    pub(super) async fn put(&self, entry: &Arc<Entry>) -> Result<(), Error> {
        self.engine.store.put(&entry.key, Stored::Entry(entry.clone()), entry.meta.stored_at).await
    }

    /// Frees what lies under this key.
    pub(super) async fn forget(&self, key: &CacheKey) {
        if let Err(error) = self.engine.store.remove(key).await {
            self.store_failed(&error);
        }
    }

    /// Whether this entry can be kept.
    ///
    /// # Errors
    /// Where it has no life, or a tag by which it could never be taken back.
    pub(super) fn fit(&self, entry: &Entry) -> Result<(), Error> {
        let meta = &entry.meta;
        if let Some(bad) = meta.tags.iter().find(|bad| !tag::is_valid(bad)) {
            let form = "1 to 256 visible ASCII characters without a comma";
            return Err(Error::config(format!("{:?}: invalid tag {bad:?}, must be {form}", self.name)));
        }
        if meta.deadlines.retain_until <= meta.stored_at {
            return Err(Error::config(format!("{:?}: the lifetime must be longer than 0", self.name)));
        }
        Ok(())
    }

    pub(super) fn store_failed(&self, error: &Error) {
        crate::cache::engine::engine_parts::emit_store_error(&self.engine.events, error);
    }

    /// A value that postcard cannot write, and that is therefore not kept.
    pub(super) fn unwritable(&self, error: postcard::Error) -> Error {
        count(&self.counters.decode_errors);
        Error::store(format!("a value of {:?} cannot be written", self.name), error)
    }

    pub(super) fn stats(&self) -> DataStats {
        DataStats {
            name: self.name.to_string(),
            target_hit_ratio: self.settings.target,
            fetches_in_flight: self.fetches.count(),
            ..self.counters.snapshot()
        }
    }
}
