//! [`RemoteStore`]: a cache store over any [`ByteStore`], to be used behind a local memory.
//!
//! | it adds | how |
//! |---|---|
//! | encoding | a format with a version and a checksum; anything else is a miss, and counted |
//! | names | keyed hashes of the keys |
//! | failures | a deadline, a circuit breaker, reconnection in the background: a call that fails is a miss |
//! | invalidation | every entry is compared with the [log](crate::cache::ByteLog) of invalidations since its fetch began |
//! | order | of two fetches the one that began later wins |
//!
//! While the server is unavailable, invalidations take effect in this process, are queued, and are appended to the log
//! afterwards.

mod backplane;
pub(crate) mod names;
mod settings;
mod sweep;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;

use crate::base::clock::{Timestamp, nanos, runtime_now};
use crate::base::error::Error;
use crate::base::event::{Event, Events};
use crate::base::maybe_ready::{BoxFuture, MaybeReady};
use crate::base::outage::Outage;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::codec::{self, DecodeError};
use crate::cache::engine::fetch_times::FetchTimes;
use crate::cache::http::record_meta::RecordMeta;
use crate::cache::{
    ByteStore, CacheKey, CacheStore, GetOrClaim, Invalidation, InvalidationSink, Lease, LeaseState, LevelStats, Stored,
};
use crate::resilience::guard::FailOpen;
use crate::resilience::outage_switch::StoreSwitch;
use backplane::Backplane;
pub use settings::RemoteSettings;
pub(crate) use settings::{LogRank, MAX_TTL};

/// Lifetime of a variant index after the last update.
const INDEX_TTL: Duration = Duration::from_secs(86_400);
/// How long other processes may keep copies of what a store without a log holds.
const COPY_TTL: Duration = Duration::from_secs(5);

/// Cache store over a [`ByteStore`] that processes share, to be used behind a local memory.
///
/// ```
/// use std::sync::Arc;
/// use tollgate::cache::{ByteStore, CacheLayer};
/// use tollgate::store::{RemoteSettings, RemoteStore};
///
/// fn layer(bytes: impl ByteStore) -> Result<CacheLayer, tollgate::Error> {
///     let store = RemoteStore::new(bytes, RemoteSettings::new("dynamodb").secret("the same on every node"))?;
///     CacheLayer::builder().level_2(Arc::new(store)).build()
/// }
/// # let _ = |bytes: tollgate::testing::MemoryBytes| layer(bytes);
/// ```
///
/// A store serves one layer, to which it passes the invalidations of other processes.
pub struct RemoteStore {
    shared: Arc<Shared>,
    engine: Option<Arc<dyn LocalEngine>>,
}

/// Engine that knows its size, and may have warnings of its own.
pub(super) trait LocalEngine: Send + Sync {
    /// Completes the statistics of the level.
    fn report(&self, stats: &mut LevelStats);

    /// Registers the receiver of events.
    fn listen(&self, _events: Events) {}

    /// Returns the directory that it has for itself.
    fn directory(&self) -> Option<&Path> {
        None
    }
}

struct Shared {
    backplane: Arc<Backplane>,
    hits: AtomicU64,
    misses: AtomicU64,
    errors: AtomicU64,
    decode_errors: AtomicU64,
    superseded: AtomicU64,
    lookup_times: FetchTimes,
}

/// When a value was asked for.
#[derive(Clone, Copy)]
struct Asked {
    /// Number of the invalidations that were known.
    generation: u64,
    now: Timestamp,
}

