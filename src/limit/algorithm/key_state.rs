//! [`KeyState`]: usage of one key under one limit, for either algorithm.
//!
//! Pure: engines own the state and pass the time as an argument. When a quota changes, a key keeps its **used
//! share**: a key at half of 100 is at half of 1 000 afterwards.

#[cfg(any(test, feature = "postgres"))]
use std::time::Duration;

use super::gcra::Gcra;
use super::quota::{Algorithm, Quota};
use super::verdict::Verdict;
use super::window::{BucketCount, Log, Window};
use crate::base::clock::Timestamp;
#[cfg(feature = "postgres")]
use crate::base::codec::{Reader, Writer};

/// Complete state of one key. Engines with many keys store its parts separately and borrow them.
///
/// ```
/// use tollgate::Timestamp;
/// use tollgate::limit::{KeyState, Quota};
///
/// let (quota, now) = (Quota::per_minute(2), Timestamp::from_nanos(86_400_000_000_000));
/// let mut state = KeyState::new(quota);
/// assert!(state.spend(quota, 2, now).admits());
/// assert!(state.is_spent(now));
/// state.refund(quota, 1, now, now);
/// assert_eq!(state.peek(quota, 1, now).remaining(), 1);
/// ```
#[derive(Clone, Debug)]
pub struct KeyState {
    quota: Quota,
    history: KeyHistory,
}

/// Recorded usage of a key.
#[derive(Clone, Debug)]
pub(crate) enum KeyHistory {
    /// Theoretical arrival time of a token bucket.
    Tat(Timestamp),
    /// Window whose limit fits 16-bit counters.
    Narrow(Log<u16>),
    /// Any other window.
    Wide(Log<u32>),
}

/// Representation of a key's history that a quota requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateKind {
    Tat,
    Narrow,
    Wide,
}

