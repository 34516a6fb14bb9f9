//! Loads: serves a stale value, waits for another caller's load, or loads.
//!
//! A load runs in a detached task, so that a caller that leaves does not cancel it. Its value or error goes to all who
//! wait for it, at once. Its panic goes to the caller that triggered it; one of the others starts the next load. So a
//! key has one load at a time, unless a caller has waited longer than its deadline, or the value was invalidated
//! meanwhile.
//!
//! With a hard timeout, a load that takes longer than that and than the wait of its followers is dropped: it may never
//! return.

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::cached::{Cached, TypedLookup};
use super::deadlines::{LoadDeadlines, PassedDeadline};
use super::fleet::LoadPermit;
use super::loaded::{LoadError, LoadProgress, Loaded};
use super::stats::count;
use crate::base::detached_context::carry;
use crate::base::mode::Mode;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::coalesce::{Follower, Leader, Role};
use crate::cache::engine::record::Entry;
use crate::cache::http::key::CacheKey;

/// A caller with its load function.
struct Caller<V, F> {
    cached: Cached<V>,
    key: CacheKey,
    /// A stale value to serve if the load fails or exceeds a timeout.
    stale: Option<(Arc<V>, Arc<Entry>)>,
    load: F,
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
        return Caller { cached, key, stale: None, load }.load_uncached(mode).await;
    }
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
            Caller { cached, key, stale: None, load }.refresh(entry);
            return Ok(value);
        }
        TypedLookup::Expired(value, entry) => Some((value, entry)),
        TypedLookup::Miss => None,
    };
    Caller { cached, key, stale, load }.load_coalesced().await
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
        let namespace = self.cached.namespace.clone();
        let mut deadlines = LoadDeadlines::new(&namespace.settings, self.stale.is_some());
        loop {
            let follower = match namespace.join(&self.key) {
                Role::Lead(leader) => return self.run_load(Some(leader), deadlines).await,
                Role::Wait(follower) => follower,
            };
            match deadlines.wait(follower.wait_for_progress()).await {
                Ok(Some(LoadProgress::Loaded(entry))) => {
                    if let Some(value) = self.shared_value(&entry) {
                        return Ok(value);
                    }
                    // Invalidated during the load: start another.
                    namespace.fetches.remove(&self.key, Some(&follower));
                }
                Ok(Some(LoadProgress::Failed(error))) => {
                    if let Some(value) = self.stale_value() {
                        return Ok(value);
                    }
                    // A load of another call site may fail with another type: then this one loads.
                    if let Ok(error) = error.downcast::<E>() {
                        return Err(self.failed(error));
                    }
                    namespace.fetches.remove(&self.key, Some(&follower));
                }
                // The load panicked: serve a stale value, or compete to lead the next load.
                Ok(None) => {
                    if let Some(value) = self.stale_value() {
                        return Ok(value);
                    }
                }
                Err(PassedDeadline::Soft) => {
                    if let Some(value) = self.stale_value() {
                        return Ok(value);
                    }
                }
                Err(PassedDeadline::Wait) => {
                    // It may be stuck: the next caller begins another.
                    namespace.fetches.remove(&self.key, Some(&follower));
                    return self.load_without_sharing(follower, deadlines).await;
                }
                Err(PassedDeadline::Hard) => return self.on_timeout(),
            }
        }
    }

    /// Loads in a detached task, and waits for it until the deadlines.
    async fn run_load(
        self,
        leader: Option<Leader<LoadProgress>>,
        mut deadlines: LoadDeadlines,
    ) -> Result<Arc<V>, LoadError<E>> {
        let Self { cached, key, stale, load } = self;
        let mut task: JoinHandle<_> = tokio::spawn(carry(run(cached.clone(), key.clone(), load, leader)));
        let caller = Caller { cached, key, stale, load: () };
        loop {
            match deadlines.load(&mut task).await {
                Ok(Ok(Ok(value))) => {
                    count(&caller.cached.namespace.counters.misses);
                    return Ok(value);
                }
                Ok(Ok(Err(LoadError::Failed(error)))) => {
                    return caller.stale_value().ok_or_else(|| caller.failed(error));
                }
                Ok(Ok(Err(LoadError::TimedOut))) => return caller.on_timeout(),
                Ok(Err(join_error)) => match join_error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    // The runtime is shutting down, and with it this task.
                    Err(_) => std::future::pending().await,
                },
                Err(PassedDeadline::Soft) => {
                    if let Some(value) = caller.stale_value() {
                        return Ok(value);
                    }
                }
                Err(PassedDeadline::Hard | PassedDeadline::Wait) => return caller.on_timeout(),
            }
        }
    }

    /// Waits for a permit, looks up once more, and loads without sharing; permits bound the concurrency.
    async fn load_without_sharing(
        self,
        follower: Follower<LoadProgress>,
        mut deadlines: LoadDeadlines,
    ) -> Result<Arc<V>, LoadError<E>> {
        if let Some(value) = self.stale_value() {
            return Ok(value);
        }
        let permit = match deadlines.permit(follower.fallback_permits(), self.cached.namespace.settings.wait).await {
            Ok(permit) => permit,
            Err(_) => return self.on_timeout(),
        };
        let entry = self.cached.lookup(&self.key).await;
        let now = self.cached.namespace.engine.clock.now();
        if let TypedLookup::Value(value, entry) = self.cached.classify(&self.key, entry, now) {
            self.cached.namespace.counters.hit(entry.meta.took);
            return Ok(value);
        }
        let result = self.run_load(None, deadlines).await;
        drop(permit);
        result
    }

    /// Refreshes a value in the background while it is served, at most once at a time.
    fn refresh(self, old: Arc<Entry>) {
        let Self { cached, key, load, .. } = self;
        let Role::Lead(leader) = cached.namespace.join(&key) else { return };
        tokio::spawn(carry(async move {
            match cached.namespace.acquire_refresh_permit(&key, &old).await {
                LoadPermit::Loaded(entry) => leader.publish(LoadProgress::Loaded(entry)),
                LoadPermit::Denied => {}
                permit => {
                    let loading = load_and_store(&cached, &key, load, Some(&leader));
                    // A failure has no caller: it is counted, and the old value remains in use.
                    drop(AssertUnwindSafe(loading).catch_unwind().await);
                    cached.namespace.release_permit(permit).await;
                }
            }
        }));
    }

    /// Loads for this caller without a look-up; in shadow mode the result is stored.
    async fn load_uncached(self, mode: Mode) -> Result<Arc<V>, LoadError<E>> {
        let deadlines = LoadDeadlines::new(&self.cached.namespace.settings, false);
        if mode == Mode::Shadow {
            return self.run_load(None, deadlines).await;
        }
        count(&self.cached.namespace.counters.misses);
        let loaded = (self.load)().await.map_err(|error| LoadError::Failed(Arc::new(error)))?;
        Ok(Arc::new(loaded.into().value))
    }
}

