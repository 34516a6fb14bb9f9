//! Adapts the number of credits booked at a time.
//!
//! A block that lasts a second costs a command per second; the block of a crashed node is lost. Therefore a block
//! spent within a second doubles the next, one that lasted longer than ten seconds halves it, and none is larger than
//! a sixteenth of what is left.

use std::time::Duration;

use crate::base::clock::Timestamp;

const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(10);
const LARGEST: u64 = 4_096;

/// Size of the next block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReservationSize {
    size: u64,
    booked: Option<Timestamp>,
}

impl ReservationSize {
    pub(crate) const fn new() -> Self {
        Self { size: 1, booked: None }
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Returns the credits to book, for `left` remaining credits and a call that needs `cost`.
    pub(super) fn next(&mut self, cost: u64, left: u64, now: Timestamp) -> u64 {
        let lasted = self.booked.map(|booked| now.since(booked));
        self.size = match lasted {
            Some(lasted) if lasted < SHORT => (self.size * 2).min(LARGEST),
            Some(lasted) if lasted > LONG => (self.size / 2).max(1),
            _ => self.size,
        };
        self.booked = Some(now);
        self.size.min(left / 16).max(cost).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_the_rate_and_leave_enough_for_others() {
        let (mut block, mut now) = (ReservationSize::new(), Timestamp::ZERO);
        let mut next = |after: u64, cost: u64, left: u64| {
            now = now + Duration::from_millis(after);
            block.next(cost, left, now)
        };
        assert_eq!([next(0, 1, 1 << 20), next(10, 1, 1 << 20), next(10, 1, 1 << 20)], [1, 2, 4]);
        assert_eq!([next(5_000, 1, 1 << 20), next(11_000, 1, 1 << 20), next(11_000, 1, 1 << 20)], [4, 2, 1]);
        for _ in 0..20 {
            next(1, 1, 1 << 20);
        }
        assert_eq!([next(1, 1, 1 << 20), next(1, 1, 640), next(1, 1, 3), next(1, 7, 3)], [4_096, 40, 1, 7]);
    }
}
