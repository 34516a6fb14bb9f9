//! Age and freshness lifetime of a response: RFC 9111 §4.2.
//!
//! Both are computed once, when a response is stored; a hit compares two numbers.
//!
//! ```text
//! requested   received       fresh_until   +stale-while-revalidate   +stale-if-error     retain_until
//!     |-----------|---------------|---------------|------------------------|----------------|
//!                  fresh: serve     stale: serve    stale: serve only if     retain only for
//!                                   and revalidate  the inner service fails  revalidation
//! ```
//!
//! The lifetime is the first of these that is present: a targeted field, `s-maxage`, `max-age`, `Expires`, the handler
//! or the route's rule, and (profile `shared`) a tenth of the time since `Last-Modified`.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode, header};

use super::directives::{ResponseDirectives, delta_seconds};
use super::settings::Profile;
use crate::base::clock::Timestamp;

/// Upper bound of a heuristic lifetime: one day.
const MAX_HEURISTIC: Duration = Duration::from_secs(86_400);

/// Times of a request and of its response head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExchangeTimes {
    pub(crate) requested_at: Timestamp,
    pub(crate) received_at: Timestamp,
    /// Calendar time at `received_at`.
    pub(crate) wall: SystemTime,
}

/// Freshness lifetime, counted from the generation of the response at the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// Explicit lifetime.
    Explicit(Duration),
    /// Heuristic lifetime (§4.2.2).
    Heuristic(Duration),
    /// Neither an explicit lifetime nor a basis for a heuristic one.
    Unknown,
}

/// Parses a field that holds one valid date: IMF-fixdate, RFC 850 or asctime (RFC 9110 §5.6.7).
pub(super) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let text = line.to_str().ok()?;
    httpdate_of(text)
}

/// Parses an HTTP date as RFC 9111 §4.2 asks of a cache: letters match case-insensitively. A weekday that belongs to
/// another date is ignored, since the rest names the moment.
fn httpdate_of(text: &str) -> Option<SystemTime> {
    let (day, rest) = text.split_once(' ')?;
    // The parser reads by position, so the length of each form is checked first.
    let ends_in_gmt = text.len() > 4 && text.as_bytes()[text.len() - 4..].eq_ignore_ascii_case(b" GMT");
    let (exact, days) = match day {
        day if day.ends_with(',') && day.len() == 4 => (text.len() == 29 && ends_in_gmt, &SHORT_DAYS),
        day if day.ends_with(',') => (ends_in_gmt, &LONG_DAYS),
        _ => (text.len() == 24, &SHORT_DAYS),
    };
    if !exact {
        return None;
    }
    if let Ok(date) = httpdate::parse_http_date(text) {
        return Some(date);
    }
    let (name, comma) = day.strip_suffix(',').map_or((day, ""), |name| (name, ","));
    if !days.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return None;
    }
    let rest = canonical_case(rest);
    days.iter().find_map(|day| httpdate::parse_http_date(&format!("{day}{comma} {rest}")).ok())
}

