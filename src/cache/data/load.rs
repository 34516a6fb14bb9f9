//! What happens where there is no fresh value: serve what is stale, wait for a load, or load.
//!
//! A load runs in a task of its own, so that a caller who leaves cancels nothing. Its error and its panic are its
//! caller's;
//! those who waited for it are told that it failed, and one of them begins the next. So there is one load for a key at
//! any time, as long as nobody has waited longer than the deadline, nor a tag, prefix or key was taken back meanwhile.

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::cached::{Cached, TypedLookup};
use super::deadlines::{LoadDeadlines, PassedDeadline};
use super::fleet::LoadPermit;
use super::loaded::{LoadError, Loaded};
use super::stats::count;
use crate::base::detached_context::carry;
use crate::base::mode::Switch;
use crate::cache::engine::barrier::Validity;
use crate::cache::engine::coalesce::{Follower, Leader, Role};
use crate::cache::engine::record::Entry;
use crate::cache::http::key::CacheKey;

/// A caller, and what it brought.
struct Caller<V, F> {
    cached: Cached<V>,
    key: CacheKey,
    /// What was found, to be served where a load fails or takes long.
    stale: Option<(Arc<V>, Arc<Entry>)>,
    load: F,
}

/// Does what was found demands.
pub(super) async fn go<V, F, Fut, L, E>(
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
    E: Send + 'static,
{
    let counters = &cached.space.counters;
    let switch = cached.space.switch.get();
    if switch != Switch::On {
        if switch == Switch::Shadow {
            cached.would_serve(&found);
        }
        return Caller { cached, key, stale: None, load }.unseen(switch).await;
    }
    let stale = match found {
        TypedLookup::Value(value, entry) => {
            counters.hit(entry.meta.took);
            return Ok(value);
        }
        TypedLookup::BudgetStretched(value, entry) => {
            counters.spared(entry.meta.took);
            return Ok(value);
        }
        TypedLookup::Old(value, entry) => {
            counters.stale(entry.meta.took);
            Caller { cached, key, stale: None, load }.refresh(entry);
            return Ok(value);
        }
        TypedLookup::Expired(value, entry) => Some((value, entry)),
        TypedLookup::Nothing => None,
    };
    Caller { cached, key, stale, load }.together().await
}

impl<V, F, Fut, L, E> Caller<V, F>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<L, E>> + Send + 'static,
    L: Into<Loaded<V>> + Send + 'static,
    E: Send + 'static,
{
    /// Leads a load, or waits for one.
    async fn together(self) -> Result<Arc<V>, LoadError<E>> {
        let space = self.cached.space.clone();
        let mut patience = LoadDeadlines::new(&space.settings, self.stale.is_some());
        loop {
            let mut waiter = match space.join(&self.key) {
                Role::Lead(lead) => return self.lead(Some(lead), patience).await,
                Role::Wait(waiter) => waiter,
            };
            match patience.wait(waiter.wait_for_progress()).await {
                Ok(Some(entry)) => {
                    if let Some(value) = self.shared(&entry) {
                        return Ok(value);
                    }
                    // It was taken back while it was being loaded: it is not waited for again.
                    space.fetches.remove(&self.key, Some(&waiter));
                }
                // It failed: a stale value, or the next one leads.
                Ok(None) => {
                    if let Some(value) = self.stand_in() {
                        return Ok(value);
                    }
                }
                Err(PassedDeadline::Soft) => {
                    if let Some(value) = self.stand_in() {
                        return Ok(value);
                    }
                }
                Err(PassedDeadline::Wait) => return self.a_few_at_a_time(waiter, patience).await,
                Err(PassedDeadline::Hard) => return self.out_of_time(),
            }
        }
    }

    /// Loads in a task of its own, and waits for it as long as it may.
    async fn lead(self, lead: Option<Leader<Arc<Entry>>>, mut patience: LoadDeadlines) -> Result<Arc<V>, LoadError<E>> {
        let Self { cached, key, stale, load } = self;
        let mut task: JoinHandle<_> = tokio::spawn(carry(run(cached.clone(), key.clone(), load, lead)));
        let caller = Caller { cached, key, stale, load: () };
        loop {
            match patience.load(&mut task).await {
                Ok(Ok(Ok(value))) => {
                    count(&caller.cached.space.counters.misses);
                    return Ok(value);
                }
                Ok(Ok(Err(error))) => return caller.stand_in().ok_or_else(|| caller.failed(error)),
                Ok(Err(broken)) => match broken.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    // The runtime is shutting down, and this task with it.
                    Err(_) => std::future::pending().await,
                },
                Err(PassedDeadline::Soft) => {
                    if let Some(value) = caller.stand_in() {
                        return Ok(value);
                    }
                }
                Err(PassedDeadline::Hard | PassedDeadline::Wait) => return caller.out_of_time(),
            }
        }
    }

    /// Waits for a turn, looks once more, and loads alone: nobody waits for ever, and nobody is stormed.
    async fn a_few_at_a_time(
        self,
        waiter: Follower<Arc<Entry>>,
        mut patience: LoadDeadlines,
    ) -> Result<Arc<V>, LoadError<E>> {
        if let Some(value) = self.stand_in() {
            return Ok(value);
        }
        let turn = match patience.turn(&waiter.fallback_permits, self.cached.space.settings.wait).await {
            Ok(turn) => turn,
            Err(_) => return self.out_of_time(),
        };
        let entry = self.cached.look(&self.key).await;
        let now = self.cached.space.engine.clock.now();
        if let TypedLookup::Value(value, entry) = self.cached.found(&self.key, entry, now) {
            self.cached.space.counters.hit(entry.meta.took);
            return Ok(value);
        }
        let answer = self.lead(None, patience).await;
        drop(turn);
        answer
    }

    /// Lets one caller refresh a value in the background, while all are served it.
    fn refresh(self, old: Arc<Entry>) {
        let Self { cached, key, load, .. } = self;
        let Role::Lead(lead) = cached.space.join(&key) else { return };
        tokio::spawn(carry(async move {
            match cached.space.may_renew(&key, &old).await {
                LoadPermit::Loaded(entry) => lead.publish(entry),
                LoadPermit::Denied => {}
                leave => {
                    let loading = load_and_keep(&cached, &key, load, Some(&lead));
                    // Nobody waits for its failure: it is counted, and the old value goes on being served.
                    drop(AssertUnwindSafe(loading).catch_unwind().await);
                    cached.space.give_up(leave).await;
                }
            }
        }));
    }

    /// Loads for this caller, as if the namespace were not there; in the shadow what it brings is kept.
    async fn unseen(self, switch: Switch) -> Result<Arc<V>, LoadError<E>> {
        let patience = LoadDeadlines::new(&self.cached.space.settings, false);
        if switch == Switch::Shadow {
            return self.lead(None, patience).await;
        }
        count(&self.cached.space.counters.misses);
        let loaded = (self.load)().await.map_err(LoadError::Failed)?;
        Ok(Arc::new(loaded.into().value))
    }
}