impl<V, F> Caller<V, F>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Returns the value of another caller's load, unless it was invalidated.
    fn shared_value(&self, entry: &Entry) -> Option<Arc<V>> {
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

/// Body of a load task: acquires a permit from the fleet first.
async fn run<V, F, Fut, L, E>(
    cached: Cached<V>,
    key: CacheKey,
    load: F,
    leader: Option<Leader<LoadProgress>>,
) -> Result<Arc<V>, LoadError<E>>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = Result<L, E>> + Send,
    L: Into<Loaded<V>> + Send,
    E: Send + Sync + 'static,
{
    let permit = match &leader {
        Some(_) => cached.namespace.acquire_load_permit(&key).await,
        None => LoadPermit::Free,
    };
    if let LoadPermit::Loaded(entry) = &permit
        && let Some(value) = cached.value(entry)
    {
        if let Some(leader) = &leader {
            leader.publish(LoadProgress::Loaded(entry.clone()));
        }
        return Ok(value);
    }
    let loaded = AssertUnwindSafe(load_and_store(&cached, &key, load, leader.as_ref())).catch_unwind().await;
    cached.namespace.release_permit(permit).await;
    drop(leader);
    loaded.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Loads, publishes the entry to the followers, and stores it.
async fn load_and_store<V, F, Fut, L, E>(
    cached: &Cached<V>,
    key: &CacheKey,
    load: F,
    leader: Option<&Leader<LoadProgress>>,
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
    let loaded = match within(namespace.settings.load_timeout(), load()).await {
        Some(Ok(loaded)) => loaded.into(),
        Some(Err(error)) => {
            let error = Arc::new(error);
            if let Some(leader) = leader {
                leader.publish(LoadProgress::Failed(error.clone()));
            }
            return Err(LoadError::Failed(error));
        }
        None => return Err(LoadError::TimedOut),
    };
    outcome.failed = false;
    drop(outcome);
    let (value, entry) = cached.new_entry(key, loaded, requested_at, began);
    let current = leader.is_none_or(Leader::is_current);
    if let Some(leader) = leader {
        leader.publish(LoadProgress::Loaded(entry.clone()));
    }
    // A newer value was put or the key invalidated if this load is no longer current.
    if current {
        namespace.store_loaded(&entry).await;
        if !leader.is_none_or(Leader::is_current) {
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
