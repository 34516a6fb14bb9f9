//! The exact window: never more than the limit in **any** window, kept in a fixed number of counters.
//!
//! The period is cut into `BUCKETS` sub-buckets. A sub-bucket's units count until the *last* moment they could have
//! happened is a whole period ago, so counting is conservative: what is admitted in any half-open window `(t, t + period]`
//! never exceeds the limit. For the newest sub-bucket that moment is known exactly, so a burst is free again exactly one
//! period later, and `reset` never exceeds the period.
//!
//! | bound | value |
//! |---|---|
//! | admitted in any window | ≤ limit |
//! | utilisation under uniform overload of at least a request per sub-bucket | ≥ 0.98 |
//! | state | 51 counters, whatever the limit |
//!
//! A fixed window admits twice its limit across a boundary, and so does the two-bucket "sliding counter": neither is
//! offered.

use std::time::Duration;

use super::decision::Verdict;
use crate::clock::Timestamp;

/// How many sub-buckets a period is cut into.
pub(crate) const BUCKETS: u64 = 50;
/// The sub-buckets that can count at one time: those of a period, and the one that is filling.
const RING: usize = BUCKETS as usize + 1;

/// An exact window's parameters. See the [module](self) for its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    limit: u32,
    period: u64,
    /// Nanoseconds per sub-bucket, rounded up so that a ring always covers the period.
    width: u64,
}

/// What a key has done in its window.
#[derive(Clone, Debug)]
pub struct Log {
    /// No sub-bucket before this one counts.
    oldest: u64,
    /// The sub-bucket of the latest charge.
    newest: u64,
    /// When exactly that charge was.
    last: Timestamp,
    /// The sum of `counts`.
    total: u32,
    /// Units per sub-bucket, at the sub-bucket's index modulo the ring's length.
    counts: [u32; RING],
}

impl Log {
    /// A key that has done nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { oldest: 0, newest: 0, last: Timestamp::ZERO, total: 0, counts: [0; RING] }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// A window of `period` nanoseconds in sub-buckets of that [`width`](Self::width).
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

    /// Drops what no longer counts. Everything else expects a log that was rolled to `now`.
    pub fn roll(&self, log: &mut Log, now: Timestamp) {
        let now = now.max(log.last);
        if log.total == 0 || log.last + self.span() <= now {
            *log = Log { last: log.last, ..Log::new() };
            return;
        }
        let first = now.as_nanos().saturating_sub(self.period) / self.width;
        while log.oldest < first.min(log.newest) {
            let count = &mut log.counts[ring(log.oldest)];
            log.total -= *count;
            *count = 0;
            log.oldest += 1;
        }
    }

    /// Whether `cost` units fit; if not, how long until they do. A cost over the limit never fits.
    ///
    /// # Errors
    /// The wait, where they do not fit.
    pub fn check(&self, log: &Log, now: Timestamp, cost: u32) -> Result<(), Duration> {
        if cost > self.limit {
            return Err(self.span());
        }
        let wanted = u64::from(log.total) + u64::from(cost);
        let Some(excess) = wanted.checked_sub(u64::from(self.limit)).filter(|excess| *excess > 0) else {
            return Ok(());
        };
        let mut freed = 0;
        for bucket in log.oldest..log.newest {
            freed += u64::from(log.counts[ring(bucket)]);
            if freed >= excess {
                return Err(self.end_of(bucket).since(now));
            }
        }
        Err((log.last + self.span()).since(now))
    }

    /// Charges `cost` units, whether they fit or not.
    pub fn charge(&self, log: &mut Log, now: Timestamp, cost: u32) {
        let now = now.max(log.last);
        let bucket = now.as_nanos() / self.width;
        if log.total == 0 {
            log.oldest = bucket;
        }
        log.newest = bucket;
        log.last = now;
        log.total = log.total.saturating_add(cost);
        let count = &mut log.counts[ring(bucket)];
        *count = count.saturating_add(cost);
    }

    /// Gives back up to `units` of those charged at `charged`, if that sub-bucket still counts.
    pub fn refund(&self, log: &mut Log, units: u32, charged: Timestamp) {
        let bucket = charged.as_nanos() / self.width;
        if (log.oldest..=log.newest).contains(&bucket) {
            let count = &mut log.counts[ring(bucket)];
            let back = units.min(*count);
            *count -= back;
            log.total -= back;
        }
    }

    /// What a key may still do.
    #[must_use]
    pub fn verdict(&self, log: &Log, now: Timestamp, wait: Option<Duration>) -> Verdict {
        let reset = if log.total == 0 { Duration::ZERO } else { (log.last + self.span()).since(now) };
        Verdict::new(wait, self.limit.saturating_sub(log.total), reset)
    }

    /// The share of the limit that is used, in units of 2⁻³², rounded up.
    pub(crate) fn share(&self, log: &Log) -> u64 {
        (u64::from(log.total) << 32).div_ceil(u64::from(self.limit.max(1)))
    }

    /// A log that has used that share, as of its latest charge.
    pub(crate) fn at_share(&self, share: u64, last: Timestamp) -> Log {
        let mut log = Log::new();
        let units = (u128::from(share) * u128::from(self.limit)) >> 32;
        self.charge(&mut log, last, units.min(u128::from(u32::MAX)) as u32);
        log
    }

    /// The same log measured against another limit of the same period: every charge keeps its time and its share.
    pub(crate) fn rescale(&self, log: &mut Log, was: &Self) {
        let (mut seen, mut given) = (0_u64, 0_u64);
        for bucket in log.oldest..=log.newest {
            let count = &mut log.counts[ring(bucket)];
            seen += u64::from(*count);
            let scaled = (seen * u64::from(self.limit)).div_ceil(u64::from(was.limit.max(1)));
            *count = (scaled - given).min(u64::from(u32::MAX)) as u32;
            given = scaled;
        }
        log.total = given.min(u64::from(u32::MAX)) as u32;
    }

    /// Whether both cut time the same way.
    pub(crate) const fn same_grid(&self, other: &Self) -> bool {
        self.period == other.period
    }

    /// When a full sub-bucket stops counting.
    fn end_of(&self, bucket: u64) -> Timestamp {
        Timestamp::from_nanos((bucket + 1).saturating_mul(self.width)) + self.span()
    }

    const fn span(&self) -> Duration {
        Duration::from_nanos(self.period)
    }
}

impl Log {
    /// When the key was last charged.
    pub(crate) const fn last(&self) -> Timestamp {
        self.last
    }
}

const fn ring(bucket: u64) -> usize {
    (bucket % RING as u64) as usize
}

#[cfg(test)]
mod tests;
