//! A short, bounded memory of tiers: what was learnt when, and when to ask again.
//!
//! | known | age | a request |
//! |---|---|---|
//! | yes | less than the memory | uses it |
//! | yes | up to ten memories | uses it; one a second asks again meanwhile |
//! | yes | older | waits for the answer; where none comes, uses it |
//! | no | – | waits for the answer; where none comes, is anonymous, and so is the identity for a second |
//!
//! Eight identities share a set; a ninth takes the place of the one learnt longest ago.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::lock::Mutex;

const WAYS: usize = 8;
/// An identity is not asked for again before this has passed, whatever came of it.
const PAUSE: Duration = Duration::from_secs(1);
/// Known tiers are used without waiting for this many lifetimes.
const GRACE: u32 = 10;

pub(crate) struct TierCache {
    sets: Box<[Mutex<[Entry; WAYS]>]>,
    memory: Duration,
}

#[derive(Clone, Default)]
struct Entry {
    id: u64,
    tier: Option<Arc<str>>,
    /// When it was learnt; zero where it never was.
    learnt: Timestamp,
    asked: Timestamp,
}

/// Action for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recall {
    Use,
    UseAndAsk,
    Ask,
}

impl TierCache {
    /// Of `capacity` identities, rounded up to whole sets.
    pub(crate) fn new(capacity: usize, memory: Duration) -> Self {
        Self { sets: (0..capacity.div_ceil(WAYS).max(1)).map(|_| Mutex::default()).collect(), memory }
    }

    pub(crate) fn recall(&self, id: u64, now: Timestamp) -> Recall {
        let mut set = self.set(id);
        let Some(entry) = set.iter_mut().find(|entry| entry.id == id) else { return Recall::Ask };
        let age = now.since(entry.learnt);
        let paused = now < entry.asked + PAUSE;
        match entry.learnt {
            Timestamp::ZERO if paused => Recall::Use,
            Timestamp::ZERO => Recall::Ask,
            _ if age < self.memory => Recall::Use,
            _ if paused => Recall::Use,
            _ => {
                entry.asked = now;
                if age < self.memory * GRACE { Recall::UseAndAsk } else { Recall::Ask }
            }
        }
    }

    /// The tier last known, if any.
    pub(crate) fn tier(&self, id: u64) -> Option<Arc<str>> {
        self.set(id).iter().find(|entry| entry.id == id).and_then(|entry| entry.tier.clone())
    }

    pub(crate) fn learn(&self, id: u64, tier: Option<Arc<str>>, now: Timestamp) {
        *self.entry(&mut self.set(id), id) = Entry { id, tier, learnt: now, asked: now };
    }

    /// No answer came: what is known stays, and is not asked for again at once.
    pub(crate) fn failed(&self, id: u64, now: Timestamp) {
        self.entry(&mut self.set(id), id).asked = now;
    }

    /// The identity's entry, or the oldest of its set made into one.
    fn entry<'a>(&self, set: &'a mut [Entry; WAYS], id: u64) -> &'a mut Entry {
        let known = set.iter().position(|entry| entry.id == id);
        let oldest = (0..WAYS).min_by_key(|at| set[*at].learnt.max(set[*at].asked)).unwrap_or_default();
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
    const MEMORY: Duration = Duration::from_secs(60);

    fn after(seconds: u64) -> Timestamp {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_known_is_used_and_asked_for_again_in_time() {
        let tier_cache = TierCache::new(100, MEMORY);
        assert_eq!(tier_cache.recall(7, START), Recall::Ask);
        tier_cache.learn(7, Some("pro".into()), START);
        for (seconds, then) in [
            (0, Recall::Use),
            (59, Recall::Use),
            (60, Recall::UseAndAsk),
            (60, Recall::Use),
            (61, Recall::UseAndAsk),
            (700, Recall::Ask),
        ] {
            assert_eq!(tier_cache.recall(7, after(seconds)), then, "after {seconds} s");
        }
        assert_eq!(tier_cache.tier(7).as_deref(), Some("pro"), "the last known stays known");
    }

    #[test]
    fn what_cannot_be_learnt_is_asked_for_once_a_second() {
        let tier_cache = TierCache::new(100, MEMORY);
        tier_cache.failed(7, START);
        assert_eq!((tier_cache.recall(7, START), tier_cache.tier(7)), (Recall::Use, None));
        assert_eq!(tier_cache.recall(7, after(1)), Recall::Ask);
    }

    #[test]
    fn it_stays_as_small_as_it_was_made() {
        let tier_cache = TierCache::new(64, MEMORY);
        for id in 1..100_000 {
            tier_cache.learn(id, Some("pro".into()), after(id));
        }
        let known = (1..100_000).filter(|id| tier_cache.tier(*id).is_some()).count();
        assert_eq!(known, 64);
        assert!(tier_cache.tier(99_999).is_some(), "the newest are kept");
    }
}
