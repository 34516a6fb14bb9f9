//! [`Credits`]: a quota per window of the calendar.
//!
//! Pure: a calendar time goes in, its window comes out.

use std::fmt;
use std::time::Duration;

use crate::base::calendar::{DAY, civil, day_number, days_in_month, next_month, previous_month};
use crate::base::error::Error;

/// Quota of an upstream in credits per minute, hour, day or month.
///
/// Windows follow the calendar: a minute begins at its first second, a day at [`reset_hour`](Self::reset_hour), a
/// month on its [`reset_day`](Self::reset_day), in UTC or with a [`utc_offset`](Self::utc_offset).
///
/// ```
/// use tollgate::upstream::Credits;
///
/// // 60 000 a month, counted from the 15th, 9 o'clock in New York (UTC−5).
/// let plan = Credits::per_month(60_000).reset_day(15).reset_hour(9).utc_offset(-5 * 60);
/// assert_eq!(plan.limit(), 60_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credits {
    limit: u64,
    period: Period,
    reset_day: u8,
    reset_hour: u8,
    /// In minutes.
    offset: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Period {
    Minute,
    Hour,
    Day,
    Month,
}

/// Window of the calendar, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowSpan {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

impl WindowSpan {
    pub(crate) const fn length(self) -> Duration {
        Duration::from_secs(self.end.saturating_sub(self.start).unsigned_abs())
    }
}

impl Credits {
    /// Creates a quota of `limit` credits per minute.
    ///
    /// ```
    /// use tollgate::upstream::Credits;
    ///
    /// assert_eq!(Credits::per_minute(100).window(), "minute");
    /// ```
    #[must_use]
    pub const fn per_minute(limit: u64) -> Self {
        Self::per(limit, Period::Minute)
    }

    /// Creates a quota of `limit` credits per hour.
    ///
    /// ```
    /// use tollgate::upstream::Credits;
    ///
    /// assert_eq!(Credits::per_hour(5_000).limit(), 5_000);
    /// ```
    #[must_use]
    pub const fn per_hour(limit: u64) -> Self {
        Self::per(limit, Period::Hour)
    }

    /// Creates a quota of `limit` credits per day.
    ///
    /// ```
    /// use tollgate::upstream::Credits;
    ///
    /// let quota = Credits::per_day(10_000).reset_hour(6);
    /// assert_eq!(quota.window(), "day");
    /// ```
    #[must_use]
    pub const fn per_day(limit: u64) -> Self {
        Self::per(limit, Period::Day)
    }

    /// Creates a quota of `limit` credits per month.
    ///
    /// ```
    /// use tollgate::upstream::Credits;
    ///
    /// let quota = Credits::per_month(60_000).reset_day(15);
    /// assert_eq!(quota.window(), "month");
    /// ```
    #[must_use]
    pub const fn per_month(limit: u64) -> Self {
        Self::per(limit, Period::Month)
    }

    const fn per(limit: u64, period: Period) -> Self {
        Self { limit, period, reset_day: 1, reset_hour: 0, offset: 0 }
    }

    /// Sets the day on which a month begins, 1 to 31; the last day in shorter months. Defaults to 1.
    #[must_use]
    pub const fn reset_day(mut self, day: u8) -> Self {
        self.reset_day = day;
        self
    }

    /// Sets the hour at which a day or month begins, 0 to 23. Defaults to 0.
    #[must_use]
    pub const fn reset_hour(mut self, hour: u8) -> Self {
        self.reset_hour = hour;
        self
    }

    /// Sets the offset of days and months from UTC in minutes, negative to the west. Defaults to 0.
    ///
    /// ```
    /// use tollgate::upstream::Credits;
    ///
    /// let new_york = Credits::per_day(1_000).utc_offset(-5 * 60);
    /// # let _ = new_york;
    /// ```
    #[must_use]
    pub const fn utc_offset(mut self, minutes: i32) -> Self {
        self.offset = minutes;
        self
    }