/// Borrowed history of a key.
#[derive(Debug)]
pub(crate) enum KeyHistoryMut<'a> {
    Tat(&'a mut Timestamp),
    Narrow(&'a mut Log<u16>),
    Wide(&'a mut Log<u32>),
}

/// The whole, in units of 2⁻³².
const WHOLE: u64 = 1 << 32;
/// Precision of a store's clock.
#[cfg(any(test, feature = "postgres"))]
const MICROSECOND: Duration = Duration::from_micros(1);

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
    /// Returns an empty history.
    pub(crate) fn none(quota: Quota) -> Self {
        match StateKind::of(quota) {
            StateKind::Tat => Self::Tat(Timestamp::ZERO),
            StateKind::Narrow => Self::Narrow(Log::default()),
            StateKind::Wide => Self::Wide(Log::default()),
        }
    }

    pub(crate) const fn borrow(&mut self) -> KeyHistoryMut<'_> {
        match self {
            Self::Tat(tat) => KeyHistoryMut::Tat(tat),
            Self::Narrow(log) => KeyHistoryMut::Narrow(log),
            Self::Wide(log) => KeyHistoryMut::Wide(log),
        }
    }

    /// Converts the history to another quota, keeping the used share.
    #[cold]
    pub(crate) fn adapt(mut self, was: Quota, quota: Quota, now: Timestamp) -> Self {
        let share = self.borrow().share(was, now).min(WHOLE);
        match (StateKind::of(quota), quota.algorithm(), was.algorithm()) {
            (StateKind::Narrow, Algorithm::Window(new), old) => Self::Narrow(self.to_window(old, new, share, now)),
            (StateKind::Wide, Algorithm::Window(new), old) => Self::Wide(self.to_window(old, new, share, now)),
            (_, Algorithm::Gcra(new), _) => Self::Tat(new.at_share(share, now)),
            (StateKind::Tat, Algorithm::Window(_), _) => Self::none(quota),
        }
    }

    /// Converts to a window: charge by charge if both windows have the same sub-buckets, else as one charge at the
    /// time of the latest.
    fn to_window<C: BucketCount>(&self, was: Algorithm, new: Window, share: u64, now: Timestamp) -> Log<C> {
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
    /// Returns the verdict without charging.
    pub(crate) fn peek(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        fn window<C: BucketCount>(window: Window, log: &mut Log<C>, cost: u32, now: Timestamp) -> Verdict {
            window.roll(log, now);
            window.verdict(log, now, window.check(log, now, cost).err())
        }
        match (quota.algorithm(), self) {
            (Algorithm::Gcra(gcra), Self::Tat(tat)) => gcra.verdict(**tat, now, gcra.check(**tat, now, cost).err()),
            (Algorithm::Window(of), Self::Narrow(log)) => window(of, log, cost, now),
            (Algorithm::Window(of), Self::Wide(log)) => window(of, log, cost, now),
            _ => mismatch(),
        }
    }

    /// Charges if the cost fits: [`peek`](Self::peek) and [`charge`](Self::charge) in one pass.
    #[inline(always)]
    pub(crate) fn spend(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        match (quota.algorithm(), self) {
            (Algorithm::Gcra(gcra), Self::Tat(tat)) => spend(gcra, tat, cost, now),
            (Algorithm::Window(window), Self::Narrow(log)) => window.spend(log, now, cost),
            (Algorithm::Window(window), Self::Wide(log)) => window.spend(log, now, cost),
            _ => mismatch(),
        }
    }

    /// Charges `cost` units even if they do not fit, and returns what remains. Requires a [`peek`](Self::peek) just
    /// before.
    pub(crate) fn charge(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        fn window<C: BucketCount>(window: Window, log: &mut Log<C>, cost: u32, now: Timestamp) -> Verdict {
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
            _ => mismatch(),
        }
    }

    /// Refunds up to `units` of a charge made at `charged`: at most what still counts, and never as burst.
    pub(crate) fn refund(&mut self, quota: Quota, units: u32, charged: Timestamp, now: Timestamp) {
        self.peek(quota, 0, now);
        match (quota.algorithm(), self) {
            (Algorithm::Gcra(gcra), Self::Tat(tat)) => **tat = gcra.refund(**tat, now, units, charged),
            (Algorithm::Window(window), Self::Narrow(log)) => window.refund(log, units, charged),
            (Algorithm::Window(window), Self::Wide(log)) => window.refund(log, units, charged),
            _ => {}
        }
    }

    /// Charges up to `want` units as of the end of the lease that they are for: see the [module](super::lease). Returns the
    /// units and the lifetime of the lease: at most a quarter of what is left, so that no node holds what others need.
    #[cfg(any(test, feature = "postgres"))]
    pub(crate) fn lease(&mut self, quota: Quota, want: u32, life: Duration, now: Timestamp) -> (u32, Duration) {
        fn window<C: BucketCount>(window: Window, log: &mut Log<C>, want: u32, now: Timestamp) -> (u32, Duration) {
            window.roll(log, now);
            let last = window.end_of_current(log, now) - MICROSECOND;
            if last <= now {
                return (0, Duration::ZERO);
            }
            let granted = want.min(window.verdict(log, now, None).remaining() / 4);
            if granted > 0 {
                window.charge(log, last, granted);
            }
            (granted, last.since(now))
        }
        match (quota.algorithm(), self) {
            (Algorithm::Gcra(gcra), Self::Tat(tat)) => {
                let base = (**tat).max(now + life);
                let granted = want.min(gcra.verdict(base, now, None).remaining() / 4);
                if granted > 0 {
                    **tat = gcra.charge(base, now, granted);
                }
                (granted, life)
            }
            (Algorithm::Window(of), Self::Narrow(log)) => window(of, log, want, now),
            (Algorithm::Window(of), Self::Wide(log)) => window(of, log, want, now),
            _ => (0, Duration::ZERO),
        }
    }

    /// Returns the used share of the limit, in units of 2⁻³². Zero is equivalent to no state.
    pub(crate) fn share(&mut self, quota: Quota, now: Timestamp) -> u64 {
        fn window<C: BucketCount>(window: Window, log: &mut Log<C>, now: Timestamp) -> u64 {
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

    /// Returns whether one more unit would be rejected now.
    pub(super) fn is_spent(&mut self, quota: Quota, now: Timestamp) -> bool {
        !self.peek(quota, 1, now).admits()
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

/// Handles a quota and a history of different kinds, which cannot occur: they are always changed together.
#[cold]
const fn mismatch() -> Verdict {
    Verdict::of(0, 0, 0)
}

impl KeyState {
    /// Creates the state of an unused key.
    ///
    /// ```
    /// use tollgate::limit::{KeyState, Quota};
    ///
    /// let state = KeyState::new(Quota::per_minute(100));
    /// # let _ = state;
    /// ```
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self { quota, history: KeyHistory::none(quota) }
    }

    /// Returns the verdict without charging. `quota` is the current one.
    pub fn peek(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        self.with_history(quota, now, |mut history| history.peek(quota, cost, now))
    }

    /// Charges if the cost fits: [`peek`](Self::peek) and [`charge`](Self::charge) in one pass.
    pub fn spend(&mut self, quota: Quota, cost: u32, now: Timestamp) -> Verdict {
        self.with_history(quota, now, |mut history| history.spend(quota, cost, now))
    }

    /// Charges `cost` units even if they do not fit, and returns what remains. Requires a [`peek`](Self::peek) just
    /// before.
    pub fn charge(&mut self, cost: u32, now: Timestamp) -> Verdict {
        self.history.borrow().charge(self.quota, cost, now)
    }

    /// Refunds up to `units` of a charge made at `charged`: at most what still counts, and never as burst.
    pub fn refund(&mut self, quota: Quota, units: u32, charged: Timestamp, now: Timestamp) {
        self.with_history(quota, now, |mut history| history.refund(quota, units, charged, now));
    }

    /// Returns the used share of the limit, in units of 2⁻³². Zero is equivalent to no state.
    ///
    /// ```
    /// use tollgate::Timestamp;
    /// use tollgate::limit::{KeyState, Quota};
    ///
    /// let (quota, now) = (Quota::per_minute(4), Timestamp::from_nanos(86_400_000_000_000));
    /// let mut state = KeyState::new(quota);
    /// state.spend(quota, 1, now);
    /// assert_eq!(state.share(now), 1 << 30); // a quarter
    /// ```
    pub fn share(&mut self, now: Timestamp) -> u64 {
        self.history.borrow().share(self.quota, now)
    }

    /// Returns whether one more unit would be rejected now.
    pub fn is_spent(&mut self, now: Timestamp) -> bool {
        self.history.borrow().is_spent(self.quota, now)
    }

    /// Borrows the history, converted to `quota`.
    pub(crate) fn with_history<R>(
        &mut self,
        quota: Quota,
        now: Timestamp,
        f: impl FnOnce(KeyHistoryMut<'_>) -> R,
    ) -> R {
        self.adapt(quota, now);
        f(self.history.borrow())
    }

    /// Returns the quota of the usage.
    #[cfg(feature = "postgres")]
    pub(super) const fn quota(&self) -> Quota {
        self.quota
    }

    #[cfg(feature = "postgres")]
    pub(super) fn encode(&self, writer: &mut Writer) {
        self.quota.encode(writer);
        match &self.history {
            KeyHistory::Tat(tat) => writer.u64(tat.as_nanos()),
            KeyHistory::Narrow(log) => log.encode(writer),
            KeyHistory::Wide(log) => log.encode(writer),
        }
    }

    /// Decodes a state; `None` if it is malformed.
    #[cfg(feature = "postgres")]
    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let quota = Quota::decode(reader)?;
        let history = match (StateKind::of(quota), quota.algorithm()) {
            (StateKind::Narrow, Algorithm::Window(window)) => KeyHistory::Narrow(window.decode(reader)?),
            (StateKind::Wide, Algorithm::Window(window)) => KeyHistory::Wide(window.decode(reader)?),
            _ => KeyHistory::Tat(Timestamp::from_nanos(reader.u64()?)),
        };
        Some(Self { quota, history })
    }

    fn adapt(&mut self, quota: Quota, now: Timestamp) {
        if self.quota != quota {
            let history = std::mem::replace(&mut self.history, KeyHistory::Tat(Timestamp::ZERO));
            self.history = history.adapt(self.quota, quota, now);
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
        assert!(state.peek(quota, units, START).admits());
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
            assert_eq!(used(from, 50).peek(to, 1, START).remaining(), left, "{from} to {to}");
        }
    }

    #[test]
    fn a_limited_key_stays_limited_through_a_change() {
        let mut state = used(Quota::per_minute(20), 20);
        assert!(state.peek(Quota::per_minute(1_000), 1, START).wait().is_some());
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
