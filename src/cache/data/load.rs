//! Loads: serves a stale value, waits for another caller's load, or loads.
//!
//! A load that does not complete at once runs in a detached task, so that a caller that leaves does not cancel it. Its value
//! or error goes to all who wait for it, at once. Its panic goes to the caller that triggered it; the others load, a few at
//! a time. So a key has one load at a time, unless it panics, takes longer than its followers wait, or the value was
//! invalidated meanwhile: see [`coalesce`](crate::cache::engine::coalesce).
//!
//! With a hard timeout, a load that takes longer than that and than the wait of its followers is dropped: it may never
//! return. One that no caller waits for any more is dropped after five minutes, and so is a refresh.

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cached::{Cached, TypedLookup};
use super::loaded::{LoadError, LoadProgress, Loaded};
use super::stats::count;
use crate::base::maybe_ready::BoxFuture;
use crate::base::mode::Mode;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::coalesce::caller::{self, NotShared};
use crate::cache::engine::coalesce::deadlines::{FetchDeadlines, PassedDeadline};
use crate::cache::engine::coalesce::detached_fetch;
use crate::cache::engine::coalesce::table::{Leader, Role, Unshared};
use crate::cache::engine::fetch_bounds::refetch_deadline;
use crate::cache::engine::fetch_permit::FetchPermit;
use crate::cache::engine::record::Stored;
use crate::cache::engine::refresh::Refresh;
use crate::cache::engine::typed_value::TypedValue;
use crate::cache::http::key::CacheKey;
use crate::cache::http::reason::Reason;

/// Longest time a load continues without a caller.
const LONGEST_DETACHED: Duration = Duration::from_secs(300);

/// A caller with its load function.
struct Caller<V, F> {
    cached: Cached<V>,
    key: CacheKey,
    /// A stale value to serve if the load fails or exceeds a timeout.
    stale: Option<(Arc<V>, Arc<TypedValue>)>,
    /// Whether the value was invalidated.
    is_refetch: bool,
    load: F,
}

/// Role of a load among those of its key.
enum LoadRole {
    /// Has followers, or may have.
    Lead(Leader<LoadProgress>),
    Alone(Unshared<LoadProgress>),
}

impl LoadRole {
    fn publish(&self, progress: LoadProgress) {
        if let Self::Lead(leader) = self {
            leader.publish(progress);
        }
    }

    /// Whether no newer value was put since the load began.
    fn is_current(&self) -> bool {
        match self {
            Self::Lead(leader) => leader.is_current(),
            Self::Alone(unshared) => unshared.is_current(),
        }
    }
}

/// Serves the look-up result, or loads.
pub(super) async fn serve_or_load<V, F, Fut, L, E>(
    cached: Cached<V>,
    key: CacheKey,
    found: TypedLookup<V>,
    load: F,
) -> Result<Arc<V>, LoadError<E>>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<L, E>> + Send + 'static,
    L: Into<Loaded<V>> + Send + 'static,
    E: Send + Sync + 'static,
{
    let counters = &cached.namespace.counters;
    let mode = cached.namespace.mode.get();
    if mode != Mode::On {
        if mode == Mode::Shadow {
            cached.count_shadow_lookup(&found);
        }
        return Caller { cached, key, stale: None, is_refetch: false, load }.load_uncached(mode).await;
    }
    let is_refetch = matches!(found, TypedLookup::Invalidated);
    let stale = match found {
        TypedLookup::Value(value, entry) => {
            counters.hit(entry.meta.took);
            return Ok(value);
        }
        TypedLookup::BudgetStretched(value, entry) => {
            counters.budget_stretched(entry.meta.took);
            return Ok(value);
        }
        TypedLookup::RefreshDue(value, entry) => {
            counters.stale(entry.meta.took);
            Caller { cached, key, stale: None, is_refetch, load }.refresh(entry);
            return Ok(value);
        }
        TypedLookup::Expired(value, entry) => Some((value, entry)),
        TypedLookup::Miss | TypedLookup::Invalidated => None,
    };
    Caller { cached, key, stale, is_refetch, load }.load_coalesced().await
}

