//! [`Timeline`]: totals by minute for a day, and what happened when.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use super::totals::Totals;
use crate::base::clock::Timestamp;
use crate::base::json_units::millis;

const MINUTE: u64 = 60_000_000_000;
/// Minutes that are kept.
const MAX_POINTS: usize = 1_440;
/// Happenings that are kept.
const MAX_MARKS: usize = 64;
/// Maximum length of a mark's text in bytes.
const MAX_TEXT: usize = 200;

/// Hits and misses.
pub(crate) type HitCounts = (u64, u64);

/// Counts of one minute.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Point {
    /// Number of the minute since the clock's origin.
    #[serde(skip)]
    minute: u64,
    #[serde(flatten)]
    pub(crate) counts: Totals,
    /// Hits and misses of each name with a target.
    #[serde(skip)]
    targeted: Vec<HitCounts>,
    /// 95th percentile of the time to the response head within the last minute.
    #[serde(rename = "p95_ms", serialize_with = "millis")]
    pub(crate) p95: Duration,
}

/// Something that happened: a start, an outage, an override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Mark {
    #[serde(skip)]
    pub(crate) at: Timestamp,
    /// Kind: `start`, `outage`, `recovery`, `override`, `slo`, `quota`, `action`.
    pub(crate) kind: &'static str,
    pub(crate) text: String,
}

/// Timeline of a gate, for at most a day.
#[derive(Debug)]
pub(crate) struct Timeline {
    started: Timestamp,
    last: Totals,
    last_targeted: Vec<HitCounts>,
    points: VecDeque<Point>,
    marks: VecDeque<Mark>,
}

impl Timeline {
    pub(crate) fn new(now: Timestamp) -> Self {
        let (points, marks) = (VecDeque::new(), VecDeque::new());
        let mut timeline = Self { started: now, last: Totals::default(), last_targeted: Vec::new(), points, marks };
        timeline.mark(now, "start", "this process started");
        timeline
    }

    /// Adds the growth of the totals, and of the names with a target, to the current minute.
    pub(crate) fn add(&mut self, now: Timestamp, totals: Totals, targeted: Vec<HitCounts>, p95: Duration) {
        let minute = now.as_nanos() / MINUTE;
        if self.points.back().is_none_or(|point| point.minute < minute) {
            self.points.push_back(Point { minute, ..Point::default() });
        }
        let grown = totals.since(&self.last);
        if let Some(point) = self.points.back_mut() {
            point.counts = point.counts.plus(&grown);
            point.p95 = p95;
            point.targeted.resize(targeted.len(), (0, 0));
            for (at, (sum, now)) in point.targeted.iter_mut().zip(&targeted).enumerate() {
                let before = self.last_targeted.get(at).copied().unwrap_or_default();
                *sum = (sum.0 + now.0.saturating_sub(before.0), sum.1 + now.1.saturating_sub(before.1));
            }
        }
        (self.last, self.last_targeted) = (totals, targeted);
        let oldest = minute.saturating_sub(MAX_POINTS as u64 - 1);
        while self.points.front().is_some_and(|point| point.minute < oldest) {
            self.points.pop_front();
        }
    }

    /// Notes that something happened.
    pub(crate) fn mark(&mut self, at: Timestamp, kind: &'static str, text: &str) {
        if self.marks.len() == MAX_MARKS {
            self.marks.pop_front();
        }
        let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
        let cut = ends.take_while(|end| *end <= MAX_TEXT).last().unwrap_or(0);
        self.marks.push_back(Mark { at, kind, text: text[..cut].to_owned() });
    }

    /// Returns the counts of the current minute and of the `minutes` before it.
    pub(crate) fn window(&self, now: Timestamp, minutes: u64) -> Totals {
        self.since(now, minutes).fold(Totals::default(), |sum, point| sum.plus(&point.counts))
    }

    /// Returns the same of one name with a target, by its place.
    pub(crate) fn targeted(&self, now: Timestamp, minutes: u64, at: usize) -> HitCounts {
        let counts = self.since(now, minutes).filter_map(|point| point.targeted.get(at));
        counts.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1))
    }

    fn since(&self, now: Timestamp, minutes: u64) -> impl Iterator<Item = &Point> {
        let from = (now.as_nanos() / MINUTE).saturating_sub(minutes);
        self.points.iter().rev().take_while(move |point| point.minute >= from)
    }

    /// Returns the last `minutes` minutes, oldest first, empty ones included.
    #[cfg(any(feature = "admin", test))]
    pub(crate) fn points(&self, now: Timestamp, minutes: u64) -> Vec<Point> {
        let last = now.as_nanos() / MINUTE;
        let mut known = self.points.iter().rev().peekable();
        let mut points: Vec<Point> = (0..minutes)
            .map(|ago| {
                let minute = last.saturating_sub(ago);
                known.next_if(|point| point.minute == minute).cloned().unwrap_or(Point { minute, ..Point::default() })
            })
            .collect();
        points.reverse();
        points
    }

    /// Returns what happened, newest first.
    #[cfg(any(feature = "admin", test))]
    pub(crate) fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.marks.iter().rev()
    }

    /// Time for which the timeline has counted.
    pub(crate) fn age(&self, now: Timestamp) -> Duration {
        now.since(self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);

    fn totals(requests: u64) -> Totals {
        Totals { requests, ..Totals::default() }
    }

    fn at(seconds: u64) -> Timestamp {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn windows_sum_the_minutes_they_reach_into() {
        let mut timeline = Timeline::new(START);
        for (second, requests) in [(0, 10), (59, 15), (60, 20), (300, 50), (420, 51)] {
            timeline.add(at(second), totals(requests), vec![(requests, 1)], Duration::ZERO);
        }
        assert_eq!(timeline.window(at(420), 0).requests, 1);
        assert_eq!(timeline.window(at(420), 2).requests, 31);
        assert_eq!(timeline.window(at(420), 60).requests, 51);
        assert_eq!((timeline.targeted(at(420), 2, 0), timeline.targeted(at(420), 60, 0)), ((31, 0), (51, 1)));
        assert_eq!(timeline.targeted(at(420), 60, 1), (0, 0));
        let counts: Vec<u64> = timeline.points(at(420), 8).iter().map(|point| point.counts.requests).collect();
        assert_eq!(counts, [15, 5, 0, 0, 0, 30, 0, 1]);
    }

    #[test]
    fn a_day_is_kept_and_no_more_and_counters_that_were_reset_count_nothing() {
        let mut timeline = Timeline::new(START);
        for minute in 0..3_000 {
            timeline.add(at(60 * minute), totals(minute + 1), Vec::new(), Duration::ZERO);
        }
        assert_eq!((timeline.points.len(), timeline.window(at(60 * 2_999), 2_000).requests), (1_440, 1_440));
        timeline.add(at(60 * 3_000), totals(0), Vec::new(), Duration::ZERO);
        assert_eq!(timeline.window(at(60 * 3_000), 0).requests, 0);
        timeline.add(at(60 * 3_000), totals(3), Vec::new(), Duration::ZERO);
        assert_eq!(timeline.window(at(60 * 3_000), 0).requests, 3);
    }

    #[test]
    fn the_last_marks_are_kept_and_long_texts_are_cut() {
        let mut timeline = Timeline::new(START);
        for n in 0..100 {
            timeline.mark(at(n), "action", &format!("{n} {}", "ü".repeat(300)));
        }
        assert_eq!(timeline.marks().count(), MAX_MARKS);
        let newest = timeline.marks().next().expect("a mark");
        assert!(newest.text.starts_with("99 ü") && newest.text.len() <= MAX_TEXT, "{newest:?}");
    }
}
