//! Parses the many formats in which upstreams report when a quota resets.
//!
//! | format | meaning | used by |
//! |---|---|---|
//! | `30`, `1.5` | seconds from now | the IETF's fields, `Retry-After`, Discord, Stripe |
//! | `1767225600` | Unix time in seconds, from 10⁹ | GitHub, Twitter |
//! | `1767225600123` | Unix time in milliseconds, from 10¹²; microseconds from 10¹⁵, nanoseconds from 10¹⁸ | several |
//! | `6m0s`, `120ms`, `1h2m3.5s`, `30 seconds` | duration | OpenAI |
//! | `2026-01-01T00:00:00Z`, `2026-01-01 00:00:00 +0000` | point in time | Anthropic |
//! | `Thu, 01 Jan 2026 00:00:00 GMT` | point in time | `Retry-After` |
//!
//! A delay of 10⁹ seconds would be 31 years: larger numbers are points in time. Past times count as now. Times further
//! away than [`FURTHEST`] are implausible: they are read as if they were absent.

use std::time::{Duration, SystemTime};

use crate::base::calendar::{DAY, day_number, days_in_month};

/// Longest accepted delay: 32 days.
const FURTHEST: Duration = Duration::from_secs(32 * 86_400);

/// Returns the delay until the time given in `text`, at Unix time `unix` by the sender's clock.
pub(super) fn until(text: &[u8], unix: f64) -> Option<Duration> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let seconds = number(text)
        .map(|n| match n {
            n if n >= 1e18 => n / 1e9 - unix,
            n if n >= 1e15 => n / 1e6 - unix,
            n if n >= 1e12 => n / 1e3 - unix,
            n if n >= 1e9 => n - unix,
            n => n,
        })
        .or_else(|| span(text))
        .or_else(|| Some(parse_date(text)? - unix))?;
    plausible(seconds)
}

/// Converts seconds to a duration; `None` beyond [`FURTHEST`].
pub(super) fn plausible(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds.max(0.0)).ok().filter(|span| *span <= FURTHEST)
}

/// Converts seconds to a duration between zero and [`FURTHEST`].
pub(super) fn clamped(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(FURTHEST).min(FURTHEST)
}

/// Parses digits, with or without a fraction.
fn number(text: &str) -> Option<f64> {
    // The common case: up to fifteen digits, which a float represents exactly.
    if (1..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(text.bytes().fold(0_u64, |n, b| n * 10 + u64::from(b - b'0')) as f64);
    }
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    (digits(whole) && digits(fraction)).then(|| text.parse().ok()).flatten()
}

/// Parses numbers with units, in any order.
fn span(text: &str) -> Option<f64> {
    let (mut rest, mut total) = (text, None);
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let n = number(&rest[..unit_at])?;
        let after = &rest[unit_at..];
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let unit = match after[..unit_end].trim() {
            "d" | "day" | "days" => 86_400.0,
            "h" | "hour" | "hours" => 3_600.0,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "s" | "sec" | "second" | "seconds" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = Some(total.unwrap_or(0.0) + n * unit);
        rest = &after[unit_end..];
    }
    total
}

/// Parses an HTTP date (RFC 9110 §5.6.7) or a timestamp (RFC 3339) as Unix time.
fn parse_date(text: &str) -> Option<f64> {
    // RFC 5322 writes another zone than RFC 9110.
    let utc = || ["+0000", "-0000", "UTC"].iter().find_map(|zone| date(&format!("{}GMT", text.strip_suffix(zone)?)));
    date(text).or_else(|| timestamp(text)).or_else(utc)
}

/// Parses an HTTP date as Unix time.
pub(super) fn date(text: &str) -> Option<f64> {
    if let Some(date) = fixed(text.as_bytes()) {
        return Some(date);
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()))
}

