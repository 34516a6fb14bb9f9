//! Calendar arithmetic without a library: the proleptic Gregorian calendar, by H. Hinnant's
//! ["chrono-Compatible Low-Level Date Algorithms"](https://howardhinnant.github.io/date_algorithms.html).
//!
//! Days are numbered from 1970-01-01, seconds from its midnight in UTC.

/// Seconds per day.
pub(crate) const DAY: i64 = 86_400;

/// Returns the number of a day.
pub(crate) const fn day_number(year: i64, month: u8, day: u8) -> i64 {
    // Years begin in March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month as i64 + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day as i64 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Returns year, month and day of a day number.
pub(crate) const fn civil(day: i64) -> (i64, u8, u8) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let day_of_era = day.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month as u8, day as u8)
}

/// Returns the number of days in a month.
pub(crate) const fn days_in_month(year: i64, month: u8) -> u8 {
    match month {
        2 if year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the next month.
pub(crate) const fn next_month(year: i64, month: u8) -> (i64, u8) {
    if month == 12 { (year + 1, 1) } else { (year, month + 1) }
}

/// Returns the previous month.
pub(crate) const fn previous_month(year: i64, month: u8) -> (i64, u8) {
    if month == 1 { (year - 1, 12) } else { (year, month - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (year, month, day, number) in [
            (1970, 1, 1, 0),
            (1969, 12, 31, -1),
            (2000, 2, 29, 11_016),
            (2000, 3, 1, 11_017),
            (2024, 2, 29, 19_782),
            (2026, 1, 1, 20_454),
            (2038, 1, 19, 24_855),
            (1900, 3, 1, -25_508),
            (2100, 3, 1, 47_541),
            (1, 1, 1, -719_162),
        ] {
            assert_eq!(day_number(year, month, day), number, "{year}-{month}-{day}");
            assert_eq!(civil(number), (year, month, day));
        }
    }

    #[test]
    fn every_day_of_a_thousand_years_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1599, 12, 31);
        for number in day_number(1600, 1, 1)..=day_number(2600, 1, 1) {
            (year, month, day) = if day < days_in_month(year, month) {
                (year, month, day + 1)
            } else {
                let (year, month) = next_month(year, month);
                (year, month, 1)
            };
            assert_eq!((civil(number), day_number(year, month, day)), ((year, month, day), number));
            let (next_year, next) = next_month(year, month);
            assert_eq!(previous_month(next_year, next), (year, month));
        }
    }

    #[test]
    fn february_leaps_as_the_calendar_says() {
        for (year, days) in [(2023, 28), (2024, 29), (1900, 28), (2000, 29), (2100, 28)] {
            assert_eq!(days_in_month(year, 2), days, "{year}");
        }
    }
}
