//! [`Schedule`]: the times at which a job is due. Times are in milliseconds since 1970.

use std::time::Duration;

use super::cron::Cron;
use super::missed::Missed;

/// Times that are made up for at most.
const MAX_MISSED: usize = 100;
/// Lateness from which a time counts as missed.
pub(crate) const LATE: u64 = 60_000;

/// Schedule of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// At the multiples of an interval since 1970, the same on all nodes.
    Every(Duration),
    /// At the times of five fields.
    Cron(Cron),
    /// Only on demand.
    OnDemand,
}

impl Schedule {
    /// Returns the next time after this one.
    pub(crate) fn next_after(&self, at: u64) -> Option<u64> {
        match self {
            Self::Every(interval) => {
                let interval = u64::try_from(interval.as_millis()).ok().filter(|interval| *interval > 0)?;
                (at / interval + 1).checked_mul(interval)
            }
            Self::Cron(cron) => {
                let next = cron.next_after(i64::try_from(at / 1_000).ok()?)?;
                u64::try_from(next).ok()?.checked_mul(1_000)
            }
            Self::OnDemand => None,
        }
    }

    /// Returns the times for which the job is to run now: those after the last one that was dealt with, by the policy for
    /// missed ones. Bounded, in their order.
    pub(crate) fn due(&self, last: u64, now: u64, missed: Missed) -> Vec<u64> {
        let mut due = std::collections::VecDeque::new();
        // Long ago there is nothing to list: it starts where the last hundred may be.
        let mut at = match self {
            Self::Every(interval) => {
                let span =
                    u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).saturating_mul(MAX_MISSED as u64 + 1);
                last.max(now.saturating_sub(span))
            }
            _ => last.max(now.saturating_sub(366 * 86_400_000)),
        };
        while let Some(next) = self.next_after(at).filter(|next| *next <= now) {
            if due.len() == MAX_MISSED {
                due.pop_front();
            }
            due.push_back(next);
            at = next;
        }
        let Some(newest) = due.back().copied() else { return Vec::new() };
        match missed {
            Missed::All => due.into(),
            Missed::Once => vec![newest],
            Missed::Skip if now - newest <= LATE => vec![newest],
            Missed::Skip => Vec::new(),
        }
    }
}

/// Returns how much later than its time a run begins: the same on all nodes, and spread over the jitter.
pub(crate) fn jitter(job: &str, slot: u64, most: Duration) -> Duration {
    if most.is_zero() {
        return Duration::ZERO;
    }
    let hash = crc32fast::hash(format!("{job} {slot}").as_bytes());
    most.mul_f64(f64::from(hash) / (f64::from(u32::MAX) + 1.0))
}

/// Returns the pause before an attempt: a second before the second one, then twice as long each time, at most five minutes.
pub(crate) fn backoff(attempt: u32) -> Duration {
    Duration::from_secs(1 << attempt.saturating_sub(2).min(9)).min(Duration::from_secs(300))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    #[test]
    fn what_was_missed_is_skipped_or_made_up_for() {
        let every = Schedule::Every(Duration::from_secs(300));
        let (last, now) = (100 * MINUTE, 112 * MINUTE);
        assert_eq!(every.due(last, now, Missed::Skip), [0_u64; 0], "the last one is two minutes late");
        assert_eq!(every.due(last, 110 * MINUTE + 1, Missed::Skip), [110 * MINUTE]);
        assert_eq!(every.due(last, now, Missed::Once), [110 * MINUTE]);
        assert_eq!(every.due(last, now, Missed::All), [105 * MINUTE, 110 * MINUTE]);
        assert_eq!(every.due(0, 1_000_000_000 * MINUTE, Missed::All).len(), MAX_MISSED);
        assert_eq!(every.due(now, last, Missed::All), [0_u64; 0], "a clock that was set back");
        let nightly = Schedule::Cron(Cron::parse("0 3 * * *").expect("a schedule"));
        assert_eq!(nightly.due(0, 10 * 1_440 * MINUTE, Missed::Once), [(9 * 1_440 + 180) * MINUTE]);
        assert_eq!(Schedule::OnDemand.due(0, now, Missed::All), [0_u64; 0]);
    }

    #[test]
    fn jitter_is_bounded_spread_and_the_same_everywhere() {
        let most = Duration::from_secs(60);
        let all: Vec<_> = (0..1_000).map(|slot| jitter("coins", slot, most)).collect();
        assert!(all.iter().all(|jitter| *jitter < most));
        let early = all.iter().filter(|jitter| **jitter < most / 2).count();
        assert!((400..600).contains(&early), "{early}");
        assert_eq!(jitter("coins", 7, most), all[7]);
        assert_eq!(jitter("coins", 7, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn the_pause_doubles_up_to_five_minutes() {
        let pauses = [2, 3, 4, 9, 10, 11, 12, 1_000].map(|attempt| backoff(attempt).as_secs());
        assert_eq!(pauses, [1, 2, 4, 128, 256, 300, 300, 300]);
    }
}
