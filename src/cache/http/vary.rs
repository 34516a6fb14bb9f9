//! `Vary`: selection of stored responses by request fields (RFC 9111 §4.1).
//!
//! A response that varies is stored under a secondary key: the primary key and the encoded values of the fields that
//! `Vary` names. Two requests match if their encodings are equal. Values are normalized first:
//!
//! | field | normalization | why it is safe |
//! |---|---|---|
//! | any | lines joined, white space around commas dropped | §4.1 names both |
//! | `Accept-Encoding` | the coding of the highest weight among `br`, `zstd`, `gzip`, none; ties in this order | a stored response is used only if its own `Content-Encoding` is acceptable to the request, so at most four variants answer 10 000 spellings |
//! | `Accept-Language` | lower case, uniform weights; profile `shared`: sorted too | tags are case-insensitive, order has no meaning (RFC 9110 §12.5.4) |

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::reason::Reason;
use super::settings::Profile;
use crate::base::codec::Writer;

/// Maximum number of fields; a response that names more is not stored.
const MAX_NAMES: usize = 16;

/// Fields a response varies on, sorted and without duplicates.
pub(super) type VaryFields = Vec<HeaderName>;

/// Reads all lines of `Vary`.
///
/// # Errors
/// [`Reason::VaryStar`] for a `*` anywhere, [`Reason::VaryTooWide`] beyond 16 names.
pub(super) fn names(headers: &HeaderMap) -> Result<VaryFields, Reason> {
    let mut names = VaryFields::new();
    for member in headers.get_all(header::VARY).iter().flat_map(|line| line.as_bytes().split(|b| *b == b',')) {
        match member.trim_ascii() {
            b"" => {}
            // §4.1: "A stored response with a Vary header field value containing a member "*" always fails to match."
            b"*" => return Err(Reason::VaryStar),
            // An invalid name occurs in no request, so it would match every request.
            name => names.push(HeaderName::from_bytes(name).map_err(|_| Reason::VaryStar)?),
        }
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    if names.len() > MAX_NAMES { Err(Reason::VaryTooWide) } else { Ok(names) }
}

/// Encodes the values of these request fields as part of a key.
pub(crate) fn selection(names: &[HeaderName], request: &HeaderMap, profile: Profile) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(64));
    for name in names {
        out.bytes(name.as_str().as_bytes());
        let mut lines = request.get_all(name).iter().peekable();
        // §4.1: an absent field matches only if it is absent from both requests.
        if lines.peek().is_none() && *name != header::ACCEPT_ENCODING {
            out.u8(0);
            continue;
        }
        out.u8(1);
        // Handlers usually read the first line alone: in `app` several lines are not taken for one list.
        let count = request.get_all(name).iter().count();
        if profile == Profile::App && count > 1 && *name != header::ACCEPT_ENCODING {
            out.u8(2);
            out.u64(count as u64);
            request.get_all(name).iter().for_each(|line| out.bytes(&self::joined(std::iter::once(line))));
            continue;
        }
        let joined = joined(lines);
        match *name {
            header::ACCEPT_ENCODING => out.bytes(best_coding(&joined)),
            header::ACCEPT_LANGUAGE => out.bytes(&languages(&joined, profile)),
            _ => out.bytes(&joined),
        }
    }
    out.0
}

/// Whether the request accepts the stored response's coding (RFC 9110 §12.5.3), checked where `Accept-Encoding` was
/// normalized.
pub(crate) fn is_readable(stored: &HeaderMap, request: &HeaderMap) -> bool {
    let accepted = joined(request.get_all(header::ACCEPT_ENCODING).iter());
    let mut codings = stored
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b','))
        .map(|coding| coding.trim_ascii())
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
        .peekable();
    if codings.peek().is_none() {
        return weight(&accepted, b"identity").unwrap_or(1000) > 0;
    }
    codings.all(|coding| weight(&accepted, coding).unwrap_or(0) > 0)
}