impl RemoteStore {
    /// Creates a store over these bytes.
    ///
    /// # Errors
    /// If a setting is invalid: see [`RemoteSettings`].
    ///
    /// # Examples
    /// ```
    /// use tollgate::store::{RemoteSettings, RemoteStore};
    /// use tollgate::testing::MemoryBytes;
    ///
    /// let store = RemoteStore::new(MemoryBytes::with_log(), RemoteSettings::new("kv"))?;
    /// # let _ = store;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn new(bytes: impl ByteStore, settings: RemoteSettings) -> Result<Self, Error> {
        let bytes: Arc<dyn ByteStore> = Arc::new(bytes);
        let has_log = bytes.log().is_some();
        Self::dialled(
            move || -> BoxFuture<Result<_, Error>> { Box::pin(std::future::ready(Ok(bytes.clone()))) },
            has_log,
            settings,
        )
    }

    /// Returns the state of the connection: calls, failures, time-outs.
    ///
    /// ```
    /// use tollgate::store::{RemoteSettings, RemoteStore};
    /// use tollgate::testing::MemoryBytes;
    ///
    /// let store = RemoteStore::new(MemoryBytes::with_log(), RemoteSettings::new("kv"))?;
    /// assert_eq!(store.guard_stats().calls, 0);
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    #[must_use]
    pub fn guard_stats(&self) -> crate::GuardStats {
        self.shared.backplane.guard.stats()
    }

    /// Returns the switch of the server, under the name of this level.
    pub(super) fn switch(&self) -> StoreSwitch {
        let backplane = &self.shared.backplane;
        (backplane.settings.name.to_owned(), backplane.guard.switch())
    }

    /// Creates a store whose connections are made by `dial`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn dialled(
        dial: impl Fn() -> BoxFuture<Result<Arc<dyn ByteStore>, Error>> + Send + Sync + 'static,
        has_log: bool,
        settings: RemoteSettings,
    ) -> Result<Self, Error> {
        settings.check()?;
        settings.check_log(has_log)?;
        let guard = FailOpen::new(settings.guard_name, settings.guard, dial, Events::default());
        let shared = Shared {
            backplane: Backplane::new(settings, guard, has_log),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            decode_errors: AtomicU64::new(0),
            superseded: AtomicU64::new(0),
            lookup_times: FetchTimes::default(),
        };
        Ok(Self { shared: Arc::new(shared), engine: None })
    }

    /// Returns the preference of its log among those of a cache's levels.
    pub(crate) fn log_rank(&self) -> LogRank {
        match self.shared.backplane.has_log() {
            true => self.shared.backplane.settings.log_rank,
            false => LogRank::Absent,
        }
    }

    /// Whether other hosts cannot reach what it holds.
    pub(crate) fn is_local(&self) -> bool {
        self.shared.backplane.settings.log_rank == LogRank::File
    }

    /// Returns the directory that it has for itself.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.engine.as_ref()?.directory()
    }

    /// Uses the log of another level of the same cache instead of its own. Called before the first use.
    pub(crate) fn follow(&self, owner: &Self) {
        self.shared.backplane.follow(&owner.shared.backplane);
    }

    /// Checks an entry of another level by the log of this one.
    pub(crate) fn check(&self, key: &CacheKey, meta: &RecordMeta) -> Validity {
        self.shared.backplane.check(key, meta)
    }

    /// Registers the engine below.
    pub(super) fn over(mut self, engine: Arc<dyn LocalEngine>) -> Self {
        self.engine = Some(engine);
        self
    }
}

impl Shared {
    fn name(&self, kind: &str, key: &CacheKey) -> Option<String> {
        let names = self.backplane.names()?;
        Some(format!("{}:{kind}:{}", self.backplane.settings.prefix, names.of(key.as_bytes())))
    }

    /// Returns the lease under its name in the server.
    fn lease(&self, lease: &Lease<CacheKey>) -> Option<Lease<String>> {
        Some(Lease::new(self.name("lease", &lease.name)?, lease.token, lease.ttl))
    }

    /// Calls the server for a look-up, and counts its duration or failure.
    async fn look_up<T>(&self, f: impl FnOnce(Arc<dyn ByteStore>) -> BoxFuture<Result<T, Error>>) -> Result<T, Outage> {
        let began = runtime_now();
        let answer = self.backplane.call(f).await;
        match answer {
            Ok(_) => self.lookup_times.record(runtime_now() - began),
            Err(_) => drop(self.errors.fetch_add(1, Ordering::Relaxed)),
        }
        answer
    }

