//! [`InFlight`]: what was sent, what was answered, and what may still be counted by the upstream.
//!
//! An upstream that answers has counted the call before it answers. So when it says *used*, everything that was
//! answered
//! before that call was sent is in *used*; everything else that was sent by now may or may not be:
//!
//! > counted by now ≤ *used* + sent by now − answered before that call was sent − that call
//!
//! That is what [`unseen`](InFlight::unseen) adds to what is told, in two numbers, however many calls overlap and in
//! whatever
//! order their answers come. A call that ended without an answer (an error, a client that left) may still be on its
//! way:
//! it counts as answered only after [`LOST`](InFlight) has passed, one to two minutes later.

use std::time::Duration;

use crate::base::clock::Timestamp;

/// A request that has not reached the upstream by then never does.
const LOST: Duration = Duration::from_secs(60);

/// Running totals of cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InFlight {
    sent: u64,
    answered: u64,
    /// Ended without an answer since `since`, and in the minute before that.
    doubtful: [u64; 2],
    since: Timestamp,
}

impl InFlight {
    /// Sends a call of this cost, and says how much had been answered before: the call's mark.
    pub(crate) const fn send(&mut self, cost: u64) -> u64 {
        self.sent += cost;
        self.answered
    }

    /// Records a response.
    pub(crate) const fn answer(&mut self, cost: u64) {
        self.answered += cost;
    }

    /// A call was answered, and cost nothing.
    pub(crate) const fn forgive(&mut self, cost: u64) {
        self.sent -= cost;
    }

    /// Records the end of a call without a response.
    pub(crate) fn lose(&mut self, cost: u64, now: Timestamp) {
        self.age(now);
        self.doubtful[0] += cost;
    }

    /// Forgets calls that ended long ago without a response.
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

    /// What may be counted beyond what the answer to a call with this mark and cost tells of.
    pub(crate) const fn unseen(&self, mark: u64, cost: u64) -> u64 {
        (self.sent - mark).saturating_sub(cost)
    }

    /// Cost that the upstream may still count: in flight, or ended without a response.
    pub(crate) const fn under_way(&self) -> u64 {
        self.sent - self.answered
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_overlaps_is_unseen_and_what_was_answered_before_is_not() {
        let mut flow = InFlight::default();
        let first = flow.send(1);
        flow.answer(1);
        assert_eq!((flow.unseen(first, 1), flow.under_way()), (0, 0));
        let (second, third) = (flow.send(2), flow.send(3));
        assert_eq!((flow.unseen(second, 2), flow.unseen(third, 3)), (3, 2));
        flow.answer(2);
        assert_eq!(flow.unseen(third, 3), 2, "answered after the third was sent: its number may lack the second");
        let fourth = flow.send(5);
        assert_eq!(flow.unseen(fourth, 5), 3);
    }

    #[test]
    fn a_lost_call_may_be_counted_for_a_minute_or_two() {
        let start = Timestamp::ZERO + Duration::from_secs(86_400);
        let mut flow = InFlight { since: start, ..InFlight::default() };
        flow.send(4);
        flow.lose(4, start);
        for (seconds, left) in [(59, 4), (60, 4), (119, 4), (120, 0)] {
            flow.age(start + Duration::from_secs(seconds));
            assert_eq!(flow.under_way(), left, "{seconds} s");
        }
    }

    proptest! {
        /// A server that counts each call at some time between its being sent and its being answered: what it tells,
        /// plus
        /// what is unseen, is never less than what it has counted by then.
        #[test]
        fn what_is_told_and_what_is_unseen_cover_what_was_counted(
            steps in prop::collection::vec((0_u8..4, any::<prop::sample::Index>(), 1_u64..5), 1..200),
        ) {
            let (mut flow, mut counted, now) = (InFlight::default(), 0_u64, Timestamp::ZERO);
            // Cost, mark, what the server said when it counted.
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
                        let (cost, mark, told) = calls.swap_remove(at);
                        let bound = told.unwrap_or_default() + flow.unseen(mark, cost);
                        prop_assert!(bound >= counted, "{bound} < {counted}");
                        flow.answer(cost);
                    }
                    (3, Some(at)) if calls[at].2.is_none() => {
                        let (cost, ..) = calls.swap_remove(at);
                        flow.lose(cost, now);
                        // It is counted all the same.
                        counted += cost;
                    }
                    _ => {}
                }
            }
        }
    }
}
