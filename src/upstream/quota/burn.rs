//! [`BurnRate`]: credits spent in the last hour and day, and the projected end of a quota.
//!
//! Sixty buckets of a minute, twenty-four of an hour. The newest is the current one, so each sum covers one bucket
//! less than its name says, plus the current one.

use std::time::Duration;

use crate::base::clock::Timestamp;

const MINUTE: u64 = 60_000_000_000;
const HOUR: u64 = 60 * MINUTE;
/// Minimum time for a meaningful rate.
const SHORTEST: Duration = Duration::from_secs(60);

/// Recent spending.
#[derive(Clone, Debug)]
pub(crate) struct BurnRate {
    minutes: Ring<60>,
    hours: Ring<24>,
    /// Time of the first spending.
    since: Option<Timestamp>,
}

impl BurnRate {
    pub(crate) const fn new() -> Self {
        Self { minutes: Ring::new(MINUTE), hours: Ring::new(HOUR), since: None }
    }

    pub(super) fn spend(&mut self, cost: u64, now: Timestamp) {
        self.since.get_or_insert(now);
        self.minutes.add(cost, now);
        self.hours.add(cost, now);
    }

    /// Reverts the last spending, because the call was free.
    pub(super) fn refund(&mut self, cost: u64, now: Timestamp) {
        self.minutes.take(cost, now);
        self.hours.take(cost, now);
    }

    /// Returns the credits spent in the last hour.
    pub(crate) fn last_hour(&self, now: Timestamp) -> u64 {
        self.minutes.sum(now)
    }

    /// Returns the credits spent in the last day.
    pub(crate) fn last_day(&self, now: Timestamp) -> u64 {
        self.hours.sum(now)
    }

    /// Returns credits per second: the higher rate of the last hour and the last day.
    pub(super) fn rate(&self, now: Timestamp) -> f64 {
        let Some(since) = self.since else { return 0.0 };
        let known = now.since(since).max(SHORTEST).as_secs_f64();
        let over = |spent: u64, seconds: f64| spent as f64 / seconds.min(known);
        over(self.last_hour(now), 3_600.0).max(over(self.last_day(now), 86_400.0))
    }

    /// Returns how long `left` credits last at that rate; `None` if they last until `ends`.
    pub(crate) fn exhausted_in(&self, left: u64, now: Timestamp, ends: Timestamp) -> Option<Duration> {
        let rate = self.rate(now);
        if left == 0 {
            return (now < ends).then_some(Duration::ZERO);
        }
        let lasts = Duration::try_from_secs_f64(left as f64 / rate).ok()?;
        (lasts < ends.since(now)).then_some(lasts)
    }
}

/// Sums over equal spans of time.
#[derive(Clone, Debug)]
struct Ring<const N: usize> {
    span: u64,
    newest: u64,
    sums: [u64; N],
}

impl<const N: usize> Ring<N> {
    const fn new(span: u64) -> Self {
        Self { span, newest: 0, sums: [0; N] }
    }

    /// Returns the current bucket, after clearing those that are over.
    fn advance(&mut self, now: Timestamp) -> &mut u64 {
        let index = now.as_nanos() / self.span;
        if index > self.newest {
            let passed = (index - self.newest).min(N as u64);
            (0..passed).for_each(|back| self.sums[((index - back) % N as u64) as usize] = 0);
            self.newest = index;
        }
        &mut self.sums[(self.newest % N as u64) as usize]
    }

    fn add(&mut self, cost: u64, now: Timestamp) {
        *self.advance(now) += cost;
    }

    fn take(&mut self, cost: u64, now: Timestamp) {
        let sum = self.advance(now);
        *sum = sum.saturating_sub(cost);
    }

    fn sum(&self, now: Timestamp) -> u64 {
        let over = (now.as_nanos() / self.span).saturating_sub(self.newest).min(N as u64);
        // The oldest are over, although not yet cleared.
        (0..N as u64 - over).map(|back| self.sums[((self.newest + N as u64 - back) % N as u64) as usize]).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_nanos(48 * HOUR);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn exhaustion_follows_the_higher_of_two_rates() {
        let mut burn = BurnRate::new();
        let end = START + DAY * 30;
        assert_eq!(burn.exhausted_in(100, START, end), None, "nothing burns");
        // An hour at a credit a second.
        for second in 0..3_600 {
            burn.spend(1, START + Duration::from_secs(second));
        }
        let now = START + Duration::from_secs(3_599);
        assert_eq!((burn.last_hour(now), burn.last_day(now)), (3_600, 3_600));
        let hour = burn.exhausted_in(3_600, now, end).expect("it ends").as_secs();
        assert!((3_590..=3_600).contains(&hour), "{hour}");
        assert_eq!(
            burn.exhausted_in(3_600, now, START + DAY / 24 * 2 - Duration::from_secs(10)),
            None,
            "lasts to the end"
        );
        assert_eq!(burn.exhausted_in(0, now, end), Some(Duration::ZERO));
        // After ten idle hours the hourly rate is zero, the daily one is not.
        let later = now + Duration::from_secs(36_000);
        assert_eq!((burn.last_hour(later), burn.last_day(later)), (0, 3_600));
        let hours = burn.exhausted_in(3_600, later, end).expect("it ends").as_secs_f64() / 3_600.0;
        assert!((10.9..11.1).contains(&hours), "{hours}");
        assert_eq!(burn.last_day(later + DAY), 0);
    }

    #[test]
    fn the_first_minute_gives_no_projection() {
        let mut burn = BurnRate::new();
        burn.spend(1, START);
        assert_eq!(burn.exhausted_in(60, START, START + DAY).map(|span| span.as_secs()), Some(3_600));
        burn.refund(1, START);
        assert_eq!(burn.exhausted_in(60, START, START + DAY), None);
    }

    proptest! {
        #[test]
        fn sums_agree_with_a_list(steps in prop::collection::vec((0_u64..5 * MINUTE, 1_u64..9), 1..200)) {
            let (mut burn, mut now, mut log) = (BurnRate::new(), START, Vec::new());
            for (step, cost) in steps {
                now = now.after(step);
                burn.spend(cost, now);
                log.push((now.as_nanos(), cost));
                let since = |span: u64, n: u64| -> u64 {
                    let newest = now.as_nanos() / span;
                    log.iter().filter(|(at, _)| at / span + n > newest).map(|(_, cost)| cost).sum()
                };
                prop_assert_eq!((burn.last_hour(now), burn.last_day(now)), (since(MINUTE, 60), since(HOUR, 24)));
            }
        }
    }
}