const SHORT_DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const LONG_DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Writes the month as `Jan` and the zone as `GMT`.
fn canonical_case(rest: &str) -> String {
    let mut starts_word = true;
    let month = rest.chars().map(|letter| {
        let cased = if starts_word { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
        starts_word = !letter.is_ascii_alphabetic();
        cased
    });
    month.collect::<String>().replace(" Gmt", " GMT")
}

/// §4.2.3: age of the response when its head arrived.
///
/// Zero in profile `app` without an `Age` field: the inner service is the origin, and the time a handler takes does not
/// count as age.
pub(super) fn initial_age(headers: &HeaderMap, exchange_times: &ExchangeTimes, profile: Profile) -> Duration {
    let age_value = age(headers);
    if profile == Profile::App && age_value.is_none() {
        return Duration::ZERO;
    }
    // "apparent_age = max(0, response_time - date_value)"
    let apparent = date(headers, &header::DATE).and_then(|date| exchange_times.wall.duration_since(date).ok());
    // "response_delay = response_time - request_time; corrected_age_value = age_value + response_delay"
    let corrected =
        age_value.unwrap_or_default().saturating_add(exchange_times.received_at.since(exchange_times.requested_at));
    // Dates have a resolution of one second: a smaller difference is rounding.
    let apparent = Duration::from_secs(apparent.unwrap_or_default().as_secs());
    apparent.max(corrected)
}

/// §5.1: the first member of the first line; ignored if it is not a number.
fn age(headers: &HeaderMap) -> Option<Duration> {
    let first = headers.get(header::AGE)?.as_bytes().split(|b| *b == b',').next()?;
    delta_seconds(first.trim_ascii())
}

/// §4.2.1: freshness lifetime. `assigned` is the lifetime set by the handler or rule, used where the response sets
/// none.
pub(super) fn lifetime(
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    targeted: bool,
    assigned: Option<Duration>,
    exchange_times: &ExchangeTimes,
) -> Lifetime {
    // "If the cache is shared and the s-maxage response directive is present, use its value", then max-age.
    if let Some(span) = directives.s_maxage.or(directives.max_age) {
        return Lifetime::Explicit(span);
    }
    // RFC 9213 §2.2: a targeted field that is used makes the cache ignore Cache-Control and Expires.
    if !targeted && headers.contains_key(header::EXPIRES) {
        // §5.3: "A cache recipient MUST interpret invalid date formats, especially the value "0", as representing a
        // time in the past". Two lines are as invalid as none that parses.
        let Some(expires) = date(headers, &header::EXPIRES) else { return Lifetime::Explicit(Duration::ZERO) };
        let born = date(headers, &header::DATE).unwrap_or(exchange_times.wall);
        return Lifetime::Explicit(expires.duration_since(born).unwrap_or_default());
    }
    assigned.map_or(Lifetime::Unknown, Lifetime::Explicit)
}

/// §4.2.2: a tenth of the time since the last modification, for statuses that are heuristically cacheable.
pub(super) fn heuristic(
    headers: &HeaderMap,
    status: StatusCode,
    public: bool,
    exchange_times: &ExchangeTimes,
) -> Lifetime {
    if !public && !is_heuristically_cacheable(status) {
        return Lifetime::Unknown;
    }
    let born = date(headers, &header::DATE).unwrap_or(exchange_times.wall);
    match date(headers, &header::LAST_MODIFIED).and_then(|modified| born.duration_since(modified).ok()) {
        Some(since) => Lifetime::Heuristic((since / 10).min(MAX_HEURISTIC)),
        None => Lifetime::Unknown,
    }
}

/// RFC 9110 §15.1: statuses "defined as heuristically cacheable" (206 apart, which is stored as partial).
pub(super) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        map
    }

    fn exchange_times() -> ExchangeTimes {
        let wall = httpdate::parse_http_date("Thu, 01 Jan 2026 00:01:00 GMT").expect("a date");
        let requested_at = Timestamp::from_nanos(1_000_000_000);
        ExchangeTimes { requested_at, received_at: requested_at + Duration::from_secs(2), wall }
    }

    fn lifetime_of(fields: &[(&'static str, &str)]) -> Lifetime {
        let headers = headers(fields);
        lifetime(&headers, &ResponseDirectives::of(&headers), false, None, &exchange_times())
    }

    const fn secs(n: u64) -> Lifetime {
        Lifetime::Explicit(Duration::from_secs(n))
    }

    #[test]
    fn s_maxage_then_max_age_then_expires() {
        let date = ("date", "Thu, 01 Jan 2026 00:00:00 GMT");
        let expires = ("expires", "Thu, 01 Jan 2026 00:00:30 GMT");
        assert_eq!(lifetime_of(&[("cache-control", "max-age=1, s-maxage=2"), expires]), secs(2));
        assert_eq!(lifetime_of(&[("cache-control", "max-age=1"), expires]), secs(1));
        assert_eq!(lifetime_of(&[date, expires]), secs(30));
        assert_eq!(lifetime_of(&[expires]), secs(0), "without Date the time of arrival counts");
        assert_eq!(lifetime_of(&[]), Lifetime::Unknown);
    }

    #[test]
    fn an_invalid_expires_is_in_the_past() {
        for bad in [
            "0",
            "-1",
            "",
            "Thu, 01 Jan 2036 00:00:00",
            "Thu, 01 Jan 2036 00:00:00 UTC",
            "Thu, 01 Jan 2036 00:00:00 +0000",
            "Thu, 01 Jan 2036 0:00:00 GMT",
            "Thu 01 Jan 2036 00:00:00 GMT",
            "Thu, 01-Jan-2036 00:00:00 GMT",
            "Thu, 1 Jan 2036 00:00:00 GMT",
            "Thu, 01 Jan 2036 00.00.00 GMT",
            "Thu, 01 Jan 2036 00:00:00 GMT, x",
            "Tux, 01 Jan 2036 00:00:00 GMT",
            "Tuesday, 01 Jan 2036 00:00:00 GMT",
            "Tue, 32 Jan 2036 00:00:00 GMT",
        ] {
            assert_eq!(lifetime_of(&[("expires", bad)]), secs(0), "{bad}");
        }
        let good = "Tue, 01 Jan 2036 00:01:00 GMT";
        assert_eq!(lifetime_of(&[("expires", good), ("expires", good)]), secs(0), "two lines");
        let ten_years = secs(315_532_800);
        for good in [
            good,
            "Tuesday, 01-Jan-36 00:01:00 GMT",
            "Tue Jan  1 00:01:00 2036",
            "tue, 01 jan 2036 00:01:00 gmt",
            "TUESDAY, 01-JAN-36 00:01:00 GMT",
            "tue jan  1 00:01:00 2036",
            "Fri, 01 Jan 2036 00:01:00 GMT",
            "Thursday, 01-Jan-36 00:01:00 GMT",
            "Mon Jan  1 00:01:00 2036",
        ] {
            assert_eq!(lifetime_of(&[("expires", good)]), ten_years, "{good}");
        }
    }

    #[test]
    fn age_takes_the_larger_of_date_and_age() {
        let shared = |fields: &[(&'static str, &str)]| {
            initial_age(&headers(fields), &exchange_times(), Profile::Shared).as_secs()
        };
        assert_eq!(shared(&[]), 2, "the delay alone");
        assert_eq!(shared(&[("age", "10")]), 12);
        assert_eq!(shared(&[("date", "Thu, 01 Jan 2026 00:00:00 GMT"), ("age", "10")]), 60);
        assert_eq!(shared(&[("date", "Thu, 01 Jan 2026 01:00:00 GMT")]), 2, "a clock ahead is no negative age");
        for (line, expected) in
            [("7, 9", 9), ("x", 2), ("-7", 2), ("7.5", 2), ("\"7\"", 2), ("99999999999", 2_147_483_650)]
        {
            assert_eq!(shared(&[("age", line)]), expected, "{line}");
        }
        assert_eq!(shared(&[("age", "7"), ("age", "1000")]), 9);
        assert_eq!(initial_age(&headers(&[]), &exchange_times(), Profile::App), Duration::ZERO);
        assert_eq!(initial_age(&headers(&[("age", "10")]), &exchange_times(), Profile::App).as_secs(), 12);
    }

    #[test]
    fn heuristic_is_a_tenth_and_at_most_a_day() {
        let heuristic_at =
            |modified, status| heuristic(&headers(&[("last-modified", modified)]), status, false, &exchange_times());
        assert_eq!(
            heuristic_at("Wed, 31 Dec 2025 23:51:00 GMT", StatusCode::OK),
            Lifetime::Heuristic(Duration::from_secs(60))
        );
        assert_eq!(
            heuristic_at("Wed, 31 Dec 2005 23:51:00 GMT", StatusCode::OK),
            Lifetime::Heuristic(MAX_HEURISTIC),
            "a wrong weekday"
        );
        assert_eq!(heuristic_at("Sat, 31 Dec 2005 23:51:00 GMT", StatusCode::OK), Lifetime::Heuristic(MAX_HEURISTIC));
        assert_eq!(heuristic_at("Wed, 31 Dec 2025 23:51:00 GMT", StatusCode::CREATED), Lifetime::Unknown);
    }
}