/// Whether the request accepts the identity coding (RFC 9110 §12.5.3).
pub(crate) fn accepts_identity(request: &HeaderMap) -> bool {
    let mut lines = request.get_all(header::ACCEPT_ENCODING).iter().peekable();
    lines.peek().is_none() || weight(&joined(lines), b"identity").unwrap_or(1000) > 0
}

/// Encodes the values of these request fields except `Accept-Language`, for [`prefers`].
pub(crate) fn selection_without_language(names: &[HeaderName], request: &HeaderMap, profile: Profile) -> Vec<u8> {
    let others: Vec<_> = names.iter().filter(|name| **name != header::ACCEPT_LANGUAGE).cloned().collect();
    selection(&others, request, profile)
}

/// Whether the language has the highest weight in the request. RFC 9111 §4.1 lets a cache choose by "the semantics of
/// the selecting header fields", and RFC 9110 §12.5.4 defines those of language weights.
pub(crate) fn prefers(request: &HeaderMap, language: &[u8]) -> bool {
    let list = joined(request.get_all(header::ACCEPT_LANGUAGE).iter());
    let mut best = 0;
    let mut matched = None;
    for member in list.split(|b| *b == b',') {
        let mut parts = member.split(|b| *b == b';');
        let range = parts.next().unwrap_or_default().trim_ascii();
        let weight = parts.next().map_or(1000, quality);
        best = best.max(weight);
        if range.eq_ignore_ascii_case(language) {
            matched = Some(weight);
        }
    }
    best > 0 && matched == Some(best)
}

/// Joins all lines into one list without white space around its commas.
fn joined<'a>(lines: impl Iterator<Item = &'a HeaderValue>) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, line) in lines.enumerate() {
        let mut quoted = false;
        if at > 0 {
            out.push(b',');
        }
        let mut member = out.len();
        for byte in line.as_bytes().trim_ascii() {
            match byte {
                b'"' => quoted = !quoted,
                b',' if !quoted => {
                    while out.len() > member && out.last().is_some_and(u8::is_ascii_whitespace) {
                        out.pop();
                    }
                    out.push(b',');
                    member = out.len();
                    continue;
                }
                b' ' | b'\t' if out.len() == member => continue,
                _ => {}
            }
            out.push(*byte);
        }
    }
    out
}

/// Returns the supported coding with the highest weight.
fn best_coding(accepted: &[u8]) -> &'static [u8] {
    let mut best: (&'static [u8], u16) = (b"", 0);
    for coding in [&b"br"[..], b"zstd", b"gzip"] {
        let found = weight(accepted, coding).unwrap_or(0);
        if found > best.1 {
            best = (coding, found);
        }
    }
    best.0
}

/// Returns the weight, in thousandths, of a coding in the list, by name or by `*`.
fn weight(list: &[u8], coding: &[u8]) -> Option<u16> {
    let mut star = None;
    for member in list.split(|b| *b == b',') {
        let mut parts = member.split(|b| *b == b';');
        let name = parts.next().unwrap_or_default().trim_ascii();
        let name = if name.eq_ignore_ascii_case(b"x-gzip") { b"gzip" } else { name };
        if name.eq_ignore_ascii_case(coding) {
            return Some(parts.next().map_or(1000, quality));
        }
        if name == b"*" {
            star = Some(parts.next().map_or(1000, quality));
        }
    }
    // `identity` is acceptable unless excluded, so a positive `*` does not apply to it.
    if coding == b"identity" { star.filter(|weight| *weight == 0) } else { star }
}

/// RFC 9110 §12.4.2: parses `q=0.5` as 500; a malformed weight counts as 1.
fn quality(parameter: &[u8]) -> u16 {
    let text = parameter.trim_ascii();
    let Some(value) = text.strip_prefix(b"q=").or_else(|| text.strip_prefix(b"Q=")) else { return 1000 };
    std::str::from_utf8(value)
        .ok()
        .and_then(|value| value.trim().parse::<f32>().ok())
        .filter(|value| (0.0..=1.0).contains(value))
        .map_or(1000, |value| (value * 1000.0) as u16)
}

