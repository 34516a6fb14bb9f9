//! Names and values of response fields.
//!
//! Small numbers are taken from a table: a [`HeaderValue`] of a number below 10 000 allocates nothing.

use std::sync::LazyLock;

use http::{HeaderName, HeaderValue};

/// Limit of the window.
pub(crate) const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
/// Remaining units, a lower bound.
pub(crate) const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
/// Seconds until all units are available.
pub(crate) const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// draft-ietf-httpapi-ratelimit-headers §3.
pub(crate) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// draft-ietf-httpapi-ratelimit-headers §4.
pub(crate) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// W3C Server Timing §3.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Rate-limit fields, which a cache must neither store nor replay.
pub(crate) const RATE_FIELDS: [HeaderName; 5] =
    [X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET, RATELIMIT_POLICY, RATELIMIT];

const WIDTH: usize = 4;
const COUNT: usize = 10_000;

/// Digits of 0000 to 9999, concatenated, as text.
static DIGITS: &str = match std::str::from_utf8(&DIGIT_BYTES) {
    Ok(digits) => digits,
    Err(_) => "",
};

static DIGIT_BYTES: [u8; COUNT * WIDTH] = {
    let mut digits = [b'0'; COUNT * WIDTH];
    let mut n = 0;
    while n < COUNT {
        let (mut rest, mut place) = (n, WIDTH);
        while place > 0 {
            place -= 1;
            digits[n * WIDTH + place] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        n += 1;
    }
    digits
};

/// Values below this are created once: an hour in seconds, and most limits.
const READY: u64 = 3_601;

/// Returns the decimal field value of a number.
pub(crate) fn number(n: u64) -> HeaderValue {
    static MADE: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| (0..READY).map(written).collect());
    if n < READY { MADE[n as usize].clone() } else { written(n) }
}

/// Creates a value from the table, or by formatting.
fn written(n: u64) -> HeaderValue {
    let width = match n {
        0..=9 => 1,
        10..=99 => 2,
        100..=999 => 3,
        1000..=9999 => 4,
        _ => return HeaderValue::from(n),
    };
    let end = (n as usize + 1) * WIDTH;
    DIGITS.get(end - width..end).map_or_else(|| HeaderValue::from(n), HeaderValue::from_static)
}

/// Converts to whole seconds, rounded up.
pub(crate) const fn ceil_seconds(span: std::time::Duration) -> u64 {
    span.as_secs().saturating_add((span.subsec_nanos() > 0) as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_are_written_as_decimals() {
        for n in (0..20_000).chain([u64::MAX]) {
            assert_eq!(number(n), n.to_string().as_str());
        }
    }

    #[test]
    fn seconds_round_up() {
        assert_eq!(ceil_seconds(Duration::from_millis(900)), 1);
        assert_eq!(ceil_seconds(Duration::ZERO), 0);
        assert_eq!(ceil_seconds(Duration::from_secs(2)), 2);
    }
}