impl<V, F> Caller<V, F>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// What somebody else's load brought, unless it was taken back meanwhile.
    fn shared(&self, entry: &Entry) -> Option<Arc<V>> {
        let space = &self.cached.space;
        let is_valid = space.engine.barriers.check(&self.key, &entry.meta) == Validity::Valid;
        let value = is_valid.then(|| self.cached.value(entry)).flatten()?;
        space.counters.collapsed(entry.meta.took);
        Some(value)
    }

    /// The stale value, where it may stand in.
    fn stand_in(&self) -> Option<Arc<V>> {
        let (value, entry) = self.stale.as_ref()?;
        if !self.cached.space.stands_in(&self.key, entry) {
            return None;
        }
        self.cached.space.counters.stale(entry.meta.took);
        Some(value.clone())
    }

    fn failed<E>(&self, error: E) -> LoadError<E> {
        count(&self.cached.space.counters.misses);
        LoadError::Failed(error)
    }

    fn out_of_time<E>(&self) -> Result<Arc<V>, LoadError<E>> {
        self.stand_in().ok_or_else(|| {
            count(&self.cached.space.counters.misses);
            count(&self.cached.space.counters.timed_out);
            LoadError::TimedOut
        })
    }
}

/// A load as a task: first asks whether another process is at it.
async fn run<V, F, Fut, L, E>(
    cached: Cached<V>,
    key: CacheKey,
    load: F,
    lead: Option<Leader<Arc<Entry>>>,
) -> Result<Arc<V>, E>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = Result<L, E>> + Send,
    L: Into<Loaded<V>> + Send,
    E: Send,
{
    let leave = match &lead {
        Some(_) => cached.space.may_load(&key).await,
        None => LoadPermit::Free,
    };
    if let LoadPermit::Loaded(entry) = &leave
        && let Some(value) = cached.value(entry)
    {
        if let Some(lead) = &lead {
            lead.publish(entry.clone());
        }
        return Ok(value);
    }
    let loaded = AssertUnwindSafe(load_and_keep(&cached, &key, load, lead.as_ref())).catch_unwind().await;
    cached.space.give_up(leave).await;
    drop(lead);
    loaded.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Loads, tells those who wait, and keeps what came.
async fn load_and_keep<V, F, Fut, L, E>(
    cached: &Cached<V>,
    key: &CacheKey,
    load: F,
    lead: Option<&Leader<Arc<Entry>>>,
) -> Result<Arc<V>, E>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = Result<L, E>> + Send,
    L: Into<Loaded<V>> + Send,
    E: Send,
{
    let space = &cached.space;
    let (asked, began) = (space.engine.clock.now(), space.engine.log_position());
    let mut outcome = LoadOutcome { space, asked, failed: true };
    let loaded = load().await?.into();
    outcome.failed = false;
    drop(outcome);
    let (value, entry) = cached.made(key, loaded, asked, began);
    match entry {
        Ok(entry) => {
            let stands = lead.is_none_or(Leader::is_current);
            if let Some(lead) = lead {
                lead.publish(entry.clone());
            }
            // Something was put meanwhile, where it does not stand.
            if stands {
                space.keep(&entry, asked).await;
                if !lead.is_none_or(Leader::is_current) {
                    // While it was being kept: rather nothing than what it may have undone.
                    space.forget(key).await;
                }
            }
        }
        Err(error) => space.store_failed(&error),
    }
    Ok(value)
}

/// Counts a load at its end, also where that is a panic.
struct LoadOutcome<'a> {
    space: &'a super::namespace::Namespace,
    asked: crate::base::clock::Timestamp,
    failed: bool,
}

impl Drop for LoadOutcome<'_> {
    fn drop(&mut self) {
        let counters = &self.space.counters;
        counters.loaded(self.space.engine.clock.now().since(self.asked));
        if self.failed {
            count(&counters.errors);
        }
    }
}
