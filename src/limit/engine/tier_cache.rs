//! A bounded cache of tiers by identity, with expiry.
//!
//! | cached | age | the request |
//! |---|---|---|
//! | yes | less than the TTL | uses it |
//! | yes | up to ten TTLs | uses it; one look-up a second refreshes it in the background |
//! | yes | older | waits for a look-up; uses the cached tier if that fails |
//! | no | – | waits for a look-up; if that fails, the identity is anonymous for a second |
//!
//! Eight identities share a set; a ninth evicts the least recently loaded one.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::lock::Mutex;

const WAYS: usize = 8;
/// Minimum interval between look-ups of one identity, after success and failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Cached tiers are used without waiting for this many TTLs.
const GRACE: u32 = 10;

pub(crate) struct TierCache {
    sets: Box<[Mutex<[Entry; WAYS]>]>,
    ttl: Duration,
}

#[derive(Clone, Default)]
struct Entry {
    id: u64,
    tier: Option<Arc<str>>,
    /// Load time; zero if never loaded.
    loaded_at: Timestamp,
    attempted_at: Timestamp,
}

/// Action for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CachedTier {
    Use,
    UseAndRefresh,
    Load,
}

impl TierCache {
    /// Creates a cache of `capacity` identities, rounded up to whole sets.
    pub(crate) fn new(capacity: usize, ttl: Duration) -> Self {
        Self { sets: (0..capacity.div_ceil(WAYS).max(1)).map(|_| Mutex::default()).collect(), ttl }
    }

    pub(super) fn get(&self, id: u64, now: Timestamp) -> CachedTier {
        let mut set = self.set(id);
        let Some(entry) = set.iter_mut().find(|entry| entry.id == id) else { return CachedTier::Load };
        let age = now.since(entry.loaded_at);
        let paused = now < entry.attempted_at + PAUSE;
        match entry.loaded_at {
            Timestamp::ZERO if paused => CachedTier::Use,
            Timestamp::ZERO => CachedTier::Load,
            _ if age < self.ttl => CachedTier::Use,
            _ if paused => CachedTier::Use,
            _ => {
                entry.attempted_at = now;
                if age < self.ttl * GRACE { CachedTier::UseAndRefresh } else { CachedTier::Load }
            }
        }
    }

    /// Returns the last known tier.
    pub(super) fn tier(&self, id: u64) -> Option<Arc<str>> {
        self.set(id).iter().find(|entry| entry.id == id).and_then(|entry| entry.tier.clone())
    }

    pub(super) fn insert(&self, id: u64, tier: Option<Arc<str>>, now: Timestamp) {
        *self.entry(&mut self.set(id), id) = Entry { id, tier, loaded_at: now, attempted_at: now };
    }

    /// Records a failed look-up: a cached tier stays, and the next look-up is delayed.
    pub(crate) fn failed(&self, id: u64, now: Timestamp) {
        self.entry(&mut self.set(id), id).attempted_at = now;
    }

    /// Returns the identity's entry, evicting the oldest of its set if necessary.
    fn entry<'a>(&self, set: &'a mut [Entry; WAYS], id: u64) -> &'a mut Entry {
        let known = set.iter().position(|entry| entry.id == id);
        let oldest = (0..WAYS).min_by_key(|at| set[*at].loaded_at.max(set[*at].attempted_at)).unwrap_or_default();
        let at = known.unwrap_or(oldest);
        if known.is_none() {
            set[at] = Entry { id, ..Entry::default() };
        }
        &mut set[at]
    }

    fn set(&self, id: u64) -> MutexGuard<'_, [Entry; WAYS]> {
        self.sets[(id % self.sets.len() as u64) as usize].lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);
    const TTL: Duration = Duration::from_secs(60);

    fn after(seconds: u64) -> Timestamp {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn a_cached_tier_is_used_and_refreshed() {
        let tier_cache = TierCache::new(100, TTL);
        assert_eq!(tier_cache.get(7, START), CachedTier::Load);
        tier_cache.insert(7, Some("pro".into()), START);
        for (seconds, expected) in [
            (0, CachedTier::Use),
            (59, CachedTier::Use),
            (60, CachedTier::UseAndRefresh),
            (60, CachedTier::Use),
            (61, CachedTier::UseAndRefresh),
            (700, CachedTier::Load),
        ] {
            assert_eq!(tier_cache.get(7, after(seconds)), expected, "after {seconds} s");
        }
        assert_eq!(tier_cache.tier(7).as_deref(), Some("pro"), "the last known stays known");
    }

    #[test]
    fn a_failed_lookup_is_retried_once_a_second() {
        let tier_cache = TierCache::new(100, TTL);
        tier_cache.failed(7, START);
        assert_eq!((tier_cache.get(7, START), tier_cache.tier(7)), (CachedTier::Use, None));
        assert_eq!(tier_cache.get(7, after(1)), CachedTier::Load);
    }

    #[test]
    fn the_capacity_is_a_bound() {
        let tier_cache = TierCache::new(64, TTL);
        for id in 1..100_000 {
            tier_cache.insert(id, Some("pro".into()), after(id));
        }
        let known = (1..100_000).filter(|id| tier_cache.tier(*id).is_some()).count();
        assert_eq!(known, 64);
        assert!(tier_cache.tier(99_999).is_some(), "the newest are kept");
    }
}
