//! [`Ticks`]: the operating system's monotonic clock, read at half its price.
//!
//! Between two looks at the real clock, at most a millisecond apart, the time is reckoned from the processor's counter
//! at the rate that the last two looks showed. The reckoning runs slow by 1⁄4096, more than looks so close can be
//! wrong about the rate: it lags up to a quarter of a microsecond, is put right at the next look, and a look never says
//! less than was told before it, so that time never goes back. Nothing adds up: a rate is used for a millisecond and
//! forgotten.
//!
//! Where the processor has no steady counter, the counter is the real clock itself.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::base::lock::Mutex;

/// How long the time is reckoned, in nanoseconds.
const LOOK_EVERY: u64 = 1_000_000;
/// How much slow the reckoning runs, as a power of two.
const SLOW: u32 = 12;

pub(super) struct Ticks {
    counter: quanta::Clock,
    /// Reads the real clock, in nanoseconds.
    real: fn() -> u64,
    anchor: Anchor,
    looking: Mutex<()>,
}

/// A look at the real clock, and what to make of the ticks since. Odd versions are being written.
#[derive(Default)]
struct Anchor {
    version: AtomicU64,
    ticks: AtomicU64,
    nanos: AtomicU64,
    /// Nanoseconds per tick, in units of 2⁻³².
    rate: AtomicU64,
    /// For how many ticks the rate is good; 0 before it is known.
    span: AtomicU64,
}

impl Ticks {
    pub(super) fn new(real: fn() -> u64) -> Self {
        Self { counter: quanta::Clock::new(), real, anchor: Anchor::default(), looking: Mutex::new(()) }
    }

    /// Nanoseconds on the real clock, up to a quarter of a microsecond late.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        match self.anchor.reckon(self.counter.raw()) {
            Some(nanos) => nanos,
            None => self.look(),
        }
    }

    #[cold]
    fn look(&self) -> u64 {
        // Held for two readings of the clock, once a millisecond.
        let _looking = self.looking.lock();
        if let Some(nanos) = self.anchor.reckon(self.counter.raw()) {
            return nanos;
        }
        let (ticks, nanos) = self.pair();
        self.anchor.drop_at(ticks, nanos)
    }

    /// Both clocks at one moment: again where something came between.
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
    /// The time at this count; nothing where the anchor is too old, or being moved.
    #[inline]
    fn reckon(&self, ticks: u64) -> Option<u64> {
        let version = self.version.load(Ordering::Acquire);
        let since = ticks.wrapping_sub(self.ticks.load(Ordering::Relaxed));
        let (nanos, rate) = (self.nanos.load(Ordering::Relaxed), self.rate.load(Ordering::Relaxed));
        let span = self.span.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && version == self.version.load(Ordering::Relaxed);
        (whole && since < span).then(|| nanos + scaled(since, rate))
    }

    /// Drops anchor here, one thread at a time, and says what the time is.
    fn drop_at(&self, ticks: u64, nanos: u64) -> u64 {
        let version = self.version.load(Ordering::Relaxed);
        let since = ticks.wrapping_sub(self.ticks.load(Ordering::Relaxed));
        let (old, span) = (self.nanos.load(Ordering::Relaxed), self.span.load(Ordering::Relaxed));
        // The latest time that can have been returned: later readings are never earlier.
        let nanos = nanos.max(old + scaled(since.min(span), self.rate.load(Ordering::Relaxed)));
        let first = version == 0;
        if !first && span == 0 && nanos - old < LOOK_EVERY {
            // Too early to know the rate.
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

/// The rate that two looks show, a little slow, and for how many ticks it is good; zeros where they show none.
const fn rate(ticks: u64, nanos: u64) -> (u64, u64) {
    let exact = match ((nanos as u128) << 32).checked_div(ticks as u128) {
        // A tick is between a hundredth of a nanosecond and 64 of them.
        Some(exact) if exact >> 25 > 0 && exact >> 38 == 0 => exact as u64,
        _ => return (0, 0),
    };
    (exact - (exact >> SLOW), (LOOK_EVERY << 32) / exact)
}

/// That many ticks in nanoseconds.
#[inline]
const fn scaled(ticks: u64, rate: u64) -> u64 {
    ((ticks as u128 * rate as u128) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the counter's rate and however the looks are spaced and off: never far from the real clock, and
        /// never
        /// back.
        #[test]
        fn keeps_close_and_never_goes_back(
            per_tick in 0.1_f64..50.0,
            steps in prop::collection::vec((0_u64..2_000_000, 0_u64..40), 1..200),
        ) {
            let (anchor, mut nanos, mut latest, mut reckoned) = (Anchor::default(), 86_400_000_000_000_u64, 0, 0);
            for (step, late) in steps {
                nanos += step;
                let ticks = (nanos as f64 / per_tick) as u64;
                // A look reads the real clock a little after the counter.
                let told = anchor.reckon(ticks).inspect(|_| reckoned += 1).unwrap_or_else(|| anchor.drop_at(ticks, nanos + late));
                prop_assert!(told >= latest, "back by {}", latest - told);
                prop_assert!(told <= nanos + 200 && told + 600 >= nanos, "{told} at {nanos}");
                latest = told;
            }
        }
    }

    #[test]
    fn between_looks_the_time_is_reckoned() {
        let anchor = Anchor::default();
        assert_eq!((anchor.drop_at(3_000, 1_000), anchor.reckon(3_001)), (1_000, None));
        assert_eq!(anchor.drop_at(6_000, 2_000), 2_000, "too early to know the rate");
        anchor.drop_at(3_003_000, 1_001_000);
        let told = anchor.reckon(3_003_000 + 1_500_000).expect("half a millisecond later");
        assert!((1_500_700..=1_501_000).contains(&told), "{told}");
        assert_eq!(anchor.reckon(3_003_000 + 3_100_000), None, "a millisecond is over");
        assert_eq!(anchor.reckon(3_002_000), None, "another processor's counter is behind");
    }

    #[test]
    fn a_counter_that_stands_still_is_not_believed() {
        let anchor = Anchor::default();
        for n in 0..5 {
            assert_eq!(anchor.drop_at(7, n * LOOK_EVERY), n * LOOK_EVERY);
            assert_eq!(anchor.reckon(7), None);
        }
    }
}
