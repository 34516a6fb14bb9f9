//! [`Ticks`]: the operating system's monotonic clock, at half its cost.
//!
//! Between two readings of the system clock, at most a millisecond apart, the time is interpolated from the
//! processor's counter at the rate of the last two readings. The interpolation runs slow by 1⁄4096, more than the
//! possible error of the rate: it lags up to a quarter of a microsecond, is corrected at the next reading, and a
//! reading never returns less than was returned before, so that time never goes back. No error accumulates: a rate is
//! used for a millisecond only.
//!
//! If the processor has no steady counter, the system clock itself is the counter.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::base::lock::Mutex;

/// Maximum time of interpolation, in nanoseconds.
const READ_INTERVAL: u64 = 1_000_000;
/// Slowdown of the interpolation, as a negative power of two.
const SLOWDOWN: u32 = 12;

pub(super) struct Ticks {
    counter: quanta::Clock,
    /// Reads the system clock, in nanoseconds.
    real: fn() -> u64,
    anchor: Anchor,
    reading: Mutex<()>,
}

/// Seqlock of a reading of the system clock and the counter's rate; a version is odd while it is being written.
#[derive(Default)]
struct Anchor {
    version: AtomicU64,
    ticks: AtomicU64,
    nanos: AtomicU64,
    /// Nanoseconds per tick, in units of 2⁻³².
    rate: AtomicU64,
    /// Number of ticks for which the rate is valid; 0 before it is known.
    span: AtomicU64,
}

impl Ticks {
    pub(super) fn new(real: fn() -> u64) -> Self {
        Self { counter: quanta::Clock::new(), real, anchor: Anchor::default(), reading: Mutex::new(()) }
    }

    /// Returns nanoseconds of the system clock, up to a quarter of a microsecond late.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        match self.anchor.interpolate(self.counter.raw()) {
            Some(nanos) => nanos,
            None => self.read(),
        }
    }

    #[cold]
    fn read(&self) -> u64 {
        // Held for two readings of the clock, once a millisecond.
        let _reading = self.reading.lock();
        if let Some(nanos) = self.anchor.interpolate(self.counter.raw()) {
            return nanos;
        }
        let (ticks, nanos) = self.pair();
        self.anchor.replace(ticks, nanos)
    }

    /// Reads both clocks at one moment; repeated if the thread was interrupted in between.
    fn pair(&self) -> (u64, u64) {
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..3 {
            let before = self.counter.raw();
            let nanos = (self.real)();
            let took = self.counter.raw().wrapping_sub(before);
            if took < best.0 {
                best = (took, before, nanos);
            }
        }
        (best.1, best.2)
    }
}

impl Anchor {
    /// Interpolates the time at this count; `None` if the anchor is outdated or being replaced.
    #[inline]
    fn interpolate(&self, ticks: u64) -> Option<u64> {
        let version = self.version.load(Ordering::Acquire);
        let since = ticks.wrapping_sub(self.ticks.load(Ordering::Relaxed));
        let (nanos, rate) = (self.nanos.load(Ordering::Relaxed), self.rate.load(Ordering::Relaxed));
        let span = self.span.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && version == self.version.load(Ordering::Relaxed);
        (whole && since < span).then(|| nanos + scaled(since, rate))
    }

    /// Replaces the anchor, one thread at a time, and returns the time.
    fn replace(&self, ticks: u64, nanos: u64) -> u64 {
        let version = self.version.load(Ordering::Relaxed);
        let since = ticks.wrapping_sub(self.ticks.load(Ordering::Relaxed));
        let (old, span) = (self.nanos.load(Ordering::Relaxed), self.span.load(Ordering::Relaxed));
        // The latest time that can have been returned: later readings are never earlier.
        let nanos = nanos.max(old + scaled(since.min(span), self.rate.load(Ordering::Relaxed)));
        let first = version == 0;
        if !first && span == 0 && nanos - old < READ_INTERVAL {
            // Too early to determine the rate.
            return nanos;
        }
        let (rate, span) = if first { (0, 0) } else { rate(since, nanos - old) };
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.ticks.store(ticks, Ordering::Relaxed);
        self.nanos.store(nanos, Ordering::Relaxed);
        self.rate.store(rate, Ordering::Relaxed);
        self.span.store(span, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
        nanos
    }
}

/// Returns the rate between two readings, slowed down, and the ticks for which it is valid; zeros if there is none.
const fn rate(ticks: u64, nanos: u64) -> (u64, u64) {
    let exact = match ((nanos as u128) << 32).checked_div(ticks as u128) {
        // A tick is between a hundredth of a nanosecond and 64 of them.
        Some(exact) if exact >> 25 > 0 && exact >> 38 == 0 => exact as u64,
        _ => return (0, 0),
    };
    (exact - (exact >> SLOWDOWN), (READ_INTERVAL << 32) / exact)
}

/// Converts ticks to nanoseconds.
#[inline]
const fn scaled(ticks: u64, rate: u64) -> u64 {
    ((ticks as u128 * rate as u128) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// For any rate of the counter and any spacing and error of the readings: never far from the system clock,
        /// and never going back.
        #[test]
        fn keeps_close_and_never_goes_back(
            per_tick in 0.1_f64..50.0,
            steps in prop::collection::vec((0_u64..2_000_000, 0_u64..40), 1..200),
        ) {
            let (anchor, mut nanos, mut latest, mut interpolated) = (Anchor::default(), 86_400_000_000_000_u64, 0, 0);
            for (step, late) in steps {
                nanos += step;
                let ticks = (nanos as f64 / per_tick) as u64;
                // A reading of the system clock happens a little after that of the counter.
                let returned = anchor.interpolate(ticks).inspect(|_| interpolated += 1).unwrap_or_else(|| anchor.replace(ticks, nanos + late));
                prop_assert!(returned >= latest, "back by {}", latest - returned);
                prop_assert!(returned <= nanos + 200 && returned + 600 >= nanos, "{returned} at {nanos}");
                latest = returned;
            }
        }
    }

    #[test]
    fn time_between_readings_is_interpolated() {
        let anchor = Anchor::default();
        assert_eq!((anchor.replace(3_000, 1_000), anchor.interpolate(3_001)), (1_000, None));
        assert_eq!(anchor.replace(6_000, 2_000), 2_000, "too early to know the rate");
        anchor.replace(3_003_000, 1_001_000);
        let returned = anchor.interpolate(3_003_000 + 1_500_000).expect("half a millisecond later");
        assert!((1_500_700..=1_501_000).contains(&returned), "{returned}");
        assert_eq!(anchor.interpolate(3_003_000 + 3_100_000), None, "a millisecond is over");
        assert_eq!(anchor.interpolate(3_002_000), None, "another processor's counter is behind");
    }

    #[test]
    fn a_stopped_counter_is_not_used() {
        let anchor = Anchor::default();
        for n in 0..5 {
            assert_eq!(anchor.replace(7, n * READ_INTERVAL), n * READ_INTERVAL);
            assert_eq!(anchor.interpolate(7), None);
        }
    }
}
