//! The value of the `Server-Timing` field ([W3C](https://www.w3.org/TR/server-timing/)).

use std::fmt::Write;
use std::time::Duration;

use http::HeaderValue;

use crate::base::detached_context::{CacheNote, LimitNote, Notes};
use crate::timing::engine::request_log::Sums;
use crate::timing::measure::group::Sum;

/// Returns the field value. `total` is the time to the response head, or to the end of the body; `db` is the sum of
/// all queries and may be larger if they ran concurrently.
pub(crate) fn value(total: Duration, sums: &Sums, notes: Notes) -> Option<HeaderValue> {
    let mut text = String::with_capacity(96);
    text.push_str("total;dur=");
    millis(&mut text, total);
    spent(&mut text, "db", sums.queries, ["query", "queries"]);
    spent(&mut text, "pool", sums.pool, ["wait", "waits"]);
    spent(&mut text, "upstream", sums.upstream, ["call", "calls"]);
    if let Some(cache) = notes.cache.map(CacheNote::as_str) {
        let _ = write!(text, ", cache;desc=\"{cache}\"");
    }
    if let Some(limit) = notes.limit.map(LimitNote::as_str) {
        let _ = write!(text, ", limit;desc=\"{limit}\"");
    }
    HeaderValue::try_from(text).ok()
}

fn spent(text: &mut String, name: &str, sum: Sum, [one, many]: [&str; 2]) {
    if sum.count > 0 {
        let _ = write!(text, ", {name};dur=");
        millis(text, sum.total);
        let _ = write!(text, ";desc=\"{} {}\"", sum.count, if sum.count == 1 { one } else { many });
    }
}

/// Writes milliseconds with at most three decimals, without trailing zeros.
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

    fn sum(count: u64, micros: u64) -> Sum {
        Sum { count, total: Duration::from_micros(micros) }
    }

    fn of(total: u64, sums: &Sums, notes: Notes) -> String {
        let value = value(Duration::from_micros(total), sums, notes).expect("visible characters");
        value.to_str().expect("ASCII").to_owned()
    }

    #[test]
    fn milliseconds_and_a_word() {
        let queries = |count, micros| Sums { queries: sum(count, micros), ..Sums::default() };
        for (total, sums, wanted) in [
            (1_200, queries(3, 800), "total;dur=1.2, db;dur=0.8;desc=\"3 queries\""),
            (2_005, queries(1, 10), "total;dur=2.005, db;dur=0.01;desc=\"1 query\""),
            (120_000, queries(0, 0), "total;dur=120"),
            (0, queries(0, 0), "total;dur=0"),
        ] {
            assert_eq!(of(total, &sums, Notes::default()), wanted);
        }
    }

    #[test]
    fn everything_at_once() {
        let sums = Sums { queries: sum(2, 1_000), pool: sum(1, 500), upstream: sum(1, 5_000) };
        let notes = Notes { cache: Some(CacheNote::Miss), limit: Some(LimitNote::Allowed) };
        assert_eq!(
            of(9_000, &sums, notes),
            "total;dur=9, db;dur=1;desc=\"2 queries\", pool;dur=0.5;desc=\"1 wait\", upstream;dur=5;desc=\"1 call\", \
             cache;desc=\"miss\", limit;desc=\"allowed\""
        );
    }
}