    /// Returns the credits of one window.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the name of the window: `minute`, `hour`, `day` or `month`.
    #[must_use]
    pub const fn window(&self) -> &'static str {
        match self.period {
            Period::Minute => "minute",
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Month => "month",
        }
    }

    pub(crate) fn check(self) -> Result<Self, Error> {
        let refused = |what: String| Err(Error::config(format!("credits {self}: {what}")));
        match self {
            Self { limit: 0, .. } => refused("the limit must be at least 1".to_owned()),
            Self { reset_day: 0 | 32.., .. } => refused(format!("reset_day {} is not within 1 and 31", self.reset_day)),
            Self { reset_hour: 24.., .. } => refused(format!("reset_hour {} is not within 0 and 23", self.reset_hour)),
            Self { offset, .. } if offset.abs() > 14 * 60 => {
                refused(format!("no clock is {offset} minutes ahead of UTC; 840 at most"))
            }
            _ => Ok(self),
        }
    }

    /// Returns the window that contains this second.
    pub(crate) fn span(&self, unix: i64) -> WindowSpan {
        let fixed = |length: i64, shift: i64| {
            let start = (unix + shift).div_euclid(length) * length - shift;
            WindowSpan { start, end: start + length }
        };
        match self.period {
            Period::Minute => fixed(60, 0),
            Period::Hour => fixed(3_600, 0),
            Period::Day => fixed(DAY, self.shift()),
            Period::Month => self.month(unix),
        }
    }

    fn month(&self, unix: i64) -> WindowSpan {
        let (year, month, day) = civil((unix + self.shift()).div_euclid(DAY));
        let (year, month) = if day >= self.day_in(year, month) { (year, month) } else { previous_month(year, month) };
        let (next_year, next) = next_month(year, month);
        WindowSpan { start: self.reset(year, month), end: self.reset(next_year, next) }
    }

    /// Returns the start of the window that begins in this month.
    fn reset(&self, year: i64, month: u8) -> i64 {
        day_number(year, month, self.day_in(year, month)) * DAY - self.shift()
    }

    fn day_in(&self, year: i64, month: u8) -> u8 {
        self.reset_day.min(days_in_month(year, month))
    }

    /// Returns the shift after which windows begin at midnight UTC.
    const fn shift(&self) -> i64 {
        self.offset as i64 * 60 - self.reset_hour as i64 * 3_600
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per {}", self.limit, self.window())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(year: i64, month: u8, day: u8, hour: i64) -> i64 {
        day_number(year, month, day) * DAY + hour * 3_600
    }

    #[test]
    fn months_begin_on_their_reset_day_or_their_last() {
        let plan = Credits::per_month(1).reset_day(31);
        for (at, start, end) in [
            (unix(2026, 1, 31, 0), unix(2026, 1, 31, 0), unix(2026, 2, 28, 0)),
            (unix(2026, 2, 27, 23), unix(2026, 1, 31, 0), unix(2026, 2, 28, 0)),
            (unix(2026, 2, 28, 0), unix(2026, 2, 28, 0), unix(2026, 3, 31, 0)),
            (unix(2024, 2, 28, 23), unix(2024, 1, 31, 0), unix(2024, 2, 29, 0)),
            (unix(2026, 4, 30, 12), unix(2026, 4, 30, 0), unix(2026, 5, 31, 0)),
            (unix(2026, 12, 31, 0), unix(2026, 12, 31, 0), unix(2027, 1, 31, 0)),
            (unix(2027, 1, 30, 23), unix(2026, 12, 31, 0), unix(2027, 1, 31, 0)),
        ] {
            assert_eq!(plan.span(at), WindowSpan { start, end }, "{at}");
        }
    }

    #[test]
    fn days_and_months_begin_by_the_clock_they_are_told() {
        let tokyo = Credits::per_day(1).reset_hour(9).utc_offset(9 * 60);
        assert_eq!(tokyo.span(unix(2026, 5, 4, 3)).start, unix(2026, 5, 4, 0));
        let new_york = Credits::per_month(1).reset_day(15).reset_hour(9).utc_offset(-5 * 60);
        let span = new_york.span(unix(2026, 5, 15, 13));
        assert_eq!((span.start, span.end), (unix(2026, 4, 15, 14), unix(2026, 5, 15, 14)));
        assert_eq!(new_york.span(unix(2026, 5, 15, 14)).start, unix(2026, 5, 15, 14));
        assert_eq!(Credits::per_minute(1).span(-1), WindowSpan { start: -60, end: 0 });
        assert_eq!(Credits::per_hour(1).span(7_199), WindowSpan { start: 3_600, end: 7_200 });
    }

    #[test]
    fn impossible_windows_are_refused_by_name() {
        let refusal = |credits: Credits| credits.check().expect_err("impossible").to_string();
        assert!(refusal(Credits::per_day(0)).contains("0 per day"));
        assert!(refusal(Credits::per_month(1).reset_day(32)).contains("reset_day 32"));
        assert!(refusal(Credits::per_month(1).reset_hour(24)).contains("reset_hour 24"));
        assert!(refusal(Credits::per_month(1).utc_offset(841)).contains("841"));
    }

    proptest::proptest! {
        /// Windows follow one another without a gap, and contain the requested time.
        #[test]
        fn every_moment_has_one_window(
            unix in -60_000_000_000_i64..60_000_000_000, day in 1_u8..=31, hour in 0_u8..24, offset in -840_i32..=840,
        ) {
            for credits in [Credits::per_minute(1), Credits::per_hour(1), Credits::per_day(1), Credits::per_month(1)] {
                let credits = credits.reset_day(day).reset_hour(hour).utc_offset(offset);
                let span = credits.span(unix);
                proptest::prop_assert!(span.start <= unix && unix < span.end);
                proptest::prop_assert_eq!(credits.span(span.end).start, span.end);
                proptest::prop_assert_eq!(credits.span(span.start - 1).end, span.start);
                proptest::prop_assert_eq!(credits.span(span.end - 1), span);
            }
        }
    }
}
