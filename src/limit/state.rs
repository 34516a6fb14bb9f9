//! [`KeyState`]: what one key has done under one limit, whichever algorithm its quota asks for.
//!
//! Pure: engines keep these and pass the time in. A quota that changed under a key keeps the key's **used share**: a
//! user at half of 100 stands at half of 1 000.

use super::decision::Verdict;
use super::gcra::Gcra;
use super::quota::{Algorithm, Quota};
use super::window::{Log, Window};
use crate::clock::Timestamp;

/// A key's state, 40 bytes; an exact window's counters live in a box beside it.
#[derive(Clone, Debug)]
pub struct KeyState {
    quota: Quota,
    past: Past,
}

#[derive(Clone, Debug)]
enum Past {
    Tat(Timestamp),
    Log(Box<Log>),
}

/// A share of one, in units of 2⁻³².
const WHOLE: u64 = 1 << 32;

impl KeyState {
    /// A key that has done nothing yet.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        let past = match quota.algorithm() {
            Algorithm::Gcra(_) => Past::Tat(Timestamp::ZERO),
            Algorithm::Window(_) => Past::Log(Box::default()),
        };
        Self { quota, past }
    }

    /// Asks without charging. `quota` is the one in force now.
    pub fn ask(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        self.adapt(quota, now);
        self.with(
            |gcra, tat| gcra.verdict(*tat, now, gcra.check(*tat, now, cost).err()),
            |window, log| {
                window.roll(log, now);
                window.verdict(log, now, window.check(log, now, cost).err())
            },
        )
    }

    /// Asks, and charges where the answer is yes: [`ask`](Self::ask) and [`charge`](Self::charge) in one pass.
    pub fn spend(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        self.adapt(quota, now);
        self.with(
            |gcra, tat| match gcra.check(*tat, now, cost) {
                Ok(after) => {
                    *tat = after;
                    gcra.verdict(after, now, None)
                }
                Err(wait) => gcra.verdict(*tat, now, Some(wait)),
            },
            |window, log| {
                window.roll(log, now);
                let wait = window.check(log, now, cost).err();
                if wait.is_none() {
                    window.charge(log, now, cost);
                }
                window.verdict(log, now, wait)
            },
        )
    }

    /// Charges `cost` units, whether they fit or not, and says what is left. Expects an [`ask`](Self::ask) just before.
    pub fn charge(&mut self, cost: u32, now: Timestamp) -> Verdict {
        self.with(
            |gcra, tat| {
                *tat = gcra.charge(*tat, now, cost);
                gcra.verdict(*tat, now, None)
            },
            |window, log| {
                window.charge(log, now, cost);
                window.verdict(log, now, None)
            },
        )
    }

    /// Gives back `units` of what was charged at `charged`; never more than is still counted, and never as burst.
    pub fn refund(&mut self, quota: Quota, units: u32, charged: Timestamp, now: Timestamp) {
        self.ask(quota, 0, now);
        self.with(
            |gcra, tat| *tat = gcra.refund(*tat, now, units, charged),
            |window, log| window.refund(log, units, charged),
        );
    }

    /// The share of its limit this key has used, in units of 2⁻³². Zero equals no state at all.
    pub fn share(&mut self, now: Timestamp) -> u64 {
        self.with(
            |gcra, tat| gcra.share(*tat, now),
            |window, log| {
                window.roll(log, now);
                window.share(log)
            },
        )
    }

    /// Whether nothing more would be admitted now.
    pub fn is_spent(&mut self, now: Timestamp) -> bool {
        self.ask(self.quota, 1, now).wait().is_some()
    }

    fn adapt(&mut self, quota: Quota, now: Timestamp) {
        if self.quota == quota {
            return;
        }
        let share = self.share(now).min(WHOLE);
        let was = std::mem::replace(&mut self.quota, quota);
        match (was.algorithm(), quota.algorithm(), &mut self.past) {
            (Algorithm::Window(old), Algorithm::Window(new), Past::Log(log)) if old.same_grid(&new) => {
                new.rescale(log, &old)
            }
            (_, Algorithm::Window(new), Past::Log(log)) => **log = new.at_share(share, log.last().min(now)),
            (_, Algorithm::Window(new), past) => *past = Past::Log(Box::new(new.at_share(share, now))),
            (_, Algorithm::Gcra(new), past) => *past = Past::Tat(new.at_share(share, now)),
        }
    }

    fn with<R>(
        &mut self,
        bucket: impl FnOnce(Gcra, &mut Timestamp) -> R,
        exact: impl FnOnce(Window, &mut Log) -> R,
    ) -> R {
        match (self.quota.algorithm(), &mut self.past) {
            (Algorithm::Gcra(gcra), Past::Tat(tat)) => bucket(gcra, tat),
            (Algorithm::Window(window), Past::Log(log)) => exact(window, log),
            // `quota` and `past` are only ever changed together, so what follows keeps the compiler's promise, not ours.
            (Algorithm::Gcra(gcra), Past::Log(log)) => bucket(gcra, &mut log.last()),
            (Algorithm::Window(window), Past::Tat(_)) => exact(window, &mut Log::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);

    fn used(quota: Quota, units: u32) -> KeyState {
        let mut state = KeyState::new(quota);
        assert!(state.ask(quota, units, START).admits());
        state.charge(units, START);
        state
    }

    #[test]
    fn a_change_of_quota_keeps_the_used_share() {
        let window = Quota::per_minute(100);
        let bucket = Quota::per_minute(100).bucket(100);
        for (from, to, left) in [
            (window, Quota::per_minute(1_000), 500),
            (window, Quota::per_minute(20), 10),
            (window, Quota::per_hour(1_000), 500),
            (window, Quota::per_minute(1_000).bucket(1_000), 500),
            (bucket, Quota::per_minute(1_000).bucket(1_000), 500),
            (bucket, Quota::per_minute(20), 10),
            (bucket, Quota::per_hour(60).bucket(10), 5),
        ] {
            assert_eq!(used(from, 50).ask(to, 1, START).remaining(), left, "{from} to {to}");
        }
    }

    #[test]
    fn a_limited_key_stays_limited_through_a_change() {
        let mut state = used(Quota::per_minute(20), 20);
        assert!(state.ask(Quota::per_minute(1_000), 1, START).wait().is_some());
        assert!(state.is_spent(START));
    }

    #[test]
    fn an_idle_state_equals_none() {
        for quota in [Quota::per_minute(20), Quota::per_minute(20).bucket(5)] {
            let mut state = used(quota, 5);
            assert!(state.share(START) > 0);
            assert_eq!(state.share(START + Duration::from_secs(60)), 0, "{quota}");
        }
    }
}
