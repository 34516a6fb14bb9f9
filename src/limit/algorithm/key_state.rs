//! [`KeyState`]: what one key has done under one limit, whichever algorithm its quota asks for.
//!
//! Pure: engines keep these and pass the time in. A quota that changed under a key keeps the key's **used share**: a
//! user at half of 100 stands at half of 1 000.

use super::gcra::Gcra;
use super::quota::{Algorithm, Quota};
use super::verdict::Verdict;
use super::window::{Count, Log, Window};
use crate::base::clock::Timestamp;

/// A key's state, whole. An engine that holds many keeps its parts apart and looks at them where they lie.
#[derive(Clone, Debug)]
pub struct KeyState {
    quota: Quota,
    past: KeyHistory,
}

/// Recorded history of a key.
#[derive(Clone, Debug)]
pub(crate) enum KeyHistory {
    /// A bucket's theoretical arrival time.
    Tat(Timestamp),
    /// A window whose limit fits its small counters.
    Narrow(Log<u16>),
    /// Any other window.
    Wide(Log<u32>),
}

/// Which kind of past a quota asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateKind {
    Tat,
    Narrow,
    Wide,
}

/// A past where it lies.
#[derive(Debug)]
pub(crate) enum KeyHistoryMut<'a> {
    Tat(&'a mut Timestamp),
    Narrow(&'a mut Log<u16>),
    Wide(&'a mut Log<u32>),
}

/// A share of one, in units of 2⁻³².
const WHOLE: u64 = 1 << 32;

impl StateKind {
    pub(crate) const fn of(quota: Quota) -> Self {
        match quota.algorithm() {
            Algorithm::Gcra(_) => Self::Tat,
            Algorithm::Window(_) if quota.limit() <= u16::MAX as u32 => Self::Narrow,
            Algorithm::Window(_) => Self::Wide,
        }
    }
}

impl KeyHistory {
    /// Empty history.
    pub(crate) fn none(quota: Quota) -> Self {
        match StateKind::of(quota) {
            StateKind::Tat => Self::Tat(Timestamp::ZERO),
            StateKind::Narrow => Self::Narrow(Log::default()),
            StateKind::Wide => Self::Wide(Log::default()),
        }
    }

    pub(crate) const fn lent(&mut self) -> KeyHistoryMut<'_> {
        match self {
            Self::Tat(tat) => KeyHistoryMut::Tat(tat),
            Self::Narrow(log) => KeyHistoryMut::Narrow(log),
            Self::Wide(log) => KeyHistoryMut::Wide(log),
        }
    }

    /// The same used share under another quota.
    #[cold]
    pub(crate) fn adapt(mut self, was: Quota, quota: Quota, now: Timestamp) -> Self {
        let share = self.lent().share(was, now).min(WHOLE);
        match (StateKind::of(quota), quota.algorithm(), was.algorithm()) {
            (StateKind::Narrow, Algorithm::Window(new), old) => Self::Narrow(self.moved(old, new, share, now)),
            (StateKind::Wide, Algorithm::Window(new), old) => Self::Wide(self.moved(old, new, share, now)),
            (_, Algorithm::Gcra(new), _) => Self::Tat(new.at_share(share, now)),
            (StateKind::Tat, Algorithm::Window(_), _) => Self::none(quota),
        }
    }

    /// This past as a window's: charge by charge where both cut time alike, else all of it at its latest charge.
    fn moved<C: Count>(&self, was: Algorithm, new: Window, share: u64, now: Timestamp) -> Log<C> {
        match (self, was) {
            (Self::Narrow(log), Algorithm::Window(old)) if old.same_grid(&new) => new.rescale(log, &old),
            (Self::Wide(log), Algorithm::Window(old)) if old.same_grid(&new) => new.rescale(log, &old),
            (Self::Narrow(log), _) => new.at_share(share, log.last().min(now)),
            (Self::Wide(log), _) => new.at_share(share, log.last().min(now)),
            (Self::Tat(_), _) => new.at_share(share, now),
        }
    }
}

impl KeyHistoryMut<'_> {
    /// Asks without charging.
    pub(crate) fn ask(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        fn window<C: Count>(window: Window, log: &mut Log<C>, cost: u32, now: Timestamp) -> Verdict {
            window.roll(log, now);
            window.verdict(log, now, window.check(log, now, cost).err())
        }
        match (quota.algorithm(), self) {
            (Algorithm::Gcra(gcra), Self::Tat(tat)) => gcra.verdict(**tat, now, gcra.check(**tat, now, cost).err()),
            (Algorithm::Window(of), Self::Narrow(log)) => window(of, log, cost, now),
            (Algorithm::Window(of), Self::Wide(log)) => window(of, log, cost, now),
            _ => strange(),
        }
    }

    /// Asks, and charges where the answer is yes: [`ask`](Self::ask) and [`charge`](Self::charge) in one pass.
    #[inline(always)]
    pub(crate) fn spend(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        match (quota.algorithm(), self) {
            (Algorithm::Gcra(gcra), Self::Tat(tat)) => spend(gcra, tat, cost, now),
            (Algorithm::Window(window), Self::Narrow(log)) => window.spend(log, now, cost),
            (Algorithm::Window(window), Self::Wide(log)) => window.spend(log, now, cost),
            _ => strange(),
        }
    }

    /// Charges `cost` units, whether they fit or not, and says what is left. Expects an [`ask`](Self::ask) just before.
    pub(crate) fn charge(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        fn window<C: Count>(window: Window, log: &mut Log<C>, cost: u32, now: Timestamp) -> Verdict {
            window.charge(log, now, cost);
            window.verdict(log, now, None)
        }
        match (quota.algorithm(), self) {
            (Algorithm::Gcra(gcra), Self::Tat(tat)) => {
                **tat = gcra.charge(**tat, now, cost);
                gcra.verdict(**tat, now, None)
            }
            (Algorithm::Window(of), Self::Narrow(log)) => window(of, log, cost, now),
            (Algorithm::Window(of), Self::Wide(log)) => window(of, log, cost, now),
            _ => strange(),
        }
    }

    /// Gives back `units` of what was charged at `charged`; never more than is still counted, and never as burst.
    pub(crate) fn refund(&mut self, quota: Quota, units: u32, charged: Timestamp, now: Timestamp) {
        self.ask(quota, 0, now);
        match (quota.algorithm(), self) {
            (Algorithm::Gcra(gcra), Self::Tat(tat)) => **tat = gcra.refund(**tat, now, units, charged),
            (Algorithm::Window(window), Self::Narrow(log)) => window.refund(log, units, charged),
            (Algorithm::Window(window), Self::Wide(log)) => window.refund(log, units, charged),
            _ => {}
        }
    }

    /// The share of its limit this key has used, in units of 2⁻³². Zero equals no state at all.
    pub(crate) fn share(&mut self, quota: Quota, now: Timestamp) -> u64 {
        fn window<C: Count>(window: Window, log: &mut Log<C>, now: Timestamp) -> u64 {
            window.roll(log, now);
            window.share(log)
        }
        match (quota.algorithm(), self) {
            (Algorithm::Gcra(gcra), Self::Tat(tat)) => gcra.share(**tat, now),
            (Algorithm::Window(of), Self::Narrow(log)) => window(of, log, now),
            (Algorithm::Window(of), Self::Wide(log)) => window(of, log, now),
            _ => 0,
        }
    }

    /// Whether nothing more would be admitted now.
    pub(crate) fn is_spent(&mut self, quota: Quota, now: Timestamp) -> bool {
        !self.ask(quota, 1, now).admits()
    }
}