impl<V, F, Fut, L, E> Caller<V, F>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<L, E>> + Send + 'static,
    L: Into<Loaded<V>> + Send + 'static,
    E: Send + Sync + 'static,
{
    /// Leads a load, or waits for one.
    async fn load_coalesced(self) -> Result<Arc<V>, LoadError<E>> {
        let deadlines = self.cached.namespace.settings.deadlines(self.stale.is_some());
        // Boxed: callers would otherwise have to prove for all lifetimes that a follower is `Send`.
        let following: BoxFuture<_> = match self.cached.namespace.join(&self.key) {
            Role::Lead(leader) => return self.load(Some(leader), deadlines).await,
            Role::Wait(follower) => Box::pin(caller::follow(self, follower, deadlines)),
            Role::Alone(gate) => Box::pin(caller::go_alone(self, gate, Reason::WaitedTooLong, deadlines)),
        };
        following.await
    }

    /// Loads, in a detached task if it takes time, and waits for it until the deadlines.
    async fn load(
        self,
        leader: Option<Leader<LoadProgress>>,
        deadlines: FetchDeadlines,
    ) -> Result<Arc<V>, LoadError<E>> {
        let Self { cached, key, stale, is_refetch, load } = self;
        let caller = Caller { cached: cached.clone(), key: key.clone(), stale, is_refetch, load: () };
        let namespace = caller.cached.namespace.clone();
        let idle = namespace.settings.load_timeout().unwrap_or(LONGEST_DETACHED);
        let alone = || LoadRole::Alone(namespace.fetches.unshared(&key));
        let role = leader.map_or_else(alone, LoadRole::Lead);
        let fetched = Box::pin(run(cached, key, load, role, is_refetch));
        let loading = detached_fetch::lead(fetched, namespace.engine.bounds.detached.clone(), idle);
        // Before the load has failed, a passed deadline is not its error.
        let late = |passed| match passed {
            PassedDeadline::Soft => caller.stale_value().map(|stale| Err(Ok(stale))),
            PassedDeadline::Hard | PassedDeadline::Wait => Some(Err(caller.on_timeout())),
        };
        match deadlines.leading(async { Ok(loading.await) }, late).await {
            Ok(Ok(value)) => {
                count(&namespace.counters.misses);
                Ok(value)
            }
            Ok(Err(LoadError::Failed(error))) => caller.stale_value().ok_or_else(|| caller.failed(error)),
            Ok(Err(LoadError::TimedOut)) => caller.on_timeout(),
            Err(late) => late,
        }
    }

    /// Refreshes a value in the background while it is served, at most once at a time.
    fn refresh(self, old: Arc<TypedValue>) {
        let Self { cached, key, load, .. } = self;
        let namespace = cached.namespace.clone();
        if !namespace.engine.may_refresh(&key, namespace.engine.clock.now()) {
            return;
        }
        let Role::Lead(leader) = namespace.join(&key) else { return };
        let (lease, publish) = (namespace.settings.lease, LoadProgress::of as fn(Stored) -> _);
        let longest = namespace.settings.load_timeout().unwrap_or(LONGEST_DETACHED);
        namespace.engine.clone().refresh(
            Refresh { key: key.clone(), old: Stored::Value(old), leader, lease, publish },
            move |leader| async move {
                // A failure has no caller: it is counted, and the old value remains in use.
                load_and_store(&cached, &key, load, &LoadRole::Lead(leader), Some(longest)).await.is_ok()
            },
        );
    }

    /// Loads for this caller without a look-up; in shadow mode the result is stored.
    async fn load_uncached(self, mode: Mode) -> Result<Arc<V>, LoadError<E>> {
        if mode == Mode::Shadow {
            let deadlines = self.cached.namespace.settings.deadlines(false);
            return self.load(None, deadlines).await;
        }
        count(&self.cached.namespace.counters.misses);
        let loaded = (self.load)().await.map_err(|error| LoadError::Failed(Arc::new(error)))?;
        Ok(Arc::new(loaded.into().value))
    }
}

impl<V, F, Fut, L, E> caller::Caller for Caller<V, F>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<L, E>> + Send + 'static,
    L: Into<Loaded<V>> + Send + 'static,
    E: Send + Sync + 'static,
{
    type Progress = LoadProgress;
    type Output = Result<Arc<V>, LoadError<E>>;

    fn join(&self) -> Role<LoadProgress> {
        self.cached.namespace.join(&self.key)
    }

    async fn share(
        self,
        progress: LoadProgress,
        _deadlines: &mut FetchDeadlines,
    ) -> Result<Self::Output, (Self, NotShared)> {
        let value = match progress {
            LoadProgress::Loaded(entry) => self.shared_value(&entry).map(Ok),
            // A load of another call site may fail with another type.
            LoadProgress::Failed(error) => {
                self.stale_value().map(Ok).or_else(|| error.downcast::<E>().ok().map(|error| Err(self.failed(error))))
            }
        };
        value.ok_or((self, NotShared::Outdated))
    }

    fn stale(&self, _reason: Reason) -> Option<Self::Output> {
        self.stale_value().map(Ok)
    }

    async fn look_up(self) -> Result<Self::Output, Self> {
        let entry = self.cached.lookup(&self.key).await;
        match self.cached.classify(&self.key, entry, self.cached.namespace.engine.clock.now()) {
            TypedLookup::Value(value, entry) => {
                self.cached.namespace.counters.hit(entry.meta.took);
                Ok(Ok(value))
            }
            _ => Err(self),
        }
    }

    fn lead(
        self,
        leader: Leader<LoadProgress>,
        deadlines: FetchDeadlines,
    ) -> impl Future<Output = Self::Output> + Send {
        self.load(Some(leader), deadlines)
    }

    fn fetch_alone(self, _reason: Reason, deadlines: FetchDeadlines) -> impl Future<Output = Self::Output> + Send {
        self.load(None, deadlines)
    }

    fn time_out(self) -> Self::Output {
        self.on_timeout()
    }
}

