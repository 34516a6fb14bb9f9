//! [`TokenCache`]: what a verification found for a credential, bounded and for a time.
//!
//! | known of a credential | a request |
//! |---|---|
//! | its user, for less than the TTL | has it at once |
//! | that it is invalid, for less than the negative TTL | has none at once |
//! | that it is being verified | waits for the same verification |
//! | nothing, or its verification failed or panicked | starts one |
//!
//! Credentials are held as 128-bit hashes under a random secret. Entries live in two generations of half the capacity: when the
//! young one is full it becomes the old one, whose entries are dropped, but for those that were used since.

use std::collections::HashMap;
use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use siphasher::sip128::{Hasher128, SipHasher24};
use tokio::time::Instant;

use super::extracted_keys::FoundIdentity;
use crate::base::clock::runtime_now;
use crate::base::lock::Mutex;
use crate::base::maybe_ready::BoxFuture;
use crate::base::random::random;

/// Result of a verification: a user, none, or a failure.
pub(super) type Verified = Result<Option<FoundIdentity>, ()>;

/// Result of a verification.
#[derive(Clone)]
pub(super) enum CachedToken {
    Known(Option<FoundIdentity>),
    Pending(Shared<BoxFuture<Verified>>),
}

#[derive(Clone)]
struct Entry {
    token: CachedToken,
    /// Time until which the result is used.
    until: Instant,
}

pub(super) struct TokenCache {
    secret: (u64, u64),
    generations: Mutex<Generations>,
    pub(super) capacity: usize,
    pub(super) ttl: Duration,
    pub(super) negative_ttl: Duration,
}

#[derive(Default)]
struct Generations {
    young: HashMap<u128, Entry>,
    old: HashMap<u128, Entry>,
}

impl TokenCache {
    pub(super) fn new(capacity: usize, ttl: Duration, negative_ttl: Duration) -> Self {
        Self { secret: (random(), random()), generations: Mutex::default(), capacity, ttl, negative_ttl }
    }

    /// Returns what is known of a credential.
    pub(super) fn get(&self, token: &[u8]) -> Option<CachedToken> {
        self.known(self.id(token), runtime_now())
    }

    /// Returns what is known of a credential, or starts its verification.
    pub(super) fn get_or_verify(
        self: &Arc<Self>,
        token: &[u8],
        verify: impl FnOnce() -> BoxFuture<Verified>,
    ) -> CachedToken {
        let id = self.id(token);
        if let Some(known) = self.known(id, runtime_now()) {
            return known;
        }
        let (cache, verifying) = (self.clone(), catch_unwind(AssertUnwindSafe(verify)));
        let verified: BoxFuture<Verified> = Box::pin(async move {
            let verified = match verifying {
                Ok(verifying) => AssertUnwindSafe(verifying).catch_unwind().await.unwrap_or(Err(())),
                // The panic hook has printed the message.
                Err(_) => Err(()),
            };
            cache.complete(id, &verified);
            verified
        });
        let pending = CachedToken::Pending(verified.shared());
        // Two requests may get here at once: the second joins the first.
        let mut generations = self.generations.lock();
        if let Some(Entry { token: joined @ CachedToken::Pending(_), .. }) = generations.young.get(&id) {
            return joined.clone();
        }
        self.insert(&mut generations, id, Entry { token: pending.clone(), until: runtime_now() });
        pending
    }

    fn known(&self, id: u128, now: Instant) -> Option<CachedToken> {
        let mut generations = self.generations.lock();
        if let Some(entry) = generations.old.remove(&id) {
            self.insert(&mut generations, id, entry);
        }
        let entry = generations.young.get(&id)?;
        match &entry.token {
            CachedToken::Known(_) if now >= entry.until => {
                generations.young.remove(&id);
                None
            }
            token => Some(token.clone()),
        }
    }

    fn complete(&self, id: u128, verified: &Verified) {
        let mut generations = self.generations.lock();
        generations.old.remove(&id);
        let Ok(found) = verified else {
            generations.young.remove(&id);
            return;
        };
        let ttl = if found.is_some() { self.ttl } else { self.negative_ttl };
        let entry = Entry { token: CachedToken::Known(found.clone()), until: runtime_now() + ttl };
        self.insert(&mut generations, id, entry);
    }

    fn insert(&self, generations: &mut Generations, id: u128, entry: Entry) {
        if generations.young.len() >= self.capacity.div_ceil(2) && !generations.young.contains_key(&id) {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(id, entry);
    }

    fn id(&self, token: &[u8]) -> u128 {
        let mut hasher = SipHasher24::new_with_keys(self.secret.0, self.secret.1);
        hasher.write(token);
        hasher.finish128().as_u128()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_and_keeps_what_is_used() {
        let cache = Arc::new(TokenCache::new(10, Duration::from_secs(60), Duration::from_secs(60)));
        let none = || -> BoxFuture<Verified> { Box::pin(async { Ok(None) }) };
        for token in 0..1_000_u32 {
            if let CachedToken::Pending(pending) = cache.get_or_verify(&token.to_be_bytes(), none) {
                assert!(pending.await.is_ok());
            }
            assert!(cache.get(&0_u32.to_be_bytes()).is_some(), "used, and kept");
            let generations = cache.generations.lock();
            assert!(generations.young.len() + generations.old.len() <= 10);
        }
        assert!(cache.get(&500_u32.to_be_bytes()).is_none());
    }
}