    /// Decodes a value, if it may be used, and counts the hit or miss.
    fn accept(&self, key: &CacheKey, encoded: Option<Bytes>, asked: Asked) -> Option<Stored> {
        let found = self.decode(key, encoded, asked);
        match &found {
            Some(found) if found.meta().is_some() => drop(self.hits.fetch_add(1, Ordering::Relaxed)),
            // The index of a response's variants.
            Some(_) => (),
            None => drop(self.misses.fetch_add(1, Ordering::Relaxed)),
        }
        found
    }

    /// Decodes a value, if it may be used.
    fn decode(&self, key: &CacheKey, encoded: Option<Bytes>, asked: Asked) -> Option<Stored> {
        let encoded = encoded?;
        let (clock, log_id) = self.backplane.fleet_clock().zip(self.backplane.log_id())?;
        let decoded = match codec::is_of_another_log(&encoded, log_id) {
            // Its position says nothing about the invalidations of this log.
            true => Err(DecodeError::OtherLog),
            false => codec::decode(&encoded, key, clock, asked.generation),
        };
        let found = match decoded {
            Ok(found) => found,
            Err(error) => {
                // Reported at powers of two: a fleet of mixed versions would flood the log.
                if (self.decode_errors.fetch_add(1, Ordering::Relaxed) + 1).is_power_of_two() {
                    self.emit_decode_error(error);
                }
                return None;
            }
        };
        let Some(meta) = found.meta() else { return Some(found) };
        match self.backplane.check(key, meta) {
            Validity::Void => None,
            // By the time of the request, to which it is no longer fresh.
            Validity::Stale => Some(found.marked_stale(asked.now)),
            Validity::Valid => Some(found),
        }
    }

    fn emit_decode_error(&self, error: DecodeError) {
        if let Some(sink) = self.backplane.sink() {
            let store = self.backplane.settings.guard_name;
            let error = Error::store(format!("{store}: entry is {}", error.as_str()), error.as_str());
            sink.events().emit(&Event::StoreFailed { store, error: &error });
        }
    }

    fn asked(&self, now: Timestamp) -> Asked {
        Asked { generation: self.backplane.sink().map_or(0, InvalidationSink::generation), now }
    }

    /// Encodes a value with its name and lifetime; `None` if it cannot be stored.
    ///
    /// # Errors
    /// If the server is unavailable, or the value too large.
    fn prepare(
        &self,
        key: &CacheKey,
        stored: &Stored,
        now: Timestamp,
    ) -> Result<Option<(String, Bytes, Duration)>, Error> {
        let (ttl, known) = match stored.meta() {
            Some(meta) => (meta.deadlines.retain_until.since(now), meta.began.fleet > 0 && !stored.stays_in_process()),
            None => (INDEX_TTL, true),
        };
        // Without a log position the validity could not be checked later.
        if nanos(ttl) < 1_000_000 || !known {
            return Ok(None);
        }
        let settings = &self.backplane.settings;
        self.backplane.guard.check().map_err(|outage| Error::outage(settings.guard_name, outage))?;
        let (Some(name), Some((clock, log_id))) =
            (self.name("entry", key), self.backplane.fleet_clock().zip(self.backplane.log_id()))
        else {
            return Ok(None);
        };
        let encoded = codec::encode(stored, clock, log_id, settings.compress_over);
        if encoded.len() > settings.max_entry {
            return Err(Error::too_large(settings.guard_name, encoded.len() as u64, settings.max_entry as u64));
        }
        Ok(Some((name, encoded.into(), ttl.min(settings.max_ttl))))
    }
}

impl CacheStore for RemoteStore {
    fn get(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        let found = self.get_many(std::slice::from_ref(key), now);
        found.map(|found| found.map(|found| found.into_iter().next().flatten()))
    }

