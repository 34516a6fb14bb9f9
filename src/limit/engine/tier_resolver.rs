//! [`TierResolver`]: runs the look-ups that a [`TierLookup`] describes, and remembers what they found.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{FutureExt, Shared};

use super::tier_cache::{Recall, TierCache};
use crate::base::clock::{Clock, Timestamp};
use crate::base::detached_context;
use crate::base::error::Error;
use crate::base::event::{Event, Events};
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::base::request_head::RequestHead;
use crate::limit::policy::tier_lookup::{LoadedTier, ResolveTier, Source, TierLookup};

/// Look-ups under way at one time; identities beyond are anonymous, or what they were, meanwhile.
const UNDER_WAY: usize = 1_024;
/// A look-up that takes longer is given up, also in the background.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval between reports of failures.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Runs tier look-ups and caches their results.
pub(crate) struct TierResolver {
    source: Arc<dyn Source>,
    deadline: Duration,
    state: Arc<State>,
}

type Ended = Shared<BoxFuture<()>>;

struct State {
    tier_cache: TierCache,
    under_way: Mutex<HashMap<u64, Ended>>,
    /// Time of the last report of a failure.
    told: AtomicU64,
}

impl TierResolver {
    pub(crate) fn start(lookup: &TierLookup) -> Box<dyn ResolveTier> {
        let state = State {
            tier_cache: TierCache::new(lookup.capacity, lookup.memory),
            under_way: Mutex::default(),
            told: AtomicU64::new(0),
        };
        Box::new(Self { source: lookup.source.clone(), deadline: lookup.deadline, state: Arc::new(state) })
    }

    /// Starts a look-up in its own task unless one is running: a client that disconnects cancels no other's look-up.
    fn ask(&self, id: u64, head: &RequestHead<'_>, clock: &Clock, events: &Events) -> Option<Ended> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let mut under_way = self.state.lock();
        if let Some(asked) = under_way.get(&id) {
            return Some(asked.clone());
        }
        if under_way.len() >= UNDER_WAY {
            return None;
        }
        let loading = self.source.load(head)?;
        let one = One { state: self.state.clone(), id, clock: clock.clone(), events: events.clone() };
        let task = runtime.spawn(detached_context::carry(one.run(loading)));
        let asked: BoxFuture<()> = Box::pin(async move { drop(task.await) });
        let asked = asked.shared();
        under_way.insert(id, asked.clone());
        Some(asked)
    }
}

impl ResolveTier for TierResolver {
    fn prepare(&self, head: &RequestHead<'_>, clock: &Clock, events: &Events) -> Option<BoxFuture<()>> {
        let id = self.source.id(head)?;
        match self.state.tier_cache.recall(id, clock.now()) {
            Recall::Use => None,
            Recall::UseAndAsk => {
                self.ask(id, head, clock, events);
                None
            }
            Recall::Ask => {
                let (asked, deadline) = (self.ask(id, head, clock, events)?, self.deadline);
                Some(Box::pin(async move { drop(tokio::time::timeout(deadline, asked).await) }))
            }
        }
    }

    fn known(&self, head: &RequestHead<'_>) -> Option<Arc<str>> {
        self.state.tier_cache.tier(self.source.id(head)?)
    }
}

/// Look-up in progress. Unregisters itself when dropped, also after a panic of user code.
struct One {
    state: Arc<State>,
    id: u64,
    clock: Clock,
    events: Events,
}

impl One {
    async fn run(self, loading: BoxFuture<LoadedTier>) {
        // Until something was learnt: so a panic counts as a failure too.
        self.state.tier_cache.failed(self.id, self.clock.now());
        let error = match tokio::time::timeout(PATIENCE, loading).await {
            Ok(Ok(tier)) => return self.state.tier_cache.learn(self.id, tier.map(Into::into), self.clock.now()),
            Ok(Err(error)) => error,
            Err(elapsed) => elapsed.into(),
        };
        let now = self.clock.now();
        self.state.tier_cache.failed(self.id, now);
        if self.state.may_tell(now) {
            let error = Error::store("the look-up of a tier failed", error);
            self.events.emit(&Event::StoreFailed { store: "tiers", error: &error });
        }
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.state.lock().remove(&self.id);
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Ended>> {
        self.under_way.lock()
    }

    fn may_tell(&self, now: Timestamp) -> bool {
        let last = self.told.load(Ordering::Relaxed);
        let due = last == 0 || now.since(Timestamp::from_nanos(last)) >= TELL_EVERY;
        due && self.told.compare_exchange(last, now.as_nanos(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
