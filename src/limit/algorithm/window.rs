//! The exact window: never more than the limit in **any** window, with a fixed number of counters.
//!
//! The period is divided into `BUCKETS` sub-buckets. Units of a sub-bucket count until the *last* moment at which
//! they may have been charged is a whole period ago. Counting is therefore conservative: the units admitted in any
//! half-open window `(t, t + period]` never exceed the limit. For the newest sub-bucket that moment is known exactly,
//! so a burst is free again exactly one period later, and `reset` never exceeds the period.
//!
//! ```
//! use tollgate::Timestamp;
//! use tollgate::limit::window::Log;
//! use tollgate::limit::{Algorithm, Quota};
//!
//! let now = Timestamp::from_nanos(86_400_000_000_000);
//! let Algorithm::Window(window) = Quota::per_minute(2).algorithm() else { unreachable!() };
//! let mut log: Log = Log::new();
//! window.roll(&mut log, now);
//! assert!(window.check(&log, now, 2).is_ok());
//! window.charge(&mut log, now, 2);
//! assert_eq!(window.check(&log, now, 1).map_err(|wait| wait.as_secs()), Err(60));
//! ```
//!
//! | bound | value |
//! |---|---|
//! | admitted in any window | ≤ limit |
//! | utilisation under uniform overload of at least a request per sub-bucket | ≥ 0.98 |
//! | state | 51 counters: 120 bytes for limits up to 65 535, else 224 |
//!
//! A fixed window admits twice its limit across a boundary, and so does the two-bucket "sliding counter"; neither is
//! offered.

use std::time::Duration;

use super::verdict::Verdict;
use crate::base::clock::{Timestamp, nanos};
#[cfg(feature = "postgres")]
use crate::base::codec::{Reader, Writer};

/// Number of sub-buckets in a period.
pub(super) const BUCKETS: u64 = 50;
/// Sub-buckets that can count at the same time: those of a period and the current one.
const RING: usize = BUCKETS as usize + 1;

/// Parameters of an exact window. See the [module](self) for its bound.
///
/// ```
/// use tollgate::limit::Quota;
///
/// // At most 100 in any minute.
/// let window = Quota::per_minute(100);
/// # let _ = window;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    limit: u32,
    period: u64,
    /// Nanoseconds per sub-bucket, rounded up so that the ring always covers the period.
    width: u64,
}

/// Usage of a key within its window: a ring of the sub-buckets that can still count.
///
/// `C` is the type of a sub-bucket's counter: `u16` serves limits up to 65 535 in 120 bytes, `u32` any limit in 224.
///
/// ```
/// use tollgate::limit::window::Log;
///
/// assert_eq!(size_of::<Log<u16>>(), 120);
/// ```
#[derive(Clone, Debug)]
pub struct Log<C = u32> {
    /// Time of the latest charge.
    last: Timestamp,
    /// Sum of `counts`.
    total: u32,
    /// Low bits of the newest sub-bucket's number; sufficient, because a sub-bucket 51 or more behind does not count.
    newest: u16,
    /// Index of the newest sub-bucket in `counts`.
    at: u8,
    /// Number of earlier sub-buckets that still count.
    back: u8,
    counts: [C; RING],
}

/// Counter of a sub-bucket. Saturates: by then the limit is long reached, and stays so for as long.
///
/// ```
/// use tollgate::limit::window::{Count, Log};
///
/// fn size<C: Count>() -> usize {
///     size_of::<Log<C>>()
/// }
/// assert!(size::<u16>() < size::<u32>());
/// ```
pub trait Count: Copy + sealed::Sealed {
    /// Zero units.
    const ZERO: Self;

    /// Returns the units.
    fn units(self) -> u32;

    /// Creates a counter of `units`, saturating.
    fn of(units: u32) -> Self;
}

impl Count for u16 {
    const ZERO: Self = 0;

    fn units(self) -> u32 {
        u32::from(self)
    }

    fn of(units: u32) -> Self {
        Self::try_from(units).unwrap_or(Self::MAX)
    }
}

impl Count for u32 {
    const ZERO: Self = 0;

    fn units(self) -> u32 {
        self
    }

    fn of(units: u32) -> Self {
        units
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "sealed: a counter is u16 or u32")]
    pub trait Sealed {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
}

impl Log {
    /// Creates the log of an unused key.
    ///
    /// ```
    /// use tollgate::limit::window::Log;
    ///
    /// let unused = <Log>::new();
    /// # let _ = unused;
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self::idle(Timestamp::ZERO)
    }
}

impl<C: Count> Default for Log<C> {
    fn default() -> Self {
        Self::idle(Timestamp::ZERO)
    }
}

impl Window {
    /// Creates a window of `period` nanoseconds with sub-buckets of `width` nanoseconds.
    pub(super) const fn stepping(limit: u32, period: u64, width: u64) -> Self {
        Self { limit, period, width }
    }

    pub(super) const fn width(period: u64) -> u64 {
        period.div_ceil(BUCKETS)
    }

