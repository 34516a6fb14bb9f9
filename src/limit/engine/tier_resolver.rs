//! [`TierResolver`]: runs the look-ups of a [`TierLookup`] and caches their results.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{FutureExt, Shared};

use super::tier_cache::{CachedTier, TierCache};
use crate::base::clock::{Clock, Timestamp};
use crate::base::detached_context;
use crate::base::error::Error;
use crate::base::event::{Event, Events};
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::base::request_head::RequestHead;
use crate::limit::policy::tier_lookup::{LoadedTier, ResolveTier, Source, TierLookup};

/// Maximum concurrent look-ups; further identities keep their cached tier, or are anonymous.
const MAX_IN_FLIGHT: usize = 1_024;
/// Timeout of a look-up, also in the background.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between reports of failures.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Runs tier look-ups and caches their results.
pub(crate) struct TierResolver {
    source: Arc<dyn Source>,
    deadline: Duration,
    state: Arc<State>,
}

type SharedLookup = Shared<BoxFuture<()>>;

struct State {
    tier_cache: TierCache,
    in_flight: Mutex<HashMap<u64, SharedLookup>>,
    /// Time of the last reported failure.
    last_report: AtomicU64,
}

impl TierResolver {
    pub(crate) fn start(lookup: &TierLookup) -> Box<dyn ResolveTier> {
        let state = State {
            tier_cache: TierCache::new(lookup.capacity, lookup.ttl),
            in_flight: Mutex::default(),
            last_report: AtomicU64::new(0),
        };
        Box::new(Self { source: lookup.source.clone(), deadline: lookup.deadline, state: Arc::new(state) })
    }

    /// Starts a look-up in its own task unless one is running, so that a disconnecting client cancels no other's.
    fn start_lookup(&self, id: u64, head: &RequestHead<'_>, clock: &Clock, events: &Events) -> Option<SharedLookup> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let mut in_flight = self.state.lock();
        if let Some(lookup) = in_flight.get(&id) {
            return Some(lookup.clone());
        }
        if in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let loading = self.source.load(head)?;
        let running = RunningLookup { state: self.state.clone(), id, clock: clock.clone(), events: events.clone() };
        let task = runtime.spawn(detached_context::carry(running.run(loading)));
        let lookup: BoxFuture<()> = Box::pin(async move { drop(task.await) });
        let lookup = lookup.shared();
        in_flight.insert(id, lookup.clone());
        Some(lookup)
    }
}

impl ResolveTier for TierResolver {
    fn prepare(&self, head: &RequestHead<'_>, clock: &Clock, events: &Events) -> Option<BoxFuture<()>> {
        let id = self.source.id(head)?;
        match self.state.tier_cache.get(id, clock.now()) {
            CachedTier::Use => None,
            CachedTier::UseAndRefresh => {
                self.start_lookup(id, head, clock, events);
                None
            }
            CachedTier::Load => {
                let (lookup, deadline) = (self.start_lookup(id, head, clock, events)?, self.deadline);
                Some(Box::pin(async move { drop(tokio::time::timeout(deadline, lookup).await) }))
            }
        }
    }

    fn known(&self, head: &RequestHead<'_>) -> Option<Arc<str>> {
        self.state.tier_cache.tier(self.source.id(head)?)
    }
}

/// Look-up in progress. Unregisters itself when dropped, also after a panic of user code.
struct RunningLookup {
    state: Arc<State>,
    id: u64,
    clock: Clock,
    events: Events,
}

impl RunningLookup {
    async fn run(self, loading: BoxFuture<LoadedTier>) {
        // Recorded as failed until it succeeds, so that a panic counts as a failure.
        self.state.tier_cache.failed(self.id, self.clock.now());
        let error = match tokio::time::timeout(LOOKUP_TIMEOUT, loading).await {
            Ok(Ok(tier)) => return self.state.tier_cache.insert(self.id, tier.map(Into::into), self.clock.now()),
            Ok(Err(error)) => error,
            Err(elapsed) => elapsed.into(),
        };
        let now = self.clock.now();
        self.state.tier_cache.failed(self.id, now);
        if self.state.may_report(now) {
            let error = Error::store("tier look-up failed", error);
            self.events.emit(&Event::StoreFailed { store: "tiers", error: &error });
        }
    }
}

impl Drop for RunningLookup {
    fn drop(&mut self) {
        self.state.lock().remove(&self.id);
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, SharedLookup>> {
        self.in_flight.lock()
    }

    fn may_report(&self, now: Timestamp) -> bool {
        let last = self.last_report.load(Ordering::Relaxed);
        let due = last == 0 || now.since(Timestamp::from_nanos(last)) >= REPORT_INTERVAL;
        due && self.last_report.compare_exchange(last, now.as_nanos(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