impl<V, F> Caller<V, F>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Returns the value of another caller's load, unless it was invalidated.
    fn shared_value(&self, entry: &TypedValue) -> Option<Arc<V>> {
        let namespace = &self.cached.namespace;
        let is_valid = namespace.engine.barriers.check(&self.key, &entry.meta) == Validity::Valid;
        let value = is_valid.then(|| self.cached.value(entry)).flatten()?;
        namespace.counters.collapsed(entry.meta.took);
        Some(value)
    }

    /// Returns the stale value if it may be served.
    fn stale_value(&self) -> Option<Arc<V>> {
        let (value, entry) = self.stale.as_ref()?;
        if !self.cached.namespace.may_serve_stale(&self.key, entry) {
            return None;
        }
        self.cached.namespace.counters.stale(entry.meta.took);
        Some(value.clone())
    }

    fn failed<E>(&self, error: Arc<E>) -> LoadError<E> {
        count(&self.cached.namespace.counters.misses);
        LoadError::Failed(error)
    }

    fn on_timeout<E>(&self) -> Result<Arc<V>, LoadError<E>> {
        self.stale_value().ok_or_else(|| {
            count(&self.cached.namespace.counters.misses);
            count(&self.cached.namespace.counters.timed_out);
            LoadError::TimedOut
        })
    }
}

/// Loads with a permit of the fleet.
async fn run<V, F, Fut, L, E>(
    cached: Cached<V>,
    key: CacheKey,
    load: F,
    role: LoadRole,
    is_refetch: bool,
) -> Result<Arc<V>, LoadError<E>>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = Result<L, E>> + Send,
    L: Into<Loaded<V>> + Send,
    E: Send + Sync + 'static,
{
    let namespace = &cached.namespace;
    let queue_until = refetch_deadline(namespace.settings.wait);
    let permit = match &role {
        LoadRole::Lead(_) => namespace.acquire_permit(&key).await,
        LoadRole::Alone(_) => FetchPermit::Free,
    };
    if let FetchPermit::Stored(Stored::Value(entry)) = &permit
        && let Some(value) = cached.value(entry)
    {
        role.publish(LoadProgress::Loaded(entry.clone()));
        return Ok(value);
    }
    let refetch = match is_refetch {
        true => namespace.engine.bounds.refetch(queue_until).await,
        false => None,
    };
    let timeout = namespace.settings.load_timeout();
    let loaded = AssertUnwindSafe(load_and_store(&cached, &key, load, &role, timeout)).catch_unwind().await;
    drop(refetch);
    if let FetchPermit::Leased(lease) = permit {
        namespace.engine.release(&lease, None).await;
    }
    drop(role);
    loaded.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Loads, at most for `timeout`, publishes the entry to the followers, and stores it.
async fn load_and_store<V, F, Fut, L, E>(
    cached: &Cached<V>,
    key: &CacheKey,
    load: F,
    role: &LoadRole,
    timeout: Option<Duration>,
) -> Result<Arc<V>, LoadError<E>>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = Result<L, E>> + Send,
    L: Into<Loaded<V>> + Send,
    E: Send + Sync + 'static,
{
    let namespace = &cached.namespace;
    let (requested_at, began) = (namespace.engine.clock.now(), namespace.engine.log_position());
    let mut outcome = LoadOutcome { namespace, requested_at, failed: true };
    let loaded = match within(timeout, load()).await {
        Some(Ok(loaded)) => loaded.into(),
        Some(Err(error)) => {
            let error = Arc::new(error);
            role.publish(LoadProgress::Failed(error.clone()));
            return Err(LoadError::Failed(error));
        }
        None => return Err(LoadError::TimedOut),
    };
    outcome.failed = false;
    drop(outcome);
    let (value, entry) = cached.new_entry(key, loaded, requested_at, began);
    let current = role.is_current();
    role.publish(LoadProgress::Loaded(entry.clone()));
    // A newer value was put or the key invalidated if this load is no longer current.
    if current {
        namespace.store_loaded(&entry).await;
        if !role.is_current() {
            // Invalidated or replaced while storing: remove the entry rather than keep a possibly older one.
            namespace.remove(key).await;
        }
    }
    Ok(value)
}

/// Drives a load, at most this long.
async fn within<T>(timeout: Option<Duration>, load: impl Future<Output = T>) -> Option<T> {
    match timeout {
        Some(timeout) => tokio::time::timeout(timeout, load).await.ok(),
        None => Some(load.await),
    }
}

/// Counts a load when dropped, also after a panic.
struct LoadOutcome<'a> {
    namespace: &'a super::namespace::Namespace,
    requested_at: crate::base::clock::Timestamp,
    failed: bool,
}

impl Drop for LoadOutcome<'_> {
    fn drop(&mut self) {
        let counters = &self.namespace.counters;
        counters.loaded(self.namespace.engine.clock.now().since(self.requested_at));
        if self.failed {
            count(&counters.errors);
        }
    }
}
