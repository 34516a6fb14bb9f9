//! Books credits in a store before they are spent, so that a crash only counts too much.
//!
//! | situation | action |
//! |---|---|
//! | booked credits are left | they are spent without a call of the store |
//! | half of them are spent | the next block is booked in the background |
//! | none are left | the call waits for the booking, within the store's deadline |
//! | the store does not answer | credits are spent *unbooked*, and booked with the next successful booking, or within about a second of the store's return |
//! | a window ends | its unspent bookings and unbooked credits become void |
//!
//! Unbooked credits are one number per window, so that an outage of any length takes no memory.

use std::time::Duration;

use smallvec::SmallVec;

use super::Account;
use crate::base::clock::Timestamp;
use crate::upstream::quota::balance::Balance;
use crate::upstream::quota::meter::Calendar;

/// Pause after a failed booking.
const AWAY: Duration = Duration::from_secs(1);

/// Booking request for one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BookingRequest {
    /// Window: its index, its first second and its last.
    pub(crate) at: usize,
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Credits to book; negative to return them.
    pub(crate) credits: i64,
}

impl Account {
    /// Returns whether this call must wait for a booking.
    pub(crate) fn must_book(&self, cost: u64, now: Timestamp) -> bool {
        self.config.booked
            && now >= self.store_away_until
            && self.calendars.iter().any(|calendar| !calendar.is_booked(cost))
    }

    /// Returns whether the next block is due.
    pub(crate) fn runs_low(&self, now: Timestamp) -> bool {
        let half = (self.block.size() / 2).max(1);
        self.must_book(half, now)
    }

    /// Returns the bookings for calls like this one and those expected soon.
    pub(crate) fn next_block(&mut self, cost: u64, now: Timestamp) -> SmallVec<[BookingRequest; 2]> {
        let left = self.calendars.iter().map(|calendar| calendar.limit().saturating_sub(calendar.spent())).min();
        let block = self.block.next(cost, left.unwrap_or(0), now);
        let bookings = self.calendars.iter().enumerate().map(|(at, calendar)| {
            let credits = calendar.shortfall(block).cast_signed();
            BookingRequest { at, start: calendar.span.start, end: calendar.span.end, credits }
        });
        bookings.collect()
    }

    /// Returns the debt to be booked.
    pub(crate) fn to_settle(&self) -> SmallVec<[BookingRequest; 2]> {
        self.bookings(|calendar| calendar.unbooked().cast_signed())
    }

    /// Returns unspent bookings, to be released.
    pub(crate) fn to_return(&self) -> SmallVec<[BookingRequest; 2]> {
        self.bookings(|calendar| -calendar.unspent().cast_signed())
    }

    /// Returns bookings of nothing, which tell the balances.
    pub(crate) fn to_compare(&self) -> SmallVec<[BookingRequest; 2]> {
        self.requests(|_| 0).collect()
    }

    fn bookings(&self, credits: impl Fn(&Calendar) -> i64) -> SmallVec<[BookingRequest; 2]> {
        self.requests(credits).filter(|bookings| bookings.credits != 0).collect()
    }

    fn requests(&self, credits: impl Fn(&Calendar) -> i64) -> impl Iterator<Item = BookingRequest> {
        self.calendars.iter().enumerate().map(move |(at, calendar)| BookingRequest {
            at,
            start: calendar.span.start,
            end: calendar.span.end,
            credits: credits(calendar),
        })
    }

    /// Records a successful booking and the resulting balances.
    pub(crate) fn booked(&mut self, bookings: &[BookingRequest], balances: &[Balance]) {
        for (bookings, balance) in bookings.iter().zip(balances) {
            let calendar = &mut self.calendars[bookings.at];
            // The credits of a window that ended meanwhile are void.
            if calendar.span.start == bookings.start {
                calendar.booked(bookings.credits, *balance);
            }
        }
        self.store_away_until = Timestamp::ZERO;
    }

    /// Records a failed booking.
    pub(crate) fn not_booked(&mut self, now: Timestamp) {
        self.store_away_until = now + AWAY;
    }

    /// Returns whether the store failed recently.
    pub(crate) fn is_store_away(&self, now: Timestamp) -> bool {
        now < self.store_away_until
    }

    /// Returns credits spent here and not booked.
    pub(crate) fn unbooked(&self) -> u64 {
        self.calendars.iter().map(Calendar::unbooked).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