#[inline(always)]
fn spend(gcra: Gcra, tat: &mut Timestamp, cost: u32, now: Timestamp) -> Verdict {
    match gcra.check(*tat, now, cost) {
        Ok(after) => {
            *tat = after;
            gcra.verdict(after, now, None)
        }
        Err(wait) => gcra.verdict(*tat, now, Some(wait)),
    }
}

/// A quota and a past of different kinds: they are only ever changed together, so what this says keeps the compiler's
/// promise, not ours.
#[cold]
const fn strange() -> Verdict {
    Verdict::of(0, 0, 0)
}

impl KeyState {
    /// A key that has done nothing yet.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self { quota, past: KeyHistory::none(quota) }
    }

    /// Asks without charging. `quota` is the one in force now.
    pub fn ask(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        self.lend(quota, now, |mut past| past.ask(quota, cost, now))
    }

    /// Asks, and charges where the answer is yes: [`ask`](Self::ask) and [`charge`](Self::charge) in one pass.
    pub fn spend(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        self.lend(quota, now, |mut past| past.spend(quota, cost, now))
    }

    /// Charges `cost` units, whether they fit or not, and says what is left. Expects an [`ask`](Self::ask) just before.
    pub fn charge(&mut self, cost: u32, now: Timestamp) -> Verdict {
        self.past.lent().charge(self.quota, cost, now)
    }

    /// Gives back `units` of what was charged at `charged`; never more than is still counted, and never as burst.
    pub fn refund(&mut self, quota: Quota, units: u32, charged: Timestamp, now: Timestamp) {
        self.lend(quota, now, |mut past| past.refund(quota, units, charged, now));
    }

    /// The share of its limit this key has used, in units of 2⁻³². Zero equals no state at all.
    pub fn share(&mut self, now: Timestamp) -> u64 {
        self.past.lent().share(self.quota, now)
    }

    /// Whether nothing more would be admitted now.
    pub fn is_spent(&mut self, now: Timestamp) -> bool {
        self.past.lent().is_spent(self.quota, now)
    }

    /// The past as measured by this quota.
    pub(crate) fn lend<R>(&mut self, quota: Quota, now: Timestamp, f: impl FnOnce(KeyHistoryMut<'_>) -> R) -> R {
        self.adapt(quota, now);
        f(self.past.lent())
    }

    fn adapt(&mut self, quota: Quota, now: Timestamp) {
        if self.quota != quota {
            let past = std::mem::replace(&mut self.past, KeyHistory::Tat(Timestamp::ZERO));
            self.past = past.adapt(self.quota, quota, now);
            self.quota = quota;
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
