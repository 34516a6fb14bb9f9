//! Byte ranges: RFC 9110 §14, and RFC 9111 §3.3 and §3.4 for partial responses.
//!
//! Arithmetic is checked and input bounded: an overflowing range is malformed, and more than 16 ranges select the
//! whole.
//!
//! | `Range` of the request | response |
//! |---|---|
//! | absent, malformed, of another unit, of more than 16 ranges, or with ranges that repeat bytes | the whole, 200 |
//! | with an `If-Range` that does not match | the whole, 200 |
//! | one satisfiable range | 206 |
//! | several | 206, `multipart/byteranges` |
//! | none satisfiable | 416 |

use http::{HeaderMap, HeaderValue, header};

use super::freshness::date;
use super::validators::strongly_equal;

/// RFC 9110 §14.2 leaves a server free to ignore "many small ranges".
const MAX_RANGES: usize = 16;

/// Half-open range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteSpan {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl ByteSpan {
    pub(crate) const fn len(self) -> u64 {
        self.end - self.start
    }

    pub(crate) const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

/// Ranges of a representation that a request selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestedRanges {
    /// The whole representation.
    Whole,
    /// These ranges, in this order; never empty.
    Parts(Vec<ByteSpan>),
    /// No satisfiable range.
    Unsatisfiable,
}

/// Evaluates `Range` and `If-Range` against a representation of this length.
pub(crate) fn requested_ranges(request: &HeaderMap, stored: &HeaderMap, length: u64) -> RequestedRanges {
    let mut lines = request.get_all(header::RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return RequestedRanges::Whole };
    if !if_range_holds(request, stored) {
        return RequestedRanges::Whole;
    }
    parse(line.as_bytes(), length).unwrap_or(RequestedRanges::Whole)
}

/// §14.1.2 and §14.2; `None` if malformed, and therefore ignored.
fn parse(line: &[u8], length: u64) -> Option<RequestedRanges> {
    let (unit, set) = line.split_at(line.iter().position(|b| *b == b'=')?);
    if !unit.trim_ascii().eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let mut parts = Vec::new();
    let mut count = 0;
    for member in set[1..].split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()) {
        count += 1;
        if count > MAX_RANGES {
            return None;
        }
        parts.extend(part(member, length)?);
    }
    if count == 0 {
        return None;
    }
    if parts.is_empty() {
        return Some(RequestedRanges::Unsatisfiable);
    }
    // Overlapping ranges would transfer more than the whole.
    let total = parts.iter().try_fold(0_u64, |sum, part: &ByteSpan| sum.checked_add(part.len()))?;
    if total > length { None } else { Some(RequestedRanges::Parts(parts)) }
}

/// Parses one range-spec: `Some(None)` if it is well-formed but unsatisfiable.
fn part(member: &[u8], length: u64) -> Option<Option<ByteSpan>> {
    let (first, last) = member.split_at(member.iter().position(|b| *b == b'-')?);
    let (first, last) = (first.trim_ascii(), last[1..].trim_ascii());
    if first.is_empty() {
        // §14.1.2: "if the selected representation is shorter than the specified suffix-length, the entire
        // representation is used"; a suffix of 0 bytes is unsatisfiable.
        let suffix = number(last)?.min(length);
        return Some((suffix > 0).then_some(ByteSpan { start: length - suffix, end: length }));
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some((first < length).then_some(ByteSpan { start: first, end: last.saturating_add(1).min(length) }))
}

/// Parses decimal digits, saturating at `u64::MAX`.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0_u64, |n, d| n.saturating_mul(10).saturating_add(u64::from(d - b'0'))))
}

/// RFC 9110 §13.1.5: whether `If-Range` matches the stored response; true without `If-Range`.
fn if_range_holds(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(line) = request.get(header::IF_RANGE) else { return true };
    if line.as_bytes().starts_with(b"\"") || line.as_bytes().starts_with(b"W/") {
        return strongly_equal(Some(line), stored.get(header::ETAG));
    }
    // "exactly matches the Last-Modified field value", which is strong (§8.8.2.2) if it is at least one second older
    // than Date.
    let (modified, made) = (date(stored, &header::LAST_MODIFIED), date(stored, &header::DATE));
    stored.get(header::LAST_MODIFIED) == Some(line)
        && matches!((modified, made), (Some(modified), Some(made))
            if made.duration_since(modified).is_ok_and(|age| age.as_secs() >= 1))
}

/// Requests the bytes after the first `received` of a response with these fields, or the whole if it has changed.
pub(crate) fn request_rest(request: &mut HeaderMap, stored: &HeaderMap, received: u64) {
    if let (Ok(range), Some(etag)) = (HeaderValue::try_from(format!("bytes={received}-")), stored.get(header::ETAG)) {
        request.insert(header::RANGE, range);
        request.insert(header::IF_RANGE, etag.clone());
    }
}

