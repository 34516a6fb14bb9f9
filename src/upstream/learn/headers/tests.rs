use std::time::Duration;

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::upstream::learn::observed_limits::ObservedLimit;

/// 2026-01-01T00:00:00Z.
const NEW_YEAR: f64 = 1_767_225_600.0;

fn observed(status: u16, fields: &[(&str, &str)]) -> ObservedLimits {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.parse().expect("a name");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    learn(StatusCode::from_u16(status).expect("a status"), &headers, NEW_YEAR)
}

/// Converts to rows.
fn limits(observed: &ObservedLimits) -> Vec<Row<'_>> {
    let one = |limit: &'_ ObservedLimit| (limit.limit, limit.remaining, limit.resets_in.map(|span| span.as_secs_f64()));
    observed.limits.iter().map(|limit| (std::str::from_utf8(&limit.name).expect("text"), one(limit))).collect()
}

/// A name, its limit, what remains, and seconds until the reset.
type Row<'a> = (&'a str, (Option<u64>, Option<u64>, Option<f64>));

/// Vendor, response fields, expected limits.
type Vendor = (&'static str, &'static [(&'static str, &'static str)], &'static [Row<'static>]);

const fn all(limit: u64, remaining: u64, seconds: f64) -> (Option<u64>, Option<u64>, Option<f64>) {
    (Some(limit), Some(remaining), Some(seconds))
}

