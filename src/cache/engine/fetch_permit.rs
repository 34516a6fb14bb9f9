//! [`FetchPermit`]: one fetch per fleet, best effort. A process takes a lease from the shared store before it fetches.
//!
//! | state of another process | this process |
//! |---|---|
//! | has stored the response or value | uses that |
//! | is fetching it | polls until it is stored, the lease is released, or it expires |
//! | found that it cannot be stored | fetches at once, without a lease, for as long as that is remembered |
//! | none of these | fetches |
//!
//! A store without leases, or an unavailable one, grants every lease: then each process fetches by itself.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::cache_engine::{Engine, emit_store_error};
use super::lease::{GetOrClaim, Lease, LeaseState};
use super::record::Stored;
use crate::base::clock::{Timestamp, runtime_now};
use crate::base::error::Error;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::MaybeReady;
use crate::cache::http::key::CacheKey;

/// First and longest interval between polls; the interval doubles each time.
const POLL_INTERVALS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(160));
/// Upper bound of the wait for a lease.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// Permit of a process to fetch.
pub(crate) enum FetchPermit {
    /// Granted without a lease.
    Free,
    /// Granted with a lease, for which other processes wait.
    Leased(Lease<CacheKey>),
    /// Another process has stored it.
    Stored(Stored),
    /// Another process holds the lease.
    Held,
    /// It is not shared.
    Uncacheable,
}

impl Engine {
    /// Returns the lease of a key. A fetch after an invalidation has a lease of its own.
    pub(crate) fn lease(&self, key: &CacheKey, ttl: Duration) -> Lease<CacheKey> {
        Lease::new(key.variant(&self.store.generation().to_be_bytes()), self.token, ttl)
    }

    /// Acquires a permit to fetch. Waits for another process's fetch, at most `longest`. `state` is what the store has
    /// answered before, and `usable` tells whether what is stored may be used.
    pub(crate) async fn acquire_permit(
        &self,
        key: &CacheKey,
        lease: Lease<CacheKey>,
        mut state: Option<LeaseState>,
        longest: Duration,
        usable: impl Fn(&Stored) -> bool,
    ) -> FetchPermit {
        let deadline = runtime_now() + longest.min(LONGEST_WAIT);
        let mut pause = POLL_INTERVALS.0;
        loop {
            if state.is_none() {
                let answer = self.store.get_or_claim(key, &lease, self.clock.now()).await;
                state = match answer {
                    Ok(GetOrClaim::Found(found)) if usable(&found) => return FetchPermit::Stored(found),
                    Ok(GetOrClaim::Missing(Some(state))) => Some(state),
                    // What is stored is of no use here: it is not in the way of a lease.
                    Ok(_) => Some(self.store.claim(&lease).await),
                    Err(error) => {
                        emit_store_error(&self.events, &error);
                        Some(LeaseState::Granted)
                    }
                };
            }
            match state.take() {
                Some(LeaseState::Granted) | None => return FetchPermit::Leased(lease),
                Some(LeaseState::Uncacheable) => return FetchPermit::Uncacheable,
                Some(LeaseState::Held) if runtime_now() >= deadline => return FetchPermit::Free,
                Some(LeaseState::Held) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_INTERVALS.1);
        }
    }

    /// Acquires a permit to refresh an entry that is being served, without waiting.
    pub(crate) async fn acquire_refresh_permit(
        &self,
        key: &CacheKey,
        lease: Lease<CacheKey>,
        newer: impl Fn(&Stored) -> bool,
    ) -> FetchPermit {
        let state = self.store.claim(&lease).await;
        // Another process may have completed its refresh just before.
        let found = self.store.get_shared(key, self.clock.now()).await.unwrap_or_default();
        match (found.filter(newer), state) {
            (Some(found), state) => {
                if state == LeaseState::Granted {
                    self.release(&lease, None).await;
                }
                FetchPermit::Stored(found)
            }
            (None, LeaseState::Held) => FetchPermit::Held,
            (None, _) => FetchPermit::Leased(lease),
        }
    }

    /// Releases a lease, so that other processes stop waiting. With `uncacheable`, they fetch by themselves for that long.
    pub(crate) async fn release(&self, lease: &Lease<CacheKey>, uncacheable: Option<Duration>) {
        if let Err(error) = self.store.release(lease, uncacheable).await {
            emit_store_error(&self.events, &error);
        }
    }
}

/// Lease that a request asks for when nothing is stored for it.
pub(crate) struct MissLease {
    lease: Lease<CacheKey>,
    /// Answer of the store to the look-up.
    state: Mutex<Option<LeaseState>>,
}

/// Lease that this process holds; released when dropped.
pub(crate) struct HeldLease {
    engine: Engine,
    lease: Lease<CacheKey>,
    uncacheable: OnceLock<Duration>,
}

impl MissLease {
    pub(crate) fn new(lease: Lease<CacheKey>) -> Arc<Self> {
        Arc::new(Self { lease, state: Mutex::default() })
    }

    /// Reads the store, and asks for the lease if nothing is stored.
    pub(crate) fn get_or_claim(
        self: &Arc<Self>,
        engine: &Engine,
        key: &CacheKey,
        now: Timestamp,
    ) -> MaybeReady<Result<Option<Stored>, Error>> {
        let noted = self.clone();
        engine.store.get_or_claim(key, &self.lease, now).map(move |answer| {
            Ok(match answer? {
                GetOrClaim::Found(found) => Some(found),
                GetOrClaim::Missing(state) => {
                    *noted.state.lock() = state;
                    None
                }
            })
        })
    }

    /// Acquires the permit to fetch: see [`Engine::acquire_permit`].
    pub(crate) async fn acquire_permit(
        &self,
        engine: &Engine,
        key: &CacheKey,
        longest: Duration,
        usable: impl Fn(&Stored) -> bool,
    ) -> FetchPermit {
        let state = self.state.lock().take();
        engine.acquire_permit(key, self.lease.clone(), state, longest.min(self.lease.ttl), usable).await
    }
}

impl HeldLease {
    pub(crate) const fn new(engine: Engine, lease: Lease<CacheKey>) -> Self {
        Self { engine, lease, uncacheable: OnceLock::new() }
    }

    /// Notes that the response is not shared: the other processes fetch at once, for that long.
    pub(crate) fn note_uncacheable(&self, span: Duration) {
        // The first note counts.
        let _ = self.uncacheable.set(span);
    }

    /// Stores a response and releases the lease.
    pub(crate) fn put(self, key: &CacheKey, stored: Stored, now: Timestamp) -> MaybeReady<Result<(), Error>> {
        let put = self.engine.store.put_and_release(key, stored, &self.lease, now);
        self.forget();
        put
    }

    fn forget(mut self) {
        self.lease.ttl = Duration::ZERO;
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        // Without a runtime the lease expires.
        let (false, Ok(runtime)) = (self.lease.ttl.is_zero(), tokio::runtime::Handle::try_current()) else { return };
        let (engine, lease, uncacheable) = (self.engine.clone(), self.lease.clone(), self.uncacheable.get().copied());
        runtime.spawn(async move { engine.release(&lease, uncacheable).await });
    }
}
