//! The value of the `Server-Timing` field ([W3C](https://www.w3.org/TR/server-timing/)): names, milliseconds, a word.

use std::fmt::Write;
use std::time::Duration;

use http::HeaderValue;

use super::scope::Sum;

/// `total` is the time to the response head, `db` that of all queries together: where they ran side by side it may be
/// the longer one.
pub(super) fn value(total: Duration, queries: Sum) -> Option<HeaderValue> {
    let mut text = String::with_capacity(64);
    text.push_str("total;dur=");
    millis(&mut text, total);
    if queries.count > 0 {
        text.push_str(", db;dur=");
        millis(&mut text, queries.total);
        let noun = if queries.count == 1 { "query" } else { "queries" };
        let _ = write!(text, ";desc=\"{} {noun}\"", queries.count);
    }
    HeaderValue::try_from(text).ok()
}

/// Milliseconds with at most three decimals, without trailing zeros.
fn millis(text: &mut String, span: Duration) {
    let micros = span.as_micros();
    let _ = write!(text, "{}", micros / 1000);
    let rest = micros % 1000;
    if rest > 0 {
        let _ = write!(text, ".{rest:03}");
        text.truncate(text.trim_end_matches('0').len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(total: u64, count: u64, queries: u64) -> String {
        let sum = Sum { count, total: Duration::from_micros(queries) };
        let value = value(Duration::from_micros(total), sum).expect("visible characters");
        value.to_str().expect("ASCII").to_owned()
    }

    #[test]
    fn milliseconds_and_a_word() {
        assert_eq!(of(1_200, 3, 800), "total;dur=1.2, db;dur=0.8;desc=\"3 queries\"");
        assert_eq!(of(2_005, 1, 10), "total;dur=2.005, db;dur=0.01;desc=\"1 query\"");
        assert_eq!(of(120_000, 0, 0), "total;dur=120");
        assert_eq!(of(0, 0, 0), "total;dur=0");
    }
}
