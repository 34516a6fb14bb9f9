//! Circuit breaker: stops calls to a failing service, and probes for its recovery.
//!
//! Pure: outcomes and `now` go in, admissions come out. It serves every call that can fail, be rejected or be slow.
//!
//! ## Closed ⇒ Open ⇒ Closed
//!
//! | state | a call | transition |
//! |---|---|---|
//! | closed | is admitted | to open after [`in_a_row`](BreakerPolicy::in_a_row) consecutive failures, or if more than [`percent`](BreakerPolicy::percent) of the last ten buckets' calls failed or were slow, out of at least [`minimum`](BreakerPolicy::minimum) |
//! | open | is rejected; one per [`probe_every`](BreakerPolicy::probe_every) is admitted as a probe | to closed by a successful probe |
//!
//! The outcome of a call that was admitted before the last transition is ignored.

use std::time::Duration;

use crate::base::clock::Timestamp;

/// Number of buckets in the window of the error rate.
const BUCKETS: usize = 10;

/// Thresholds of a breaker, and its probe interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BreakerPolicy {
    /// Consecutive failures that open it; zero disables this.
    pub(super) in_a_row: u32,
    /// Percentage of failed or slow calls above which it opens; 100 disables this.
    pub(crate) percent: u8,
    /// Window of the percentage.
    pub(crate) window: Duration,
    /// Minimum number of calls for the percentage.
    pub(super) minimum: u32,
    /// Interval between probes.
    pub(super) probe_every: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            in_a_row: 5,
            percent: 20,
            window: Duration::from_secs(10),
            minimum: 20,
            probe_every: Duration::from_secs(1),
        }
    }
}

/// Outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    Success,
    /// Answered late: counts in the percentage, not as a consecutive failure.
    Slow,
    Failure,
}

/// Permission for one call; its outcome is recorded with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permit {
    turn: u64,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    policy: BreakerPolicy,
    /// Number of transitions.
    turn: u64,
    row: u32,
    recent: [Bucket; BUCKETS],
    /// Time of the next probe; `None` while closed.
    probe_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    index: u64,
    calls: u32,
    bad: u32,
}

impl Breaker {
    pub(crate) fn new(policy: BreakerPolicy) -> Self {
        Self { policy, turn: 0, row: 0, recent: [Bucket::default(); BUCKETS], probe_at: None }
    }

    /// Returns a permit, or `None` if the call must not be made.
    pub(crate) fn admit(&mut self, now: Timestamp) -> Option<Permit> {
        if !self.admits(now) {
            return None;
        }
        self.probe_at = self.probe_at.map(|_| now + self.policy.probe_every);
        Some(Permit { turn: self.turn })
    }

    /// Records an outcome. Returns `Some(true)` if that opened the breaker, `Some(false)` if it closed it.
    pub(crate) fn record(&mut self, permit: Permit, outcome: CallOutcome, now: Timestamp) -> Option<bool> {
        if permit.turn != self.turn {
            return None;
        }
        if self.is_open() {
            return (outcome == CallOutcome::Success).then(|| self.transition(None)).map(|()| false);
        }
        self.row = match outcome {
            CallOutcome::Success => 0,
            CallOutcome::Slow => self.row,
            CallOutcome::Failure => self.row + 1,
        };
        self.count(outcome, now);
        self.is_bad(now).then(|| self.transition(Some(now + self.policy.probe_every))).map(|()| true)
    }

    /// Returns whether [`admit`](Self::admit) would return a permit now, without taking it.
    pub(crate) fn admits(&self, now: Timestamp) -> bool {
        self.probe_at.is_none_or(|at| now >= at)
    }

    /// Returns the time of the next probe; `None` while closed.
    pub(crate) const fn probe_at(&self) -> Option<Timestamp> {
        self.probe_at
    }

    /// Opens until `until`, as requested by the called service. Returns `Some(true)` if that opened it.
    pub(crate) fn open_until(&mut self, until: Timestamp, now: Timestamp) -> Option<bool> {
        if until <= now {
            return None;
        }
        let was_open = self.is_open();
        let until = self.probe_at.map_or(until, |at| at.max(until));
        // Outcomes of calls in flight are ignored, because they were made before the request to pause.
        self.transition(Some(until));
        (!was_open).then_some(true)
    }

