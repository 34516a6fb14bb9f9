//! [`Cron`]: a schedule of five fields, in UTC: minute, hour, day of the month, month, day of the week.
//!
//! Fields are `*`, numbers, ranges `1-5`, steps `*/15` or `10-40/10`, and lists of these; months and days of the week have
//! names too (`JAN`, `MON`), and Sunday is 0 or 7. If both the day of the month and that of the week are restricted, a day
//! matches if either does, as in crontab(5). A step makes a restriction of `*`: `*/2` restricts.

use crate::base::calendar::{DAY, civil, day_number, days_in_month, next_month};
use crate::base::error::Error;

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// Years until a date that exists at all comes again: 29 February skips 2100.
const LONGEST: i64 = 12;

/// Schedule of five fields. Each is a set of numbers, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the day of the month, and that of the week, is restricted.
    restricts: (bool, bool),
}

/// Range and names of a field.
struct Field {
    name: &'static str,
    first: u8,
    last: u8,
    names: &'static [&'static str],
}

impl Cron {
    /// Reads five fields.
    ///
    /// # Errors
    /// Names the field that is wrong. If no date matches, such as 30 February.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            let message = format!(
                "invalid schedule {text:?}: {} fields; use minute, hour, day of month, month and day of week, such as \"*/5 * * * *\"",
                fields.len()
            );
            return Err(Error::config(message));
        };
        let field = |name, first, last, names| Field { name, first, last, names };
        let weekdays = field("day of week", 0, 7, &DAYS).parse(weekday, text)?;
        let cron = Self {
            minutes: field("minute", 0, 59, &[]).parse(minute, text)?,
            hours: field("hour", 0, 23, &[]).parse(hour, text)?,
            days: field("day of month", 1, 31, &[]).parse(day, text)?,
            months: field("month", 1, 12, &MONTHS).parse(month, text)?,
            // Sunday is 0 and 7.
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            restricts: (day != "*", weekday != "*"),
        };
        match cron.next_after(0) {
            Some(_) => Ok(cron),
            None => Err(Error::config(format!("invalid schedule {text:?}: no date matches"))),
        }
    }

    /// Returns the next time after this second since 1970; `None` if there is none within twelve years.
    pub(crate) fn next_after(&self, second: i64) -> Option<i64> {
        let minute = second.div_euclid(60) + 1;
        let (mut day, minute_of_day) = (minute.div_euclid(1_440), minute.rem_euclid(1_440));
        if self.matches_day(day)
            && let Some(found) = self.in_day(minute_of_day)
        {
            return Some(day * DAY + found * 60);
        }
        let (last_year, _, _) = civil(day);
        loop {
            day += 1;
            let (year, month, _) = civil(day);
            if year > last_year + LONGEST {
                return None;
            }
            if self.months & (1 << month) == 0 {
                let (year, month) = next_month(year, month);
                // One before it, since the loop adds one.
                day = day_number(year, month, 1) - 1;
            } else if self.matches_day(day) {
                return self.in_day(0).map(|found| day * DAY + found * 60);
            }
        }
    }

    fn matches_day(&self, number: i64) -> bool {
        let (year, month, day) = civil(number);
        debug_assert!(day <= days_in_month(year, month));
        // 1970-01-01 was a Thursday.
        let weekday = (number + 4).rem_euclid(7);
        let (by_day, by_weekday) = (self.days & (1 << day) != 0, self.weekdays & (1 << weekday) != 0);
        self.months & (1 << month) != 0
            && match self.restricts {
                (true, true) => by_day || by_weekday,
                _ => by_day && by_weekday,
            }
    }

    /// Returns the first minute of a day from this one on.
    fn in_day(&self, from: i64) -> Option<i64> {
        (from..1_440).find(|minute| self.hours & (1 << (minute / 60)) != 0 && self.minutes & (1 << (minute % 60)) != 0)
    }
}

impl Field {
    fn parse(&self, field: &str, text: &str) -> Result<u64, Error> {
        let set = field.split(',').try_fold(0, |set, item| Some(set | self.item(item)?));
        set.ok_or_else(|| {
            let (name, first, last) = (self.name, self.first, self.last);
            Error::config(format!(
                "invalid schedule {text:?}: the {name} {field:?}; use *, numbers from {first} to {last}, ranges 1-5 and steps */15"
            ))
        })
    }