/// Encodes language ranges in lower case with their weights.
fn languages(list: &[u8], profile: Profile) -> Vec<u8> {
    let mut ranges: Vec<(u16, Vec<u8>)> = list
        .split(|b| *b == b',')
        .filter_map(|member| {
            let mut parts = member.split(|b| *b == b';');
            let range = parts.next()?.trim_ascii().to_ascii_lowercase();
            (!range.is_empty()).then(|| (parts.next().map_or(1000, quality), range))
        })
        .collect();
    if profile == Profile::Shared {
        ranges.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    }
    let mut out = Writer(Vec::with_capacity(list.len()));
    for (weight, range) in ranges {
        out.bytes(&range);
        out.u16(weight);
    }
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &'static str, lines: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for line in lines {
            map.append(name, HeaderValue::from_str(line).expect("a value"));
        }
        map
    }

    fn same_selection(name: &'static str, a: &[&str], b: &[&str]) -> bool {
        let names = [HeaderName::from_static(name)];
        selection(&names, &map(name, a), Profile::Shared) == selection(&names, &map(name, b), Profile::Shared)
    }

    #[test]
    fn a_star_anywhere_never_matches() {
        for lines in [&["*"][..], &["a, *"], &["*, a"], &["a", "*"], &["a", " * ,b"], &["bad name"]] {
            assert_eq!(names(&map("vary", lines)), Err(Reason::VaryStar), "{lines:?}");
        }
        let many = (0..17).map(|n| format!("x-{n}")).collect::<Vec<_>>().join(",");
        assert_eq!(names(&map("vary", &[&many])), Err(Reason::VaryTooWide));
        let found = names(&map("vary", &["B, a,, A", ""])).expect("names");
        assert_eq!(found, [HeaderName::from_static("a"), HeaderName::from_static("b")]);
    }

    #[test]
    fn lists_are_normalized_and_values_compared() {
        assert!(same_selection("foo", &["a, b"], &["a,b"]));
        assert!(same_selection("foo", &["a , b"], &["a", "b"]));
        assert!(!same_selection("foo", &["a b"], &["a,b"]));
        assert!(!same_selection("foo", &["\"a , b\""], &["\"a,b\""]));
        assert!(!same_selection("foo", &["A"], &["a"]));
        assert!(!same_selection("foo", &[], &[""]));
    }

    #[test]
    fn language_case_and_order_are_normalized() {
        assert!(same_selection("accept-language", &["en, de"], &["DE,EN"]));
        assert!(same_selection("accept-language", &["en;q=0.5, de"], &["de;q=1, en;q=0.50"]));
        assert!(!same_selection("accept-language", &["en;q=0.5, de"], &["de;q=0.5, en"]));
    }

    #[test]
    fn encodings_fall_into_four_classes() {
        let mut classes: Vec<_> = (0..10_000)
            .map(|n: u32| {
                let coding = ["br", "gzip", "zstd", "deflate", "x"][n as usize % 5];
                let line = format!("{coding};q=0.{}, y{n}, gzip;q=0.{}", n % 1000, n % 7);
                best_coding(line.as_bytes())
            })
            .collect();
        classes.sort_unstable();
        classes.dedup();
        assert!(classes.len() <= 4, "{classes:?}");
    }

    #[test]
    fn unacceptable_codings_do_not_match() {
        let gzip = map("content-encoding", &["gzip"]);
        let plain = HeaderMap::new();
        for (accept, reads_gzip, reads_plain) in [
            (&["gzip"][..], true, true),
            (&["br"], false, true),
            (&["br, gzip;q=0"], false, true),
            (&["*"], true, true),
            (&["gzip, identity;q=0"], true, false),
            (&["gzip, *;q=0"], true, false),
            (&[], false, true),
        ] {
            let request = map("accept-encoding", accept);
            assert_eq!(is_readable(&gzip, &request), reads_gzip, "{accept:?}");
            assert_eq!(is_readable(&plain, &request), reads_plain, "{accept:?}");
        }
    }
}
