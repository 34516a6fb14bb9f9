//! Booking credits in a store before they are spent, so that a crash can only have counted too much.
//!
//! | | what happens |
//! |---|---|
//! | credits booked here are left | they are spent; nobody is asked |
//! | half of them is spent | the next block is booked meanwhile |
//! | none is left | the call waits for the booking, as long as the store may take |
//! | the store does not answer | credits are spent and *owed*: what is owed is booked with the first block it takes again |
//! | a window ends | what was booked in it and not spent is void, as is what is owed |
//!
//! What is owed is one number per window: nothing queues up, however long the store is away.

use std::time::Duration;

use smallvec::SmallVec;

use super::Account;
use crate::base::clock::Timestamp;
use crate::upstream::quota::balance::Balance;
use crate::upstream::quota::meter::Calendar;

/// A store that did not answer is asked again after this.
const AWAY: Duration = Duration::from_secs(1);

/// Booking request for one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BookingRequest {
    /// Which window it is: its place, its first second and its last.
    pub(crate) at: usize,
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Fewer than none are given back.
    pub(crate) credits: i64,
}

impl Account {
    /// Whether this call must wait for a booking.
    pub(crate) fn must_book(&self, cost: u64, now: Timestamp) -> bool {
        self.terms.booked
            && now >= self.store_away_until
            && self.calendars.iter().any(|calendar| !calendar.is_booked(cost))
    }

    /// Whether it is time to book the next block.
    pub(crate) fn runs_low(&self, now: Timestamp) -> bool {
        let half = (self.block.size() / 2).max(1);
        self.must_book(half, now)
    }

    /// Returns the bookings for calls like this one and those expected soon.
    pub(crate) fn next_block(&mut self, cost: u64, now: Timestamp) -> SmallVec<[BookingRequest; 2]> {
        let left = self.calendars.iter().map(|calendar| calendar.limit().saturating_sub(calendar.spent())).min();
        let block = self.block.next(cost, left.unwrap_or(0), now);
        let owing = self.calendars.iter().enumerate().map(|(at, calendar)| {
            let credits = calendar.lacks(block).cast_signed();
            BookingRequest { at, start: calendar.span.start, end: calendar.span.end, credits }
        });
        owing.collect()
    }

    /// Returns the debt to be booked.
    pub(crate) fn to_settle(&self) -> SmallVec<[BookingRequest; 2]> {
        self.owing(|calendar| calendar.owed().cast_signed())
    }

    /// Returns unspent bookings, to be released.
    pub(crate) fn to_return(&self) -> SmallVec<[BookingRequest; 2]> {
        self.owing(|calendar| -calendar.unspent().cast_signed())
    }

    fn owing(&self, credits: impl Fn(&Calendar) -> i64) -> SmallVec<[BookingRequest; 2]> {
        let all = self.calendars.iter().enumerate().map(|(at, calendar)| BookingRequest {
            at,
            start: calendar.span.start,
            end: calendar.span.end,
            credits: credits(calendar),
        });
        all.filter(|owing| owing.credits != 0).collect()
    }

    /// The store answered: this is booked in each of these windows by now.
    pub(crate) fn booked(&mut self, owing: &[BookingRequest], balances: &[Balance]) {
        for (owing, balance) in owing.iter().zip(balances) {
            let calendar = &mut self.calendars[owing.at];
            // A window that ended meanwhile takes its credits along.
            if calendar.span.start == owing.start {
                calendar.booked(owing.credits, *balance);
            }
        }
        self.store_away_until = Timestamp::ZERO;
    }

    /// The store did not answer.
    pub(crate) fn not_booked(&mut self, now: Timestamp) {
        self.store_away_until = now + AWAY;
    }

    /// Whether the store did not answer of late.
    pub(crate) fn is_store_away(&self, now: Timestamp) -> bool {
        now < self.store_away_until
    }

    /// Credits spent here that no store knows of.
    pub(crate) fn owed(&self) -> u64 {
        self.calendars.iter().map(Calendar::owed).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
