//! The per-node ceiling: `governor`'s direct limiter, one atomic number for the whole process.
//!
//! It has no peek and no refund, so it is asked last, after everything that can be given back.

use std::num::NonZeroU32;
use std::ops::Add;
use std::time::Duration;

use governor::clock::{Clock as GovernorClock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, RateLimiter};

use crate::clock::{Clock, Timestamp};
use crate::limit::{Quota, Verdict};

type Direct = RateLimiter<NotKeyed, InMemoryState, Turned, StateInformationMiddleware>;

/// A ceiling over everything that passes through this process.
pub(crate) struct NodeCeiling {
    limiter: Direct,
    interval: Duration,
    burst: NonZeroU32,
    clock: Clock,
}

impl NodeCeiling {
    /// A ceiling of this quota, which was checked to be possible.
    pub(crate) fn new(quota: Quota, clock: Clock) -> Self {
        let interval = quota.period() / quota.limit().max(1);
        let interval = interval.max(Duration::from_nanos(1));
        let burst = NonZeroU32::new(quota.capacity()).unwrap_or(NonZeroU32::MIN);
        let described = governor::Quota::with_period(interval)
            .unwrap_or_else(|| governor::Quota::per_second(burst))
            .allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(described, Turned(clock.clone())).with_middleware();
        Self { limiter, interval, burst, clock }
    }

    /// Takes `cost` units, or says how long until they are there.
    pub(crate) fn take(&self, cost: u32) -> Verdict {
        let Some(cost) = NonZeroU32::new(cost) else {
            return Verdict::new(None, self.burst.get(), Duration::ZERO);
        };
        match self.limiter.check_n(cost) {
            Ok(Ok(state)) => {
                let remaining = state.remaining_burst_capacity();
                Verdict::new(None, remaining, self.interval * (self.burst.get().saturating_sub(remaining)))
            }
            Ok(Err(until)) => self.refused(&until),
            Err(_more_than_the_burst) => self.refusal(self.interval * self.burst.get()),
        }
    }

    fn refused(&self, until: &NotUntil<Timestamp>) -> Verdict {
        self.refusal(until.wait_time_from(self.clock.now()))
    }

    fn refusal(&self, wait: Duration) -> Verdict {
        Verdict::new(Some(wait), 0, self.interval * self.burst.get())
    }
}

impl std::fmt::Debug for NodeCeiling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeCeiling")
            .field("burst", &self.burst)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// This crate's clock, as governor asks for it.
#[derive(Clone, Debug)]
struct Turned(Clock);

impl GovernorClock for Turned {
    type Instant = Timestamp;

    fn now(&self) -> Timestamp {
        self.0.now()
    }
}

impl Add<Nanos> for Timestamp {
    type Output = Self;

    fn add(self, span: Nanos) -> Self {
        self + Duration::from(span)
    }
}

impl Reference for Timestamp {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.since(earlier).into()
    }

    fn saturating_sub(&self, span: Nanos) -> Self {
        *self - Duration::from(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    #[test]
    fn the_ceiling_is_per_period_and_refills() {
        let hand = ManualClock::new();
        let ceiling = NodeCeiling::new(Quota::per_second(10).bucket(5), Clock::Manual(hand.clone()));
        for left in (0..5).rev() {
            assert_eq!(ceiling.take(1).remaining(), left);
        }
        assert_eq!(ceiling.take(1).wait(), Some(Duration::from_millis(100)));
        hand.advance(Duration::from_millis(100));
        assert!(ceiling.take(1).admits());
        assert!(!ceiling.take(6).admits(), "more than the burst never passes");
    }
}