const VENDORS: &[Vendor] = &[
    (
        "GitHub",
        &[
            ("x-ratelimit-limit", "5000"),
            ("x-ratelimit-remaining", "4987"),
            ("x-ratelimit-reset", "1767227400"),
            ("x-ratelimit-used", "13"),
            ("x-ratelimit-resource", "core"),
        ],
        &[("core", all(5_000, 4_987, 1_800.0))],
    ),
    (
        "Twitter",
        &[("x-rate-limit-limit", "900"), ("x-rate-limit-remaining", "899"), ("x-rate-limit-reset", "1767226500")],
        &[("", all(900, 899, 900.0))],
    ),
    (
        "Stripe-like, a delay",
        &[("x-ratelimit-limit", "100"), ("x-ratelimit-remaining", "99"), ("x-ratelimit-reset", "1")],
        &[("", all(100, 99, 1.0))],
    ),
    (
        "OpenAI",
        &[
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-limit-tokens", "150000"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ],
        &[("requests", all(60, 59, 1.0)), ("tokens", all(150_000, 149_984, 360.0))],
    ),
    (
        "Anthropic",
        &[
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "2026-01-01T00:00:30Z"),
            ("anthropic-ratelimit-input-tokens-limit", "1000"),
            ("anthropic-ratelimit-input-tokens-remaining", "7"),
        ],
        &[("requests", all(50, 49, 30.0)), ("input-tokens", (Some(1_000), Some(7), None))],
    ),
    (
        "Discord",
        &[
            ("x-ratelimit-limit", "5"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset-after", "1.5"),
            ("x-ratelimit-bucket", "abcd1234"),
        ],
        &[("abcd1234", all(5, 0, 1.5))],
    ),
    (
        "Kong",
        &[("x-ratelimit-limit-minute", "10"), ("x-ratelimit-remaining-minute", "4")],
        &[("minute", (Some(10), Some(4), None))],
    ),
    (
        "several statements of one limit",
        &[
            ("x-ratelimit-limit", "1000"),
            ("x-ratelimit-limit", "100"),
            ("x-ratelimit-remaining", "7"),
            ("x-ratelimit-remaining", "90"),
            ("x-ratelimit-reset", "30"),
            ("x-ratelimit-reset", "5"),
            ("ratelimit", "limit=200, remaining=9, reset=31"),
        ],
        &[("", all(100, 7, 31.0))],
    ),
    (
        "a name twice",
        &[("ratelimit", "\"a\";r=9;t=5, \"a\";r=2;t=1"), ("ratelimit", "\"a\";r=4;t=6")],
        &[("a", (None, Some(2), Some(6.0)))],
    ),
    (
        "a cache's answer",
        &[("age", "30"), ("x-ratelimit-limit", "10"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "60")],
        &[],
    ),
    (
        "an age that is none",
        &[("age", "-1"), ("x-ratelimit-limit", "10"), ("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", "60")],
        &[("", all(10, 3, 60.0))],
    ),
    (
        "a reset in nanoseconds",
        &[("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", "1767225660000000000")],
        &[("", (None, Some(3), Some(60.0)))],
    ),
    (
        "draft 03, with its policy behind the number",
        &[("ratelimit-limit", "100, 100;w=60"), ("ratelimit-remaining", "50"), ("ratelimit-reset", "30")],
        &[("", all(100, 50, 30.0))],
    ),
    ("draft 07", &[("ratelimit", "limit=100, remaining=50, reset=30")], &[("", all(100, 50, 30.0))]),
    (
        "draft 11",
        &[
            ("ratelimit-policy", "\"burst\";q=100;w=60,\"daily\";q=1000;w=86400"),
            ("ratelimit", "\"burst\";r=50;t=30,\"daily\";r=900;t=3600"),
        ],
        &[("burst", all(100, 50, 30.0)), ("daily", all(1_000, 900, 3_600.0))],
    ),
    (
        "only what is used",
        &[("x-ratelimit-limit", "10"), ("x-ratelimit-used", "4")],
        &[("", (Some(10), Some(6), None))],
    ),
    (
        "a clock of its own",
        &[
            ("date", "Wed, 31 Dec 2025 23:50:00 GMT"),
            ("x-ratelimit-remaining", "1"),
            ("x-ratelimit-reset", "1767225060"),
        ],
        &[("", (None, Some(1), Some(60.0)))],
    ),
    ("nothing", &[("content-type", "text/plain"), ("x-ratelimit-reset", "5"), ("x-real-ip", "1")], &[]),
];

#[test]
fn every_vendor_is_understood() {
    for (vendor, fields, expected) in VENDORS {
        let observed = observed(200, fields);
        assert_eq!(limits(&observed), *expected, "{vendor}");
    }
    let policy = observed(200, &[("ratelimit-policy", "\"a\";q=5;w=60"), ("ratelimit", "\"a\";r=2")]);
    assert_eq!(policy.limits[0].window, Some(Duration::from_secs(60)));
}

#[test]
fn windows_are_read_where_they_are_stated() {
    for (fields, seconds) in [
        (&[("x-ratelimit-limit", "100;w=21600"), ("x-ratelimit-remaining", "4")][..], Some(21_600)),
        (&[("ratelimit-limit", "100, 100;w=60, 1000;w=3600"), ("ratelimit-remaining", "4")], Some(60)),
        (&[("x-ratelimit-limit-minute", "100"), ("x-ratelimit-remaining-minute", "4")], Some(60)),
        (&[("x-ratelimit-limit-requests-day", "100"), ("x-ratelimit-remaining-requests-day", "4")], Some(86_400)),
        (&[("x-ratelimit-limit", "100"), ("x-ratelimit-remaining", "4")], None),
        (&[("x-ratelimit-limit", "100;w=x"), ("x-ratelimit-remaining", "4")], None),
    ] {
        assert_eq!(observed(200, fields).limits[0].window, seconds.map(Duration::from_secs), "{fields:?}");
    }
}

#[test]
fn refusals_are_told_from_other_failures() {
    let used_up = ("x-ratelimit-remaining", "0");
    for (status, fields, refused, unavailable, wait) in [
        (200, &[("retry-after", "5")][..], false, false, None),
        (200, &[used_up], false, false, None),
        (403, &[], false, false, None),
        (403, &[used_up], true, false, None),
        (403, &[("retry-after", "60")], true, false, Some(60)),
        (429, &[], true, false, None),
        (429, &[("retry-after", "Thu, 01 Jan 2026 00:00:07 GMT")], true, false, Some(7)),
        (429, &[("retry-after", "soon")], true, false, None),
        (503, &[("retry-after", "120")], false, true, Some(120)),
        (503, &[], false, true, None),
        (500, &[("retry-after", "1")], false, false, None),
        (429, &[("retry-after", "5"), ("retry-after", "30")], true, false, Some(30)),
        (429, &[("retry-after", "120"), ("age", "20")], true, false, Some(100)),
        (429, &[("retry-after", "5"), ("age", "20")], true, false, Some(0)),
        (429, &[("retry-after", "9999999999999")], true, false, None),
    ] {
        let observed = observed(status, fields);
        let wait = wait.map(Duration::from_secs);
        assert_eq!(
            (observed.refused, observed.unavailable, observed.retry_after),
            (refused, unavailable, wait),
            "{status} {fields:?}"
        );
    }
}

#[test]
fn absurd_numbers_are_clamped_or_ignored() {
    let observed = observed(
        429,
        &[
            ("x-ratelimit-limit", "99999999999999999999999999"),
            ("x-ratelimit-remaining", "-5"),
            ("x-ratelimit-reset", "99999999999999999999999999"),
            ("retry-after", "999999999"),
        ],
    );
    assert_eq!((observed.limits[0].limit, observed.limits[0].remaining), (Some(1 << 50), None));
    assert_eq!((observed.limits[0].resets_in, observed.retry_after), (None, None));
}

proptest! {
    #[test]
    fn no_fields_make_it_panic(
        status in 100_u16..600,
        fields in prop::collection::vec((
            prop::sample::select(vec![
                "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-ratelimit-used", "ratelimit",
                "ratelimit-policy", "retry-after", "date", "x-ratelimit-resource", "x-ratelimit-reset-requests", "x-ratelimit-",
                "ratelimit-reset", "x-ratelimit-remaining-a-b", "anthropic-ratelimit-", "x-rate-limit-reset", "ratelimit--",
            ]),
            prop::collection::vec(any::<u8>(), 0..24),
        ), 0..16),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        let observed = learn(StatusCode::from_u16(status).expect("a status"), &headers, NEW_YEAR);
        prop_assert!(observed.limits.len() <= 8);
        for limit in &observed.limits {
            prop_assert!(limit.limit.is_none_or(|n| n <= 1 << 50) && limit.remaining.is_none_or(|n| n <= 1 << 50));
        }
    }

    #[test]
    fn any_name_that_begins_well_is_harmless(rest in "[a-z-]{0,20}", value in "[0-9a-z;=,\" ]{0,20}") {
        for prefix in ["x-ratelimit-", "ratelimit", "anthropic-ratelimit-", "x-rate-limit-"] {
            let observed = observed(429, &[(&format!("{prefix}{rest}"), &value)]);
            prop_assert!(observed.refused, "whatever the fields say");
        }
    }
}
