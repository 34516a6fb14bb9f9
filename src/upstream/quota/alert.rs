//! [`Alerts`]: thresholds of a quota's use, each reported once per crossing.
//!
//! A threshold fires when spending reaches it, and again only after spending has fallen [`SLACK`] per cent below it
//! or a new window has begun.

use smallvec::SmallVec;

/// Hysteresis, in per cent of the limit.
const SLACK: u64 = 5;
/// Maximum number of thresholds.
pub(crate) const MAX_THRESHOLDS: usize = 8;

/// Bit set of the fired thresholds of one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alerts(u8);

impl Alerts {
    /// Returns the thresholds, in per cent, that are newly crossed.
    pub(super) fn crossed(&mut self, thresholds: &[u8], spent: u64, limit: u64) -> SmallVec<[u8; 2]> {
        let mut fired = SmallVec::new();
        // The common case: nothing has fired, and spending is far below.
        if self.0 == 0 && spent < limit / 100 * u64::from(thresholds.iter().copied().min().unwrap_or(100)) {
            return fired;
        }
        let spent = u128::from(spent) * 100;
        for (at, percent) in thresholds.iter().enumerate().take(MAX_THRESHOLDS) {
            let bit = 1 << at;
            if spent >= u128::from(limit) * u128::from(*percent) {
                if self.0 & bit == 0 {
                    fired.push(*percent);
                }
                self.0 |= bit;
            } else if spent < u128::from(limit) * u128::from(u64::from(*percent).saturating_sub(SLACK)) {
                self.0 &= !bit;
            }
        }
        fired
    }

    /// Starts a new window.
    pub(crate) const fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_crossing_fires_once_and_again_only_after_a_fall() {
        let mut alerts = Alerts::default();
        let mut at = |spent| alerts.crossed(&[80, 90], spent, 100).to_vec();
        for (spent, fired) in [
            (79, &[][..]),
            (80, &[80]),
            (81, &[]),
            (79, &[]),
            (80, &[]),
            (95, &[90]),
            (86, &[]),
            (90, &[]),
            (74, &[]),
            (91, &[80, 90]),
        ] {
            assert_eq!(at(spent), fired, "{spent}");
        }
        alerts.reset();
        assert_eq!(alerts.crossed(&[80, 90], 85, 100).to_vec(), [80]);
    }

    proptest! {
        /// Between two alerts of one threshold, spending was clearly below it.
        #[test]
        fn once_per_crossing(spent in prop::collection::vec(0_u64..130, 1..200), percent in 5_u8..=100) {
            let (mut alerts, mut armed) = (Alerts::default(), true);
            for spent in spent {
                let fired = !alerts.crossed(&[percent], spent, 100).is_empty();
                prop_assert_eq!(fired, armed && spent >= u64::from(percent));
                armed = !fired && armed || spent < u64::from(percent) - SLACK;
            }
        }
    }
}