    #[cfg(test)]
    const fn new(limit: u32, period: u64) -> Self {
        Self::stepping(limit, period, Self::width(period))
    }

    /// Drops sub-buckets that no longer count. All other methods require a log that was rolled to `now`.
    pub fn roll<C: Count>(&self, log: &mut Log<C>, now: Timestamp) {
        if log.total == 0 {
            return;
        }
        let now = now.max(log.last);
        if log.last.after(self.period) <= now {
            *log = Log::idle(log.last);
            return;
        }
        let ahead = log.ahead(now.as_nanos() / self.width);
        let first = now.as_nanos().saturating_sub(self.period) / self.width;
        let oldest = now.as_nanos() / self.width - ahead - u64::from(log.back);
        log.drop_oldest(first.saturating_sub(oldest).min(u64::from(log.back)) as u8);
    }

    /// Checks whether `cost` units fit. A cost above the limit never fits.
    ///
    /// # Errors
    /// The time until they fit.
    pub fn check<C: Count>(&self, log: &Log<C>, now: Timestamp, cost: u32) -> Result<(), Duration> {
        if u64::from(log.total) + u64::from(cost) <= u64::from(self.limit) {
            return Ok(());
        }
        Err(self.wait(log, now, cost))
    }

    #[cold]
    fn wait<C: Count>(&self, log: &Log<C>, now: Timestamp, cost: u32) -> Duration {
        let Some(kept) = self.limit.checked_sub(cost) else { return self.span() };
        let (mut left, newest) = (log.total, self.bucket(log.last));
        for age in (1..=log.back).rev() {
            left -= log.counts[log.place(age)].units();
            if left <= kept {
                return self.end_of(newest - u64::from(age)).since(now);
            }
        }
        log.last.after(self.period).since(now)
    }

    /// Charges `cost` units even if they do not fit.
    pub fn charge<C: Count>(&self, log: &mut Log<C>, now: Timestamp, cost: u32) {
        let now = now.max(log.last);
        let bucket = self.bucket(now);
        if log.total == 0 {
            (log.at, log.back, log.newest) = (0, 0, bucket as u16);
        }
        log.advance(bucket);
        log.last = now;
        let count = &mut log.counts[usize::from(log.at)];
        let before = count.units();
        *count = C::of(before.saturating_add(cost).min(before.saturating_add(u32::MAX - log.total)));
        log.total += count.units() - before;
    }

    /// [`roll`](Self::roll), [`check`](Self::check) and, if the units fit, [`charge`](Self::charge), in one pass.
    pub(super) fn spend<C: Count>(&self, log: &mut Log<C>, now: Timestamp, cost: u32) -> Verdict {
        self.roll(log, now);
        match self.check(log, now, cost) {
            Ok(()) => {
                self.charge(log, now, cost);
                self.verdict(log, now, None)
            }
            Err(wait) => self.verdict(log, now, Some(wait)),
        }
    }

    /// Refunds up to `units` of those charged at `charged`, if that sub-bucket still counts.
    ///
    /// ```
    /// use tollgate::Timestamp;
    /// use tollgate::limit::window::Log;
    /// use tollgate::limit::{Algorithm, Quota};
    ///
    /// let now = Timestamp::from_nanos(86_400_000_000_000);
    /// let Algorithm::Window(window) = Quota::per_minute(2).algorithm() else { unreachable!() };
    /// let mut log: Log = Log::new();
    /// window.charge(&mut log, now, 2);
    /// window.refund(&mut log, 1, now);
    /// assert_eq!(window.verdict(&log, now, None).remaining(), 1);
    /// ```
    pub fn refund<C: Count>(&self, log: &mut Log<C>, units: u32, charged: Timestamp) {
        let Some(age) = self.bucket(log.last).checked_sub(self.bucket(charged)) else { return };
        if age <= u64::from(log.back) {
            let place = log.place(age as u8);
            let back = units.min(log.counts[place].units());
            log.counts[place] = C::of(log.counts[place].units() - back);
            log.total -= back;
        }
    }

    /// Returns the verdict for a key with this log.
    #[must_use]
    pub fn verdict<C: Count>(&self, log: &Log<C>, now: Timestamp, wait: Option<Duration>) -> Verdict {
        let reset = if log.total == 0 { 0 } else { log.last.after(self.period).nanos_since(now) };
        Verdict::of(wait.map_or(0, |wait| nanos(wait).max(1)), self.limit.saturating_sub(log.total), reset)
    }

    /// Returns the used share of the limit, in units of 2⁻³², rounded up.
    pub(crate) fn share<C: Count>(&self, log: &Log<C>) -> u64 {
        (u64::from(log.total) << 32).div_ceil(u64::from(self.limit.max(1)))
    }

    /// Creates a log that has used `share`, rounded up to whole units, as of the time `last`.
    pub(super) fn at_share<C: Count>(&self, share: u64, last: Timestamp) -> Log<C> {
        let mut log = Log::default();
        // The share itself was rounded up, in Redis in floating point: 2⁻³¹ of the limit is no unit.
        let limit = u128::from(self.limit);
        let units = (u128::from(share) * limit).saturating_sub(2 * limit).div_ceil(1 << 32);
        self.charge(&mut log, last, units.min(u128::from(u32::MAX)) as u32);
        log
    }

