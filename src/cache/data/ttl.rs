//! Lifetimes of typed values, from the namespace's configuration and the load's result.

use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::cache::http::deadlines::Deadlines;
use crate::cache::http::storability::{MAX_LIFETIME, jittered};

/// Configured lifetimes of a namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct TtlPolicy {
    pub(super) ttl: Duration,
    pub(super) while_revalidate: Duration,
    pub(super) if_error: Duration,
    /// Largest share of a lifetime subtracted at random, in 0..1.
    pub(super) jitter: f64,
    /// Share of a lifetime after which a hit refreshes the value, in 0..=1.
    pub(super) refresh_ahead: f64,
    /// Largest factor by which a low budget extends a lifetime.
    pub(super) max_stretch: f64,
}

impl TtlPolicy {
    /// Returns the deadlines of a value loaded at this time. `load_ttl` is the lifetime set by the load, `random` a
    /// random number.
    pub(super) fn deadlines(&self, load_ttl: Option<Duration>, loaded: Timestamp, random: u64) -> Deadlines {
        let ttl = jittered(load_ttl.unwrap_or(self.ttl).min(MAX_LIFETIME), self.jitter, random);
        let fresh_until = loaded + ttl;
        let (revalidate_until, error_until) = (fresh_until + self.while_revalidate, fresh_until + self.if_error);
        let stretched =
            loaded + Duration::try_from_secs_f64(ttl.as_secs_f64() * self.max_stretch).unwrap_or(MAX_LIFETIME);
        Deadlines {
            fresh_until,
            initial_staleness: Duration::ZERO,
            refresh_from: if self.refresh_ahead < 1.0 { loaded + ttl.mul_f64(self.refresh_ahead) } else { fresh_until },
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

    const POLICY: TtlPolicy = TtlPolicy {
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
    fn deadlines_are_ordered() {
        let deadlines = POLICY.deadlines(None, at(1000), 0);
        assert_eq!(deadlines.refresh_from, at(1090));
        assert_eq!(deadlines.fresh_until, at(1100));
        assert_eq!(deadlines.revalidate_until, at(1110));
        assert_eq!((deadlines.error_until, deadlines.retain_until), (at(1150), at(1150)));
    }

    #[test]
    fn loads_override_the_ttl_without_overflow() {
        assert_eq!(POLICY.deadlines(Some(Duration::from_secs(7)), at(1000), 0).fresh_until, at(1007));
        assert_eq!(POLICY.deadlines(Some(Duration::ZERO), at(1000), 0).fresh_until, at(1000));
        let longest = TtlPolicy { max_stretch: 1e300, ..POLICY }.deadlines(Some(Duration::MAX), at(1000), 0);
        assert!(longest.fresh_until > at(1_000_000_000) && longest.retain_until >= longest.fresh_until);
    }

    #[test]
    fn jitter_shortens_and_budgets_only_retain() {
        for random in 0..1_000_u64 {
            let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let until = TtlPolicy { jitter: 0.2, ..POLICY }.deadlines(None, at(1000), random).fresh_until;
            assert!(at(1080) <= until && until <= at(1100));
        }
        let deadlines = TtlPolicy { max_stretch: 16.0, ..POLICY }.deadlines(None, at(1000), 0);
        assert_eq!((deadlines.fresh_until, deadlines.retain_until), (at(1100), at(2600)));
    }
}