    fn item(&self, item: &str) -> Option<u64> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(Self::number(step).filter(|step| *step > 0)?)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.first, if self.names.len() == 7 { 6 } else { self.last }),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            // A step after one number goes on to the end.
            None => (self.value(range)?, if step.is_some() { self.last } else { self.value(range)? }),
        };
        if first > last {
            return None;
        }
        Some((first..=last).step_by(usize::from(step.unwrap_or(1))).fold(0, |set, number| set | 1 << number))
    }

    fn value(&self, text: &str) -> Option<u8> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let value = match named {
            Some(at) => u8::try_from(at).ok()? + u8::from(self.names.len() == 12),
            None => Self::number(text)?,
        };
        (self.first..=self.last).contains(&value).then_some(value)
    }

    fn number(text: &str) -> Option<u8> {
        let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01 00:00 UTC, a Thursday.
    const START: i64 = 1_767_225_600;

    fn next(text: &str, after: i64) -> i64 {
        Cron::parse(text).expect(text).next_after(after).expect("a time")
    }

    #[test]
    fn the_next_time_is_found() {
        for (text, minutes) in [
            ("* * * * *", 1),
            ("*/5 * * * *", 5),
            ("30 2 * * *", 150),
            ("0 0 * * FRI", 1_440),
            ("0 0 1 feb *", 31 * 1_440),
            ("0 12 15 * mon", 4 * 1_440 + 720),
            ("0 0 * * 7", 3 * 1_440),
            ("59 23 31 12 *", 525_599),
        ] {
            assert_eq!(next(text, START), START + minutes * 60, "{text}");
        }
        assert_eq!(next("0 0 29 2 *", START), day_number(2028, 2, 29) * DAY);
        assert_eq!(next("0 0 29 2 *", day_number(2096, 2, 29) * DAY), day_number(2104, 2, 29) * DAY);
    }

    /// Writes a field of these numbers at random.
    fn any_field(next: &mut impl FnMut(u64) -> u64, first: u64, last: u64) -> String {
        let mut number = |from: u64| from + next(last - from + 1);
        let item = |number: &mut dyn FnMut(u64) -> u64| match number(first) % 4 {
            0 => number(first).to_string(),
            1 => {
                let from = number(first);
                format!("{from}-{}", number(from))
            }
            2 => format!("*/{}", number(first.max(1))),
            _ => {
                let from = number(first);
                format!("{from}-{}/{}", number(from), number(first.max(1)))
            }
        };
        match number(first) % 3 {
            0 => "*".to_owned(),
            1 => item(&mut number),
            _ => format!("{},{}", item(&mut number), item(&mut number)),
        }
    }

    /// Ten years of random schedules, beside another library.
    #[test]
    fn the_times_are_those_of_croner() {
        use std::str::FromStr;
        let mut state = 7_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut compared = 0;
        for _ in 0..400 {
            let ranges = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
            let fields = ranges.map(|(first, last)| any_field(&mut next, first, last));
            let text = fields.join(" ");
            let theirs = croner::Cron::from_str(&text).expect("a schedule");
            let first = chrono::DateTime::from_timestamp(0, 0).expect("a time");
            let Ok(ours) = Cron::parse(&text) else {
                assert!(theirs.find_next_occurrence(&first, false).is_err(), "{text}");
                continue;
            };
            for _ in 0..20 {
                let after = START + i64::try_from(next(10 * 366 * 86_400)).expect("small");
                let time = chrono::DateTime::from_timestamp(after, 0).expect("a time");
                let expected = theirs.find_next_occurrence(&time, false).expect("a time").timestamp();
                assert_eq!(ours.next_after(after), Some(expected), "{text} after {time}");
                compared += 1;
            }
        }
        assert!(compared > 6_000, "{compared}");
    }

    #[test]
    fn wrong_fields_are_named() {
        for (text, named) in [
            ("* * * *", "4 fields"),
            ("60 * * * *", "the minute \"60\""),
            ("* 24 * * *", "the hour"),
            ("* * 0 * *", "the day of month"),
            ("* * * 13 *", "the month"),
            ("* * * * 8", "the day of week"),
            ("*/0 * * * *", "the minute"),
            ("5-1 * * * *", "the minute"),
            ("1,,2 * * * *", "the minute"),
            ("+1 * * * *", "the minute"),
            ("0 0 30 2 *", "no date matches"),
        ] {
            let error = Cron::parse(text).expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