    /// Converts a log to another limit of the same period: each charge keeps its time and its share.
    pub(super) fn rescale<C: Count, D: Count>(&self, log: &Log<C>, was: &Self) -> Log<D> {
        let Log { last, newest, at, back, .. } = *log;
        let (mut scaled, mut seen, mut given) = (Log { newest, at, back, ..Log::idle(last) }, 0_u64, 0_u64);
        for age in (0..=back).rev() {
            let place = log.place(age);
            seen += u64::from(log.counts[place].units());
            let due = (seen * u64::from(self.limit)).div_ceil(u64::from(was.limit.max(1)));
            scaled.counts[place] = D::of((due - given).min(u64::from(u32::MAX)) as u32);
            given += u64::from(scaled.counts[place].units());
        }
        scaled.total = given.min(u64::from(u32::MAX)) as u32;
        scaled
    }

    /// Returns the end of the current sub-bucket.
    #[cfg(any(test, feature = "postgres"))]
    pub(super) fn end_of_current<C: Count>(&self, log: &Log<C>, now: Timestamp) -> Timestamp {
        let current = self.bucket(now.max(log.last));
        Timestamp::from_nanos((current + 1).saturating_mul(self.width))
    }

    /// Decodes a log; `None` if it is malformed.
    #[cfg(feature = "postgres")]
    pub(super) fn decode<C: Count>(&self, reader: &mut Reader<'_>) -> Option<Log<C>> {
        let (last, filled) = (Timestamp::from_nanos(reader.u64()?), reader.u8()?);
        if filled == 0 {
            return Some(Log::idle(last));
        }
        let (back, newest) = (filled - 1, self.bucket(last));
        if usize::from(filled) > RING || newest < u64::from(back) {
            return None;
        }
        let mut log = Log { newest: newest as u16, at: back, back, ..Log::idle(last) };
        for count in &mut log.counts[..usize::from(filled)] {
            *count = C::of(reader.u32()?);
            log.total = log.total.checked_add(count.units())?;
        }
        Some(log)
    }

    /// Returns whether both windows have the same sub-buckets.
    pub(super) const fn same_grid(&self, other: &Self) -> bool {
        self.period == other.period
    }

    /// Returns the time at which a full sub-bucket stops counting.
    fn end_of(&self, bucket: u64) -> Timestamp {
        Timestamp::from_nanos((bucket + 1).saturating_mul(self.width)).after(self.period)
    }

    const fn bucket(&self, at: Timestamp) -> u64 {
        at.as_nanos() / self.width
    }

    const fn span(&self) -> Duration {
        Duration::from_nanos(self.period)
    }
}

impl<C: Count> Log<C> {
    /// Creates a log without charges; time never goes back before `last`.
    const fn idle(last: Timestamp) -> Self {
        Self { last, total: 0, newest: 0, at: 0, back: 0, counts: [C::ZERO; RING] }
    }

    #[cfg(feature = "postgres")]
    pub(super) fn encode(&self, writer: &mut Writer) {
        let filled = if self.total == 0 { 0 } else { self.back + 1 };
        writer.u64(self.last.as_nanos());
        writer.u8(filled);
        (0..filled).rev().for_each(|age| writer.u32(self.counts[self.place(age)].units()));
    }

    /// Returns the time of the latest charge.
    pub(super) const fn last(&self) -> Timestamp {
        self.last
    }

    /// Returns the distance from the newest sub-bucket to a later one.
    const fn ahead(&self, bucket: u64) -> u64 {
        (bucket as u16).wrapping_sub(self.newest) as u64
    }

    /// Returns the index of the sub-bucket `age` before the newest.
    const fn place(&self, age: u8) -> usize {
        let (at, age) = (self.at as usize, age as usize);
        if at >= age { at - age } else { at + RING - age }
    }

    /// Drops the `count` oldest sub-buckets: one contiguous range, or two where the ring wraps.
    fn drop_oldest(&mut self, count: u8) {
        if count == 0 {
            return;
        }
        let start = self.place(self.back);
        let end = start + usize::from(count);
        let (closing, rest) = (start..end.min(RING), 0..end.saturating_sub(RING));
        for dropped in [closing, rest] {
            let dropped = &mut self.counts[dropped];
            self.total -= dropped.iter().map(|count| count.units()).sum::<u32>();
            dropped.fill(C::ZERO);
        }
        self.back -= count;
    }

    /// Makes `bucket` the newest sub-bucket. A rolled log has room for it.
    fn advance(&mut self, bucket: u64) {
        let ahead = self.ahead(bucket).min(RING as u64 - 1) as u8;
        let at = self.at as usize + ahead as usize;
        self.at = if at >= RING { at - RING } else { at } as u8;
        self.back = (self.back + ahead).min(RING as u8 - 1);
        self.newest = bucket as u16;
    }
}

#[cfg(test)]
mod tests;
