//! [`InFlight`]: cost that was sent and may still be counted by the upstream.
//!
//! An upstream counts a call before it answers it. A reported *used* therefore includes everything that was answered
//! before that call was sent; everything else sent by now may or may not be included:
//!
//! > counted by now ≤ *used* + sent by now − answered before that call was sent − that call
//!
//! [`unreported`](InFlight::unreported) is what has to be added to the report, from two totals, for any number of overlapping
//! calls and any order of responses. A call that ended without a response (error, cancelled) may still be on its way:
//! it counts as answered only after [`LOST`](InFlight) has passed, one to two minutes later.

use std::time::Duration;

use crate::base::clock::Timestamp;

/// Maximum time in which a request can still reach the upstream.
const LOST: Duration = Duration::from_secs(60);

/// Running totals of cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InFlight {
    sent: u64,
    answered: u64,
    /// Cost that ended without a response since `since`, and in the minute before.
    doubtful: [u64; 2],
    since: Timestamp,
}

impl InFlight {
    /// Records a sent call, and returns the cost answered before: the call's mark.
    pub(super) const fn send(&mut self, cost: u64) -> u64 {
        self.sent += cost;
        self.answered
    }

    /// Records a response.
    pub(super) const fn answer(&mut self, cost: u64) {
        self.answered += cost;
    }

    /// Records a response to a free call.
    pub(super) const fn refund(&mut self, cost: u64) {
        self.sent -= cost;
    }

    /// Records the end of a call without a response.
    pub(super) fn forget(&mut self, cost: u64, now: Timestamp) {
        self.age(now);
        self.doubtful[0] += cost;
    }

    /// Removes calls that ended long ago without a response.
    pub(crate) fn age(&mut self, now: Timestamp) {
        let minutes = now.since(self.since).as_secs() / LOST.as_secs();
        if minutes == 0 {
            return;
        }
        let [new, old] = self.doubtful;
        self.answered += old;
        self.doubtful = if minutes == 1 { [0, new] } else { [0, 0] };
        if minutes > 1 {
            self.answered += new;
        }
        self.since = now;
    }

    /// Returns the cost that may be counted beyond the report in the response to a call with this mark and cost.
    pub(super) const fn unreported(&self, mark: u64, cost: u64) -> u64 {
        (self.sent - mark).saturating_sub(cost)
    }

    /// Cost that the upstream may still count: in flight, or ended without a response.
    pub(super) const fn in_flight_credits(&self) -> u64 {
        self.sent - self.answered
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn overlapping_calls_are_unseen_and_earlier_answered_ones_are_not() {
        let mut flow = InFlight::default();
        let first = flow.send(1);
        flow.answer(1);
        assert_eq!((flow.unreported(first, 1), flow.in_flight_credits()), (0, 0));
        let (second, third) = (flow.send(2), flow.send(3));
        assert_eq!((flow.unreported(second, 2), flow.unreported(third, 3)), (3, 2));
        flow.answer(2);
        assert_eq!(flow.unreported(third, 3), 2, "answered after the third was sent: its number may lack the second");
        let fourth = flow.send(5);
        assert_eq!(flow.unreported(fourth, 5), 3);
    }

    #[test]
    fn a_lost_call_may_be_counted_for_a_minute_or_two() {
        let start = Timestamp::ZERO + Duration::from_secs(86_400);
        let mut flow = InFlight { since: start, ..InFlight::default() };
        flow.send(4);
        flow.forget(4, start);
        for (seconds, left) in [(59, 4), (60, 4), (119, 4), (120, 0)] {
            flow.age(start + Duration::from_secs(seconds));
            assert_eq!(flow.in_flight_credits(), left, "{seconds} s");
        }
    }

    proptest! {
        /// Model of a server that counts each call between sending and response: the report plus the unreported cost is
        /// never less than what it has counted by then.
        #[test]
        fn reported_and_unseen_cost_cover_the_count(
            steps in prop::collection::vec((0_u8..4, any::<prop::sample::Index>(), 1_u64..5), 1..200),
        ) {
            let (mut flow, mut counted, now) = (InFlight::default(), 0_u64, Timestamp::ZERO);
            // Cost, mark, and the report made when the server counted it.
            let mut calls: Vec<(u64, u64, Option<u64>)> = Vec::new();
            for (kind, which, cost) in steps {
                let at = if calls.is_empty() { None } else { Some(which.index(calls.len())) };
                match (kind, at) {
                    (0, _) | (_, None) => calls.push((cost, flow.send(cost), None)),
                    (1, Some(at)) if calls[at].2.is_none() => {
                        counted += calls[at].0;
                        calls[at].2 = Some(counted);
                    }
                    (2, Some(at)) if calls[at].2.is_some() => {
                        let (cost, mark, observed) = calls.swap_remove(at);
                        let bound = observed.unwrap_or_default() + flow.unreported(mark, cost);
                        prop_assert!(bound >= counted, "{bound} < {counted}");
                        flow.answer(cost);
                    }
                    (3, Some(at)) if calls[at].2.is_none() => {
                        let (cost, ..) = calls.swap_remove(at);
                        flow.forget(cost, now);
                        // It is counted nevertheless.
                        counted += cost;
                    }
                    _ => {}
                }
            }
        }
    }
}
