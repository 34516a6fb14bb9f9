//! [`RefreshBackoff`]: pauses between the refreshes of a key that fail: 1 s, doubling to 30 s.

use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::cache::engine::marks::Marks;
use crate::cache::http::key::CacheKey;

/// Pauses after the first failure and those that follow it.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(30),
];

/// Keys whose refreshes failed.
#[derive(Default)]
pub(crate) struct RefreshBackoff(Marks);

impl RefreshBackoff {
    /// Whether the key may be refreshed.
    pub(crate) fn may_refresh(&self, key: &CacheKey, now: Timestamp) -> bool {
        !self.0.is_marked(key.hash64(), now)
    }

    /// Notes a failed refresh.
    pub(crate) fn failed(&self, key: &CacheKey, now: Timestamp) {
        let hash = key.hash64();
        let level = self.0.level(hash).map_or(0, |level| (level + 1).min(PAUSES.len() as u8 - 1));
        self.0.mark(hash, now, PAUSES[usize::from(level)], level);
    }

    /// Notes that the key was fetched.
    pub(crate) fn succeeded(&self, key: &CacheKey) {
        self.0.clear(key.hash64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute_and_end_with_a_success() {
        let (backoff, key) = (RefreshBackoff::default(), CacheKey::from_bytes(b"key", 0));
        let mut now = Timestamp::from_nanos(1_000_000_000);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            assert!(backoff.may_refresh(&key, now));
            backoff.failed(&key, now);
            assert!(!backoff.may_refresh(&key, now + Duration::from_millis(pause * 1_000 - 100)), "{pause} s");
            now = now + Duration::from_secs(pause);
        }
        backoff.failed(&key, now);
        backoff.succeeded(&key);
        assert!(backoff.may_refresh(&key, now));
        backoff.failed(&key, now);
        assert!(backoff.may_refresh(&key, now + PAUSES[0]), "it starts anew");
    }
}