    fn get_many(&self, keys: &[CacheKey], now: Timestamp) -> MaybeReady<Result<Vec<Option<Stored>>, Error>> {
        self.shared.backplane.start();
        let (shared, keys, asked) = (self.shared.clone(), keys.to_vec(), self.shared.asked(now));
        let names: Option<Vec<String>> = keys.iter().map(|key| shared.name("entry", key)).collect();
        let Some(names) = names.filter(|names| !names.is_empty()) else {
            return MaybeReady::Ready(Ok(vec![None; keys.len()]));
        };
        MaybeReady::Pending(Box::pin(async move {
            // An outage is a miss, reported by the guard.
            let found = shared.look_up(|bytes| bytes.get_many(names)).await;
            let mut found = found.unwrap_or_default();
            found.resize(keys.len(), None);
            Ok(keys.iter().zip(found).map(|(key, found)| shared.accept(key, found, asked)).collect())
        }))
    }

    fn get_shared(&self, key: &CacheKey, now: Timestamp) -> MaybeReady<Result<Option<Stored>, Error>> {
        self.get(key, now)
    }

    fn put(&self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>> {
        self.shared.backplane.start();
        let (name, encoded, ttl) = match self.shared.prepare(key, &stored, now) {
            Ok(Some(prepared)) => prepared,
            Ok(None) => return MaybeReady::Ready(Ok(())),
            Err(error) => return MaybeReady::Ready(Err(error)),
        };
        let shared = self.shared.clone();
        MaybeReady::Pending(Box::pin(async move {
            match shared.backplane.call(|bytes| bytes.put(name, encoded, ttl)).await {
                Ok(true) => Ok(()),
                Ok(false) => {
                    shared.superseded.fetch_add(1, Ordering::Relaxed);
                    Err(Error::superseded(shared.backplane.settings.guard_name))
                }
                Err(outage) => {
                    shared.errors.fetch_add(1, Ordering::Relaxed);
                    Err(Error::outage(shared.backplane.settings.guard_name, outage))
                }
            }
        }))
    }

    fn orders_puts(&self) -> bool {
        true
    }

    fn remove(&self, key: &CacheKey) -> MaybeReady<Result<(), Error>> {
        let (shared, key) = (self.shared.clone(), key.clone());
        let Some(name) = shared.name("entry", &key) else { return MaybeReady::Ready(Ok(())) };
        MaybeReady::Pending(Box::pin(async move {
            let removed = shared.backplane.call(|bytes| bytes.remove(vec![name])).await;
            if let Err(outage) = removed {
                shared.errors.fetch_add(1, Ordering::Relaxed);
                // With a log the invalidation that goes before a removal is queued.
                if !shared.backplane.has_log() {
                    let name = shared.backplane.settings.name;
                    let message =
                        format!("removed in this process, not in {name}; repeat it when {name} is back: {outage}");
                    return Err(Error::outage_with(message, outage));
                }
            }
            // Of several levels, the one with the log publishes it.
            if !shared.backplane.follows() {
                shared.backplane.publish_removal(&key).await;
            }
            Ok(())
        }))
    }

    fn claim(&self, lease: &Lease<CacheKey>) -> MaybeReady<LeaseState> {
        let shared = self.shared.clone();
        let Some(lease) = shared.lease(lease) else { return MaybeReady::Ready(LeaseState::Granted) };
        MaybeReady::Pending(Box::pin(async move {
            shared.backplane.call(|bytes| bytes.claim(lease)).await.unwrap_or(LeaseState::Granted)
        }))
    }

    fn release(&self, lease: &Lease<CacheKey>, uncacheable: Option<Duration>) -> MaybeReady<Result<(), Error>> {
        let shared = self.shared.clone();
        let Some(lease) = shared.lease(lease) else { return MaybeReady::Ready(Ok(())) };
        MaybeReady::Pending(Box::pin(async move {
            // Without a release the lease expires.
            let _ = shared.backplane.call(|bytes| bytes.release(lease, uncacheable)).await;
            Ok(())
        }))
    }

    fn get_or_claim(
        &self,
        key: &CacheKey,
        lease: &Lease<CacheKey>,
        now: Timestamp,
    ) -> MaybeReady<Result<GetOrClaim<Stored>, Error>> {
        self.shared.backplane.start();
        let (shared, key, asked) = (self.shared.clone(), key.clone(), self.shared.asked(now));
        let (Some(name), Some(lease)) = (shared.name("entry", &key), shared.lease(lease)) else {
            return MaybeReady::Ready(Ok(GetOrClaim::Missing(Some(LeaseState::Granted))));
        };
        MaybeReady::Pending(Box::pin(async move {
            // An outage is a miss, reported by the guard; it grants.
            let answer = shared.look_up(|bytes| bytes.get_or_claim(name, lease)).await;
            Ok(match answer.unwrap_or(GetOrClaim::Missing(Some(LeaseState::Granted))) {
                GetOrClaim::Found(found) => shared.accept(&key, Some(found), asked).into(),
                GetOrClaim::Missing(state) => {
                    shared.misses.fetch_add(1, Ordering::Relaxed);
                    GetOrClaim::Missing(state)
                }
            })
        }))
    }

    fn put_and_release(
        &self,
        key: &CacheKey,
        stored: Stored,
        lease: &Lease<CacheKey>,
        now: Timestamp,
    ) -> MaybeReady<Result<(), Error>> {
        let (put, release) = (self.put(key, stored, now), self.release(lease, None));
        // Both are sent at once, in this order.
        MaybeReady::Pending(Box::pin(async move { join(put.into_future(), release.into_future()).await.0 }))
    }

    fn deadline(&self) -> Option<Duration> {
        Some(self.shared.backplane.settings.guard.deadline)
    }

    fn copy_ttl(&self) -> Option<Duration> {
        (!self.shared.backplane.has_log()).then_some(COPY_TTL)
    }

    fn generation(&self) -> u64 {
        self.shared.backplane.generation()
    }

    fn invalidate(&self, invalidation: &Invalidation) -> MaybeReady<Result<(), Error>> {
        MaybeReady::Pending(Box::pin(self.shared.backplane.invalidate(invalidation)))
    }

    fn sweep(&self, pattern: &str) -> MaybeReady<Result<u64, Error>> {
        let (backplane, pattern) = (self.shared.backplane.clone(), pattern.to_owned());
        MaybeReady::Pending(Box::pin(async move { sweep::sweep(&backplane, &pattern).await }))
    }

    fn listen(&self, sink: InvalidationSink) {
        if let Some(engine) = &self.engine {
            engine.listen(sink.events());
        }
        self.shared.backplane.listen(sink);
    }

    fn stats(&self) -> Vec<LevelStats> {
        let backplane = &self.shared.backplane;
        let mut level = LevelStats::new(backplane.settings.name);
        level.hits = self.shared.hits.load(Ordering::Relaxed);
        level.misses = self.shared.misses.load(Ordering::Relaxed);
        level.errors = self.shared.errors.load(Ordering::Relaxed);
        level.lookup_p50 = self.shared.lookup_times.percentile(50);
        level.lookup_p99 = self.shared.lookup_times.percentile(99);
        level.decode_errors = self.shared.decode_errors.load(Ordering::Relaxed);
        level.superseded = self.shared.superseded.load(Ordering::Relaxed);
        level.up = backplane.guard.stats().up && backplane.is_ready();
        level.invalidations_received = backplane.logged();
        level.invalidations_pending = backplane.pending_count();
        if let Some(engine) = &self.engine {
            engine.report(&mut level);
        }
        vec![level]
    }
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteStore").field("settings", &self.shared.backplane.settings).finish_non_exhaustive()
    }
}