    /// Admits the next call as a probe, because something has changed.
    pub(super) fn probe_now(&mut self, now: Timestamp) {
        self.probe_at = self.probe_at.map(|at| at.min(now));
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.probe_at.is_some()
    }

    fn transition(&mut self, probe_at: Option<Timestamp>) {
        *self = Self { turn: self.turn + 1, probe_at, ..Self::new(self.policy) };
    }

    fn count(&mut self, outcome: CallOutcome, now: Timestamp) {
        let index = self.index(now);
        let bucket = &mut self.recent[(index % BUCKETS as u64) as usize];
        if bucket.index != index {
            *bucket = Bucket { index, ..Bucket::default() };
        }
        bucket.calls = bucket.calls.saturating_add(1);
        bucket.bad = bucket.bad.saturating_add(u32::from(outcome != CallOutcome::Success));
    }

    fn is_bad(&self, now: Timestamp) -> bool {
        if self.policy.in_a_row > 0 && self.row >= self.policy.in_a_row {
            return true;
        }
        let newest = self.index(now);
        let counts = self.recent.iter().filter(|bucket| bucket.index + BUCKETS as u64 > newest);
        let (calls, bad) = counts.fold((0_u64, 0_u64), |(calls, bad), bucket| {
            (calls + u64::from(bucket.calls), bad + u64::from(bucket.bad))
        });
        calls >= u64::from(self.policy.minimum) && bad * 100 > calls * u64::from(self.policy.percent)
    }

