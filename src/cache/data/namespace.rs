//! State of a namespace, independent of the type of its values.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;

use super::encoding::SchemaStamp;
use super::loaded::LoadProgress;
use super::stats::{DataStats, NamespaceCounters, count};
use super::ttl::TtlPolicy;
use crate::base::budget::Budget;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::event::Once;
use crate::base::mode::ModeCell;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::cache_engine::Engine;
use crate::cache::engine::coalesce::deadlines::FetchDeadlines;
use crate::cache::engine::coalesce::table::{Coalescer, Role};
use crate::cache::engine::entry_freshness;
use crate::cache::engine::fetch_permit::FetchPermit;
use crate::cache::engine::record::Stored;
use crate::cache::engine::typed_value::TypedValue;
use crate::cache::http::key::CacheKey;
use crate::cache::http::policy::Freshness;
use crate::cache::http::record_meta::{LogPosition, RecordMeta};
use crate::cache::http::tag;

/// Namespace of typed values.
pub(super) struct Namespace {
    pub(super) name: Box<str>,
    /// Prefix of its keys.
    pub(super) key_prefix: Box<[u8]>,
    pub(super) stamp: SchemaStamp,
    pub(super) settings: NamespaceSettings,
    pub(super) engine: Engine,
    pub(super) fetches: Arc<Coalescer<LoadProgress>>,
    pub(super) counters: NamespaceCounters,
    pub(super) mode: ModeCell,
    pub(super) warned: Once,
    pub(super) unencodable: Once,
    pub(super) too_large: Once,
}

/// Validated configuration of a namespace.
pub(super) struct NamespaceSettings {
    pub(super) ttl_policy: TtlPolicy,
    pub(super) tags: Vec<Box<str>>,
    /// Time after which a stale value is served while the load continues.
    pub(super) soft_timeout: Option<Duration>,
    /// Time after which the caller gets an error while the load continues.
    pub(super) hard_timeout: Option<Duration>,
    /// Time a caller waits for another caller's load.
    pub(super) wait: Duration,
    /// Longest time one process makes the others wait.
    pub(super) lease: Duration,
    /// Number of concurrent loads of a call for many keys.
    pub(super) concurrency: usize,
    pub(super) target: Option<f64>,
    pub(super) budget: Option<Budget>,
}

impl NamespaceSettings {
    /// Returns the deadlines of a caller that has just arrived.
    pub(super) fn deadlines(&self, has_stale: bool) -> FetchDeadlines {
        FetchDeadlines::new(self.soft_timeout.filter(|_| has_stale), self.wait, self.hard_timeout)
    }

    /// Returns how long a load may run: with a hard timeout, until neither its caller nor its followers wait for it.
    pub(super) fn load_timeout(&self) -> Option<Duration> {
        self.hard_timeout.map(|hard| hard.max(self.wait))
    }
}

/// Loaded value with its storage options.
pub(super) struct LoadedValue {
    pub(super) value: Arc<dyn Any + Send + Sync>,
    pub(super) weight: u32,
    /// Encoded value; empty if no other process reads it.
    pub(super) encoded: Bytes,
    pub(super) ttl: Option<Duration>,
    pub(super) tags: Vec<Box<str>>,
    pub(super) requested_at: Timestamp,
    pub(super) began: LogPosition,
}

impl Namespace {
    /// Returns the freshness of an entry. A fresh one costs two comparisons.
    #[inline]
    pub(super) fn freshness(&self, key: &CacheKey, entry: &TypedValue, now: Timestamp) -> Freshness {
        entry_freshness::freshness(&self.engine.barriers, key, &entry.meta, self.settings.budget.as_ref(), now)
    }

    /// Whether this entry may be served if a load fails or exceeds a timeout.
    pub(super) fn may_serve_stale(&self, key: &CacheKey, entry: &TypedValue) -> bool {
        let now = self.engine.clock.now();
        now < entry.meta.deadlines.error_until.max(entry.meta.deadlines.revalidate_until)
            && self.engine.barriers.check(key, &entry.meta) != Validity::Void
    }