/// Parses the current HTTP date format, from 1970: `Thu, 01 Jan 2026 00:00:00 GMT`. The day of the week is ignored.
fn fixed(text: &[u8]) -> Option<f64> {
    const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let text: &[u8; 29] = text.try_into().ok()?;
    let digits = |from: usize, to: usize| {
        text[from..to].iter().try_fold(0_i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
    };
    let month = MONTHS.chunks_exact(3).position(|month| *month == text[8..11])? + 1;
    let (day, year) = (digits(5, 7)?, digits(12, 16)?);
    let (hour, minute, second) = (digits(17, 19)?, digits(20, 22)?, digits(23, 25)?);
    let (day, month) = (u8::try_from(day).ok()?, u8::try_from(month).ok()?);
    let formed = text[3] == b',' && text[19] == b':' && text[22] == b':' && text[25..] == *b" GMT";
    let possible = year >= 1970 && (1..=days_in_month(year, month)).contains(&day);
    (formed && possible && hour < 24 && minute < 60 && second <= 60)
        .then(|| (day_number(year, month, day) * DAY + hour * 3_600 + minute * 60 + second) as f64)
}

/// Parses RFC 3339 §5.6 and ISO 8601's other zones, including a space instead of the `T` and before the zone.
fn timestamp(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let digits = |from: usize, to: usize| -> Option<i64> {
        let part = bytes.get(from..to)?;
        part.iter().try_fold(0_i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
    };
    let stands = |at: usize, set: &[u8]| bytes.get(at).is_some_and(|b| set.contains(b));
    let formed = stands(4, b"-") && stands(7, b"-") && stands(10, b"Tt ") && stands(13, b":") && stands(16, b":");
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    let (month, day) = (u8::try_from(month).ok()?, u8::try_from(day).ok()?);
    let possible = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
    if !(formed && possible && hour < 24 && minute < 60 && second <= 60) {
        return None;
    }
    let rest = text.get(19..)?;
    let zone_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let fraction = if zone_at == 0 { 0.0 } else { number(&format!("0{}", &rest[..zone_at]))? };
    let seconds = day_number(year, month, day) * DAY + hour * 3_600 + minute * 60 + second;
    Some(seconds as f64 + fraction - zone(&rest[zone_at..])?)
}

/// Parses a time zone as seconds ahead of UTC.
fn zone(text: &str) -> Option<f64> {
    let text = text.trim_start_matches(' ');
    if matches!(text, "" | "Z" | "z" | "UTC" | "GMT") {
        return Some(0.0);
    }
    let digits = text.strip_prefix(['+', '-'])?;
    let (hours, minutes) = match digits.len() {
        2 => (digits, "0"),
        4 => digits.split_at_checked(2)?,
        _ => digits.split_once(':')?,
    };
    let seconds = number(hours)?.mul_add(3_600.0, number(minutes)? * 60.0);
    Some(if text.starts_with('-') { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01T00:00:00Z.
    const NEW_YEAR: f64 = 1_767_225_600.0;

    #[test]
    fn all_formats_are_parsed() {
        for (text, seconds) in [
            ("0", 0.0),
            ("30", 30.0),
            ("1.5", 1.5),
            (" 30 ", 30.0),
            ("1767225660", 60.0),
            ("1767225660.25", 60.25),
            ("1767225660500", 60.5),
            ("1767225000", 0.0),
            ("6m0s", 360.0),
            ("1h2m3.5s", 3_723.5),
            ("120ms", 0.12),
            ("1s", 1.0),
            ("2d", 172_800.0),
            ("30 seconds", 30.0),
            ("1 hour 2 minutes", 3_720.0),
            ("1767225660500000", 60.5),
            ("1767225660500000000", 60.5),
            ("2026-01-01 00:20:00 +0000", 1_200.0),
            ("2026-01-01 00:20:00 UTC", 1_200.0),
            ("2026-01-01 01:20:00.5 +0100", 1_200.5),
            ("2026-01-01T01:20:00+01", 1_200.0),
            ("Thu, 01 Jan 2026 00:01:00 +0000", 60.0),
            ("2764800", 32.0 * 86_400.0),
            ("2026-01-01T00:01:00Z", 60.0),
            ("2026-01-01T00:01:00.500Z", 60.5),
            ("2026-01-01 01:01:00+01:00", 60.0),
            ("2025-12-31T23:01:00-01:00", 60.0),
            ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
            ("Thu, 01 Jan 1970 00:01:00 GMT", 0.0),
        ] {
            let read = until(text.as_bytes(), NEW_YEAR).unwrap_or_else(|| unreachable!("{text}")).as_secs_f64();
            assert!((read - seconds).abs() < 1e-3, "{text}: {read}");
        }
    }

    #[test]
    fn dates_agree_with_the_library() {
        for days in 0..60_000_u64 {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400 + days % 86_400);
            let text = httpdate::fmt_http_date(at);
            assert_eq!(fixed(text.as_bytes()), Some((days * 86_400 + days % 86_400) as f64), "{text}");
        }
        assert_eq!(date("Thursday, 01-Jan-26 00:01:00 GMT"), Some(NEW_YEAR + 60.0));
        assert_eq!((date("Thu, 31 Feb 2026 00:00:00 GMT"), date("Thu, 01 Jan 2026 24:00:00 GMT")), (None, None));
    }

    #[test]
    fn text_without_a_time_is_none() {
        for text in [
            "",
            "-1",
            "soon",
            "1x",
            "1.",
            ".5",
            "1e9",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "5m s",
            "NaN",
            "inf",
            "2764801",
            "999999999",
            "99999999999999999999999999",
            "2026-01-01 00:20:00 +0000x",
            "2027-01-01T00:00:00Z",
        ] {
            assert_eq!(until(text.as_bytes(), NEW_YEAR), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)) {
            let _ = until(&text, NEW_YEAR);
        }

        #[test]
        fn malformed_times_do_not_panic(text in "[0-9]{0,4}[-:T0-9.hms+Z ]{0,30}") {
            proptest::prop_assert!(until(text.as_bytes(), NEW_YEAR).is_none_or(|span| span <= FURTHEST));
        }
    }
}