    fn index(&self, now: Timestamp) -> u64 {
        now.as_nanos() / (crate::base::clock::nanos(self.policy.window) / BUCKETS as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn fail(breaker: &mut Breaker, times: u32, now: Timestamp) {
        for _ in 0..times {
            if let Some(permit) = breaker.admit(now) {
                breaker.record(permit, CallOutcome::Failure, now);
            }
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut breaker = Breaker::new(BreakerPolicy::default());
        fail(&mut breaker, 4, START);
        let permit = breaker.admit(START).expect("closed");
        assert_eq!(breaker.record(permit, CallOutcome::Success, START), None);
        fail(&mut breaker, 4, START);
        assert!(!breaker.is_open());
        let permit = breaker.admit(START).expect("closed");
        assert_eq!(breaker.record(permit, CallOutcome::Failure, START), Some(true));
        assert!(breaker.is_open() && breaker.admit(START).is_none());
    }

    #[test]
    fn an_open_breaker_admits_a_probe_a_second_and_a_successful_one_closes_it() {
        let mut breaker = Breaker::new(BreakerPolicy::default());
        fail(&mut breaker, 5, START);
        let first = START + SECOND;
        let probe = breaker.admit(first).expect("a probe");
        assert!(breaker.admit(first).is_none() && breaker.admit(first + SECOND / 2).is_none());
        assert_eq!(breaker.record(probe, CallOutcome::Failure, first), None);
        let probe = breaker.admit(first + SECOND).expect("the next probe");
        assert_eq!(breaker.record(probe, CallOutcome::Success, first + SECOND), Some(false));
        assert!(breaker.admit(first + SECOND).is_some() && !breaker.is_open());
    }

    #[test]
    fn an_outcome_from_before_the_last_transition_is_ignored() {
        let mut breaker = Breaker::new(BreakerPolicy::default());
        let early = breaker.admit(START).expect("closed");
        fail(&mut breaker, 5, START);
        assert_eq!(breaker.record(early, CallOutcome::Success, START), None);
        assert!(breaker.is_open());
    }

    #[test]
    fn slow_calls_within_the_window_open_it() {
        let policy = BreakerPolicy { in_a_row: 0, ..BreakerPolicy::default() };
        let run = |slow: u32, good: u32, apart: Duration| {
            let mut breaker = Breaker::new(policy);
            for i in 0..slow + good {
                let now = START + apart * i;
                let outcome = if i < slow { CallOutcome::Slow } else { CallOutcome::Success };
                let permit = breaker.admit(now)?;
                if breaker.record(permit, outcome, now) == Some(true) {
                    return None;
                }
            }
            Some(())
        };
        assert_eq!(run(4, 16, Duration::ZERO), Some(()), "20 % is not more than 20 %");
        assert_eq!(run(5, 15, Duration::ZERO), None);
        assert_eq!(run(19, 0, Duration::ZERO), Some(()), "too few to tell");
        assert_eq!(run(15, 15, SECOND), Some(()), "never twenty within ten seconds");
    }

    /// Reference model: the same rules over the list of all outcomes.
    #[derive(Default)]
    struct ReferenceModel {
        log: Vec<(Timestamp, CallOutcome)>,
        open_since: Option<Timestamp>,
        last_probe: Option<Timestamp>,
        requested_pause: Option<Timestamp>,
    }

    impl ReferenceModel {
        fn admits(&mut self, now: Timestamp) -> bool {
            let Some(since) = self.open_since else { return true };
            let waited = now >= self.last_probe.unwrap_or(since) + SECOND || self.requested_pause.is_some();
            let free = waited && self.requested_pause.is_none_or(|until| now >= until);
            if free {
                (self.last_probe, self.requested_pause) = (Some(now), None);
            }
            free
        }

        /// Opens until `until`, or until the end of the current pause if that is later.
        fn pause_until(&mut self, until: Timestamp, now: Timestamp) {
            let waited_for =
                self.open_since.map(|since| self.requested_pause.unwrap_or(self.last_probe.unwrap_or(since) + SECOND));
            let until = waited_for.map_or(until, |at| at.max(until));
            *self = Self {
                open_since: Some(self.open_since.unwrap_or(now)),
                requested_pause: Some(until),
                ..Self::default()
            };
        }

        fn record(&mut self, outcome: CallOutcome, now: Timestamp) {
            if self.open_since.is_some() {
                if outcome == CallOutcome::Success {
                    *self = Self::default();
                }
                return;
            }
            self.log.push((now, outcome));
            let rows = self.log.iter().rev().take_while(|(_, outcome)| *outcome != CallOutcome::Success);
            let row = rows.filter(|(_, outcome)| *outcome == CallOutcome::Failure).count();
            let bucket = |at: Timestamp| at.as_nanos() / 1_000_000_000;
            let recent: Vec<_> = self.log.iter().filter(|(at, _)| bucket(*at) + 10 > bucket(now)).collect();
            let bad = recent.iter().filter(|(_, outcome)| *outcome != CallOutcome::Success).count();
            if row >= 5 || recent.len() >= 20 && bad * 5 > recent.len() {
                *self = Self { open_since: Some(now), ..Self::default() };
            }
        }
    }

    #[test]
    fn a_requested_pause_keeps_it_open() {
        let mut breaker = Breaker::new(BreakerPolicy::default());
        let early = breaker.admit(START).expect("closed");
        assert_eq!(breaker.open_until(START, START), None, "at once is no time to wait");
        assert_eq!(breaker.open_until(START + SECOND * 30, START), Some(true));
        assert_eq!(breaker.record(early, CallOutcome::Success, START), None);
        assert_eq!(breaker.open_until(START + SECOND * 10, START), None, "the later of two counts");
        assert!(breaker.admit(START + SECOND * 29).is_none() && breaker.is_open());
        let probe = breaker.admit(START + SECOND * 30).expect("a probe");
        assert_eq!(breaker.record(probe, CallOutcome::Success, START + SECOND * 30), Some(false));
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_reference_model(
            steps in prop::collection::vec((0_u64..1_500_000_000, 0_u8..11, 1_u32..12), 1..200),
        ) {
            let (mut breaker, mut model, mut now) = (Breaker::new(BreakerPolicy::default()), ReferenceModel::default(), START);
            for (step, kind, times) in steps {
                now = now + Duration::from_nanos(step);
                let outcome = match kind { 0..=5 => CallOutcome::Success, 6 => CallOutcome::Slow, _ => CallOutcome::Failure };
                if kind == 10 {
                    let until = now + Duration::from_millis(u64::from(times) * 400);
                    prop_assert_eq!(breaker.open_until(until, now), model.open_since.is_none().then_some(true));
                    model.pause_until(until, now);
                    continue;
                }
                for _ in 0..times {
                    let permit = breaker.admit(now);
                    prop_assert_eq!(permit.is_some(), model.admits(now));
                    if let Some(permit) = permit {
                        breaker.record(permit, outcome, now);
                        model.record(outcome, now);
                    }
                    prop_assert_eq!(breaker.is_open(), model.open_since.is_some());
                }
            }
        }
    }
}
