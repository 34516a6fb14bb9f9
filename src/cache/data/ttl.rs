//! How long a typed value may be used: the namespace's settings, and what the load itself says.

use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::cache::http::deadlines::Deadlines;
use crate::cache::http::storability::{MAX_LIFETIME, jittered};

/// What a namespace says of its values' lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TtlPolicy {
    pub(crate) ttl: Duration,
    pub(crate) while_revalidate: Duration,
    pub(crate) if_error: Duration,
    /// The largest share of a life that is taken off at random, in 0..1.
    pub(crate) jitter: f64,
    /// The share of a life after which a hit refreshes the value, in 0..=1.
    pub(crate) refresh_ahead: f64,
    /// The most a low budget multiplies a life by.
    pub(crate) max_stretch: f64,
}

impl TtlPolicy {
    /// The windows of a value that was loaded at this time; `told` is the load's own word, `noise` any number.
    pub(crate) fn deadlines(&self, told: Option<Duration>, loaded: Timestamp, noise: u64) -> Deadlines {
        let life = jittered(told.unwrap_or(self.ttl).min(MAX_LIFETIME), self.jitter, noise);
        let fresh_until = loaded + life;
        let (revalidate_until, error_until) = (fresh_until + self.while_revalidate, fresh_until + self.if_error);
        let stretched =
            loaded + Duration::try_from_secs_f64(life.as_secs_f64() * self.max_stretch).unwrap_or(MAX_LIFETIME);
        Deadlines {
            fresh_until,
            initial_staleness: Duration::ZERO,
            refresh_from: if self.refresh_ahead < 1.0 {
                loaded + life.mul_f64(self.refresh_ahead)
            } else {
                fresh_until
            },
            revalidate_until,
            error_until,
            unreachable_until: error_until,
            retain_until: stretched.max(revalidate_until).max(error_until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: TtlPolicy = TtlPolicy {
        ttl: Duration::from_secs(100),
        while_revalidate: Duration::from_secs(10),
        if_error: Duration::from_secs(50),
        jitter: 0.0,
        refresh_ahead: 0.9,
        max_stretch: 1.0,
    };

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn windows_follow_one_another() {
        let deadlines = LIFE.deadlines(None, at(1000), 0);
        assert_eq!(deadlines.refresh_from, at(1090));
        assert_eq!(deadlines.fresh_until, at(1100));
        assert_eq!(deadlines.revalidate_until, at(1110));
        assert_eq!((deadlines.error_until, deadlines.retain_until), (at(1150), at(1150)));
    }

    #[test]
    fn the_load_has_the_last_word_and_no_life_overflows() {
        assert_eq!(LIFE.deadlines(Some(Duration::from_secs(7)), at(1000), 0).fresh_until, at(1007));
        assert_eq!(LIFE.deadlines(Some(Duration::ZERO), at(1000), 0).fresh_until, at(1000));
        let longest = TtlPolicy { max_stretch: 1e300, ..LIFE }.deadlines(Some(Duration::MAX), at(1000), 0);
        assert!(longest.fresh_until > at(1_000_000_000) && longest.retain_until >= longest.fresh_until);
    }

    #[test]
    fn jitter_only_shortens_and_a_budget_only_keeps() {
        for noise in 0..1_000_u64 {
            let noise = noise.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let until = TtlPolicy { jitter: 0.2, ..LIFE }.deadlines(None, at(1000), noise).fresh_until;
            assert!(at(1080) <= until && until <= at(1100));
        }
        let deadlines = TtlPolicy { max_stretch: 16.0, ..LIFE }.deadlines(None, at(1000), 0);
        assert_eq!((deadlines.fresh_until, deadlines.retain_until), (at(1100), at(2600)));
    }
}