    /// Returns the entry if the store returned one of this key.
    pub(super) fn accept(&self, key: &CacheKey, stored: Result<Option<Stored>, Error>) -> Option<Arc<TypedValue>> {
        match stored {
            Ok(None) => None,
            Ok(Some(Stored::Value(entry))) if entry.key == *key => Some(entry),
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

    /// Joins the load under way for this key, or starts one.
    pub(super) fn join(&self, key: &CacheKey) -> Role<LoadProgress> {
        let barriers = &self.engine.barriers;
        let is_invalidated = |began| barriers.compare(key, &self.settings.tags, began) != Validity::Valid;
        self.fetches.join_or_lead(key, barriers.generation(), is_invalidated)
    }

    /// Acquires a permit of the fleet to load a missing value. Waits for another process's load, at most as long as a lease.
    pub(super) async fn acquire_permit(&self, key: &CacheKey) -> FetchPermit {
        let longest = self.settings.lease;
        if self.engine.in_process || longest.is_zero() {
            return FetchPermit::Free;
        }
        let usable = |stored: &Stored| match stored {
            Stored::Value(entry) => self.freshness(key, entry, self.engine.clock.now()) == Freshness::Fresh,
            Stored::Entry(_) | Stored::Vary(_) => false,
        };
        self.engine.acquire_permit(key, self.engine.lease(key, longest), None, longest, usable).await
    }

    /// Creates the entry of a value that has just been loaded.
    pub(super) fn entry(&self, key: &CacheKey, loaded: LoadedValue) -> TypedValue {
        let now = self.engine.clock.now();
        let mut tags = [&*self.settings.tags, &*loaded.tags].concat();
        tags.sort_unstable();
        tags.dedup();
        let random = key.hash64() ^ now.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let meta = RecordMeta {
            stored_at: now,
            requested_at: loaded.requested_at,
            deadlines: self.settings.ttl_policy.deadlines(loaded.ttl, now, random),
            strict: false,
            tags: tags.into(),
            took: now.since(loaded.requested_at),
            began: loaded.began,
            checked: AtomicU64::new(0),
            copied_at: AtomicU64::new(0),
        };
        let value = (self.stamp.version, loaded.value).into();
        TypedValue { key: key.clone(), meta, size: loaded.weight, encoded: loaded.encoded, value }
    }

    /// Stores a loaded value, unless it was invalidated or replaced meanwhile.
    pub(super) async fn store_loaded(&self, entry: &Arc<TypedValue>) {
        let (key, meta) = (&entry.key, &entry.meta);
        if let Err(error) = self.check_storable(entry) {
            // A lifetime of zero set by the load is not an error.
            if meta.deadlines.retain_until > meta.stored_at {
                self.engine.events.warn_once(&self.warned, "unusable-tag", &error.to_string());
            }
            return;
        }
        if self.engine.barriers.check(key, meta) != Validity::Valid {
            return;
        }
        match self.put(entry).await {
            // A load that began later, or a put, is newer.
            Err(error) if error.is_superseded() => {}
            Err(error) if error.is_too_large() => {
                let text = format!("{:?}: a loaded value is not kept; {error}", self.name);
                self.engine.events.warn_once(&self.too_large, "value-too-large", &text);
            }
            Err(error) => self.store_failed(&error),
            Ok(()) => {}
        }
    }

    /// Stores this entry unconditionally.
    pub(super) async fn put(&self, entry: &Arc<TypedValue>) -> Result<(), Error> {
        self.engine.store.put(&entry.key, Stored::Value(entry.clone()), entry.meta.stored_at).await
    }

    /// Removes the entry of this key.
    pub(super) async fn remove(&self, key: &CacheKey) {
        if let Err(error) = self.engine.store.remove(key).await {
            self.store_failed(&error);
        }
    }

    /// Checks whether this entry can be stored.
    ///
    /// # Errors
    /// If its lifetime is zero, or a tag is malformed.
    pub(super) fn check_storable(&self, entry: &TypedValue) -> Result<(), Error> {
        let meta = &entry.meta;
        if let Some(invalid) = meta.tags.iter().find(|invalid| !tag::is_valid(invalid)) {
            let form = "1 to 256 visible ASCII characters without a comma";
            return Err(Error::config(format!("{:?}: invalid tag {invalid:?}, must be {form}", self.name)));
        }
        if meta.deadlines.retain_until <= meta.stored_at {
            return Err(Error::config(format!("{:?}: ttl must be longer than 0", self.name)));
        }
        Ok(())
    }

    pub(super) fn store_failed(&self, error: &Error) {
        crate::cache::engine::cache_engine::emit_store_error(&self.engine.events, error);
    }

    /// Counts a value that cannot be encoded for other processes, and warns once.
    pub(super) fn report_unencodable(&self, error: &rmp_serde::encode::Error) {
        count(&self.counters.encode_errors);
        let text = format!(
            "values of {:?} stay in this process: {error}; let the type's Serialize succeed to share them",
            self.name
        );
        self.engine.events.warn_once(&self.unencodable, "unencodable-value", &text);
    }

    /// Checks whether other processes can read this entry.
    ///
    /// # Errors
    /// If the value could not be encoded.
    pub(super) fn check_encoded(&self, entry: &TypedValue) -> Result<(), Error> {
        match self.engine.in_process || !entry.encoded.is_empty() {
            true => Ok(()),
            false => Err(Error::config(format!("{:?}: the value cannot be serialized for other processes", self.name))),
        }
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
