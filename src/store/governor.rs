//! Per-node ceiling: `governor`'s direct limiter, one atomic number for the whole process.
//!
//! It has neither peek nor refund, so it is charged last, after everything that can be refunded.
//!
//! [`Pacer`] is the same limiter with bounded waiting. governor's own `until_ready` has no bound and sleeps by a timer
//! that tests cannot control; so the limiter is asked for the next slot, and the runtime sleeps.

use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock as GovernorClock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, RateLimiter};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::base::clock::{Clock, Timestamp, runtime_now};
use crate::limit::{Quota, Verdict};
use crate::upstream::CallPace;

type Direct = RateLimiter<NotKeyed, InMemoryState, CrateClock, StateInformationMiddleware>;

/// Limit on all requests of this process.
pub(crate) struct NodeCeiling {
    limiter: Direct,
    interval: Duration,
    burst: NonZeroU32,
    clock: Clock,
}

impl NodeCeiling {
    /// Creates a ceiling with a validated quota.
    pub(crate) fn new(quota: Quota, clock: Clock) -> Self {
        let interval = quota.period() / quota.limit().max(1);
        let interval = interval.max(Duration::from_nanos(1));
        let burst = NonZeroU32::new(quota.capacity()).unwrap_or(NonZeroU32::MIN);
        let described = governor::Quota::with_period(interval)
            .unwrap_or_else(|| governor::Quota::per_second(burst))
            .allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(described, CrateClock(clock.clone())).with_middleware();
        Self { limiter, interval, burst, clock }
    }

    /// Charges `cost` units, or returns the time until they are available.
    pub(crate) fn charge(&self, cost: u32) -> Verdict {
        let Some(cost) = NonZeroU32::new(cost) else {
            return Verdict::new(None, self.burst.get(), Duration::ZERO);
        };
        match self.limiter.check_n(cost) {
            Ok(Ok(state)) => {
                let remaining = state.remaining_burst_capacity();
                Verdict::new(None, remaining, self.interval * (self.burst.get().saturating_sub(remaining)))
            }
            Ok(Err(until)) => self.rejected(&until),
            Err(_more_than_the_burst) => self.rejection(self.interval * self.burst.get()),
        }
    }

    fn rejected(&self, until: &NotUntil<Timestamp>) -> Verdict {
        self.rejection(until.wait_time_from(self.clock.now()))
    }

    fn rejection(&self, wait: Duration) -> Verdict {
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

/// Admits calls at even intervals, in order of arrival.
pub(crate) struct Pacer {
    limiter: RateLimiter<NotKeyed, InMemoryState, RuntimeClock, StateInformationMiddleware>,
    interval: Duration,
    /// Held by the next caller.
    next: Semaphore,
    waiting: AtomicU32,
    clock: RuntimeClock,
}

impl Pacer {
    /// Creates a pacer with a validated rate.
    pub(crate) fn new(rate: CallPace) -> Self {
        let interval = (rate.period / rate.calls.max(1)).max(Duration::from_nanos(1));
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        let described = governor::Quota::with_period(interval)
            .unwrap_or_else(|| governor::Quota::per_second(burst))
            .allow_burst(burst);
        let clock = RuntimeClock(runtime_now());
        let limiter = RateLimiter::direct_with_clock(described, clock.clone()).with_middleware();
        Self { limiter, interval, next: Semaphore::new(1), waiting: AtomicU32::new(0), clock }
    }

    /// Takes a slot if one is free and no caller waits.
    pub(crate) fn try_acquire(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0 && self.limiter.check().is_ok()
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// The required wait, if that exceeds `by`; returned at once if known in advance.
    pub(crate) async fn acquire(&self, by: Instant) -> Result<(), Duration> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = WaitingGuard(&self.waiting);
        let queue = self.interval.saturating_mul(before);
        if runtime_now() + queue > by {
            return Err(queue);
        }
        let Ok(_front) = tokio::time::timeout_at(by, self.next.acquire()).await else { return Err(self.interval) };
        loop {
            let Err(until) = self.limiter.check() else { return Ok(()) };
            let wait = until.wait_time_from(self.clock.now());
            if runtime_now() + wait > by {
                return Err(wait);
            }
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
    }
}

impl std::fmt::Debug for Pacer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pacer").field("interval", &self.interval).finish_non_exhaustive()
    }
}

/// Decrements the number of waiting callers on drop.
struct WaitingGuard<'a>(&'a AtomicU32);

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The runtime's clock, for governor.
#[derive(Clone, Debug)]
struct RuntimeClock(Instant);

impl GovernorClock for RuntimeClock {
    type Instant = Timestamp;

    fn now(&self) -> Timestamp {
        Timestamp::ZERO + (runtime_now() - self.0)
    }
}

/// This crate's clock, for governor.
#[derive(Clone, Debug)]
struct CrateClock(Clock);

impl GovernorClock for CrateClock {
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

    #[tokio::test(start_paused = true)]
    async fn calls_are_paced_in_order_within_the_deadline() {
        let pacer = std::sync::Arc::new(Pacer::new(CallPace::per_second(10).burst(2)));
        assert!(pacer.try_acquire() && pacer.try_acquire() && !pacer.try_acquire());
        let start = runtime_now();
        let calls = (0..20).map(|n| {
            let pacer = pacer.clone();
            tokio::spawn(async move {
                let acquire = pacer.acquire(start + Duration::from_millis(950)).await;
                (n, acquire.is_ok(), runtime_now() - start)
            })
        });
        let ended = futures_util::future::join_all(calls.collect::<Vec<_>>()).await;
        for ended in ended {
            let (n, went, at) = ended.expect("it ends");
            assert!(at <= Duration::from_millis(951), "the {n}th waited {at:?}");
            let due = Duration::from_millis(100 * (n + 1));
            assert_eq!(went, n < 9, "the {n}th after {at:?}");
            assert!(!went || at >= due && at < due + Duration::from_millis(3), "the {n}th came at {at:?}");
        }
        assert_eq!(pacer.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_ceiling_is_per_period_and_replenishes() {
        let hand = ManualClock::new();
        let ceiling = NodeCeiling::new(Quota::per_second(10).bucket(5), Clock::Manual(hand.clone()));
        for left in (0..5).rev() {
            assert_eq!(ceiling.charge(1).remaining(), left);
        }
        assert_eq!(ceiling.charge(1).wait(), Some(Duration::from_millis(100)));
        hand.advance(Duration::from_millis(100));
        assert!(ceiling.charge(1).admits());
        assert!(!ceiling.charge(6).admits(), "more than the burst never passes");
    }
}