/// Parsed `Content-Range`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) span: ByteSpan,
    pub(crate) total: u64,
}

/// RFC 9110 §14.4: parses a single line with a satisfied range and a known length; `None` otherwise.
pub(crate) fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let mut lines = headers.get_all(header::CONTENT_RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let text = line.to_str().ok()?;
    let (unit, rest) = text.split_once(' ')?;
    let (span, total) = rest.trim().split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last, total) = (number(first.as_bytes())?, number(last.as_bytes())?, number(total.as_bytes())?);
    let sound = unit.eq_ignore_ascii_case("bytes") && first <= last && last < total;
    sound.then(|| ContentRange { span: ByteSpan { start: first, end: last + 1 }, total })
}

/// Formats the `Content-Range` of a 206.
pub(crate) fn content_range_value(span: ByteSpan, total: u64) -> HeaderValue {
    let text = format!("bytes {}-{}/{total}", span.start, span.end - 1);
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("bytes */*"))
}

/// Formats the `Content-Range` of a 416.
pub(crate) fn unsatisfied_range_value(total: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes */{total}")).unwrap_or_else(|_| HeaderValue::from_static("bytes */*"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spans(parts: &[(u64, u64)]) -> Option<RequestedRanges> {
        Some(RequestedRanges::Parts(parts.iter().map(|(start, end)| ByteSpan { start: *start, end: *end }).collect()))
    }

    #[test]
    fn range_forms() {
        for (line, expected) in [
            ("bytes=0-0", spans(&[(0, 1)])),
            ("bytes=2-", spans(&[(2, 10)])),
            ("bytes=-3", spans(&[(7, 10)])),
            ("bytes=-30", spans(&[(0, 10)])),
            ("BYTES = 8-30", spans(&[(8, 10)])),
            ("bytes=0-1,  8-", spans(&[(0, 2), (8, 10)])),
            ("bytes=5-99999999999999999999", spans(&[(5, 10)])),
            ("bytes=0-1,20-30", spans(&[(0, 2)])),
            ("bytes=10-", Some(RequestedRanges::Unsatisfiable)),
            ("bytes=-0", Some(RequestedRanges::Unsatisfiable)),
            ("bytes=99999999999999999999-", Some(RequestedRanges::Unsatisfiable)),
            ("bytes=3-2", None),
            ("bytes=a-b", None),
            ("bytes=", None),
            ("bytes=-", None),
            ("bytes 0-1", None),
            ("lines=0-1", None),
            ("bytes=0-8,1-9", None),
            ("bytes=0-0,0-0,0-0,0-0,0-0,0-0,0-0,0-0,0-0,0-0,0-0,0-0,0-0,0-0,0-0,0-0,0-0", None),
        ] {
            assert_eq!(parse(line.as_bytes(), 10), expected, "{line}");
        }
    }

    #[test]
    fn if_range_needs_a_strong_validator() {
        let map = |fields: &[(&'static str, &'static str)]| {
            fields
                .iter()
                .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
                .collect()
        };
        let (old, new) = ("Thu, 01 Jan 2026 00:00:00 GMT", "Thu, 01 Jan 2026 00:00:01 GMT");
        let holds = |condition, stored: &HeaderMap| if_range_holds(&map(&[("if-range", condition)]), stored);
        assert!(holds("\"a\"", &map(&[("etag", "\"a\"")])));
        assert!(!holds("W/\"a\"", &map(&[("etag", "W/\"a\"")])) && !holds("\"b\"", &map(&[("etag", "\"a\"")])));
        assert!(holds(old, &map(&[("last-modified", old), ("date", new)])));
        assert!(!holds(old, &map(&[("last-modified", old), ("date", old)])), "weak: the second is not over");
        assert!(!holds(new, &map(&[("last-modified", old), ("date", new)])));
        assert!(if_range_holds(&HeaderMap::new(), &HeaderMap::new()));
    }

    #[test]
    fn content_range_names_existing_bytes() {
        let read =
            |value| content_range(&HeaderMap::from_iter([(header::CONTENT_RANGE, HeaderValue::from_static(value))]));
        assert_eq!(read("bytes 4-9/10"), Some(ContentRange { span: ByteSpan { start: 4, end: 10 }, total: 10 }));
        for bad in [
            "bytes 4-10/10",
            "bytes 5-4/10",
            "bytes */10",
            "bytes 0-1/*",
            "lines 0-1/2",
            "bytes=0-1/2",
            "bytes 0-18446744073709551615/18446744073709551615",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn ranges_stay_within_the_representation(line in "bytes=[0-9,\\- ]{0,40}", length in 0_u64..1000) {
            if let Some(RequestedRanges::Parts(parts)) = parse(line.as_bytes(), length) {
                prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= length));
                prop_assert!(parts.iter().map(|part| part.len()).sum::<u64>() <= length);
            }
        }
    }
}
