//! `Cache-Control`: one parser for requests and responses.
//!
//! RFC 9111 §5.2: directives are case-insensitive, come in any number of lines, take an optional argument in token or
//! quoted-string form, and unknown ones are ignored. Contradictions and malformed values resolve to the strictest
//! reading:
//!
//! | input | interpretation |
//! |---|---|
//! | one directive with several values | the smallest |
//! | an invalid number: `abc`, `-1`, `1.5`, `'60'`, nothing | 0, that is, already stale (§4.2.1) |
//! | a number beyond 2³¹ | 2³¹ (§1.2.2) |
//! | white space around `=` | an invalid argument |
//! | an unterminated quoted string | no quote at all, so that the following directives still count |
//! | an empty or malformed list of fields (`private`, `no-cache`) | the unqualified directive, which restricts the whole response |

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, HeaderName, header};

/// RFC 9111 §1.2.2: upper bound of delta-seconds.
const MAX_DELTA_SECONDS: u64 = 1 << 31;

/// Fields named by a qualified directive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum DirectiveFields {
    /// The directive is absent.
    #[default]
    Absent,
    /// The directive applies to the whole response.
    Whole,
    /// The directive applies to these fields only (§5.2.2.4, §5.2.2.7).
    Fields(Vec<HeaderName>),
}

impl DirectiveFields {
    pub(super) fn is_whole(&self) -> bool {
        *self == Self::Whole
    }

    /// Adds a list of fields. `None` is the unqualified form, which wins over any list; so does a malformed list, since
    /// restrictions also apply if malformed.
    fn widen(&mut self, names: Option<Vec<HeaderName>>) {
        match (std::mem::take(self), names) {
            (Self::Absent, Some(names)) => *self = Self::Fields(names),
            (Self::Fields(mut all), Some(names)) => {
                all.extend(names);
                *self = Self::Fields(all);
            }
            _ => *self = Self::Whole,
        }
    }
}

/// Cache directives of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResponseDirectives {
    pub(crate) no_store: bool,
    pub(crate) no_cache: DirectiveFields,
    pub(super) private: DirectiveFields,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) proxy_revalidate: bool,
    pub(super) must_understand: bool,
    pub(super) immutable: bool,
    pub(super) max_age: Option<Duration>,
    pub(super) s_maxage: Option<Duration>,
    pub(super) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
}

impl ResponseDirectives {
    /// Reads all lines of the response's `Cache-Control`.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for line in headers.get_all(header::CACHE_CONTROL) {
            for_each_directive(line.as_bytes(), |name, argument| found.take(name, argument));
            found.take_restrictions(line.as_bytes());
        }
        found
    }

    /// Applies the restrictions in malformed members, such as `private; max-age=60`: a misspelt restriction restricts.
    /// Quoted arguments and well-formed members are left to [`for_each_directive`].
    fn take_restrictions(&mut self, line: &[u8]) {
        const RESTRICTIONS: [&[u8]; 5] =
            [b"no-store", b"no-cache", b"private", b"must-revalidate", b"proxy-revalidate"];
        for member in unquoted_members(line) {
            let member = member.trim_ascii();
            let name = member.split(|b| *b == b'=').next().unwrap_or_default();
            let argument = member.get(name.len() + 1..).unwrap_or_default();
            if is_token(name) && (is_token(argument) || argument.is_empty() || argument.starts_with(b"\"")) {
                continue;
            }
            for word in member.split(|b| !is_token_byte(*b)) {
                if RESTRICTIONS.iter().any(|known| known.eq_ignore_ascii_case(word)) {
                    self.take(&word.to_ascii_lowercase(), None);
                }
            }
        }
    }

    /// Adds one directive; `name` is in lower case.
    pub(super) fn take(&mut self, name: &[u8], argument: Option<&[u8]>) {
        match name {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache.widen(argument.and_then(names)),
            b"private" => self.private.widen(argument.and_then(names)),
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"immutable" => self.immutable = true,
            b"max-age" => take_smallest(&mut self.max_age, argument),
            b"s-maxage" => take_smallest(&mut self.s_maxage, argument),
            b"stale-while-revalidate" => take_smallest(&mut self.stale_while_revalidate, argument),
            b"stale-if-error" => take_smallest(&mut self.stale_if_error, argument),
            // RFC 9111 §5.2.3: "a cache MUST ignore unrecognized cache directives".
            _ => {}
        }
    }
}

/// Cache directives of a request. Read in profile `shared` only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestDirectives {
    pub(crate) no_cache: bool,
    pub(crate) no_store: bool,
    pub(crate) only_if_cached: bool,
    pub(super) max_age: Option<Duration>,
    pub(super) min_fresh: Option<Duration>,
    /// Acceptable staleness; unlimited if the directive has no argument.
    pub(super) max_stale: Option<Duration>,
    /// RFC 5861 §4, in a request.
    pub(crate) stale_if_error: Option<Duration>,
}

impl RequestDirectives {
    /// Reads all lines of the request's `Cache-Control`, or `Pragma` if there are none.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        let mut lines = headers.get_all(header::CACHE_CONTROL).iter().peekable();
        if lines.peek().is_none() {
            // RFC 9111 §5.4: `Pragma: no-cache` counts where `Cache-Control` is absent.
            for line in headers.get_all(header::PRAGMA) {
                for_each_directive(line.as_bytes(), |name, _| found.no_cache |= name == b"no-cache");
            }
        }
        for line in lines {
            for_each_directive(line.as_bytes(), |name, argument| found.take(name, argument));
        }
        found
    }

    fn take(&mut self, name: &[u8], argument: Option<&[u8]>) {
        match name {
            b"no-cache" => self.no_cache = true,
            b"no-store" => self.no_store = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => take_smallest(&mut self.max_age, argument),
            b"min-fresh" => {
                let new = seconds(argument);
                self.min_fresh = Some(self.min_fresh.map_or(new, |old| old.max(new)));
            }
            b"max-stale" => {
                let new = if argument.is_none() { Duration::MAX } else { seconds(argument) };
                self.max_stale = Some(self.max_stale.map_or(new, |old| old.min(new)));
            }
            b"stale-if-error" => take_smallest(&mut self.stale_if_error, argument),
            _ => {}
        }
    }
}

fn take_smallest(slot: &mut Option<Duration>, argument: Option<&[u8]>) {
    let new = seconds(argument);
    *slot = Some(slot.map_or(new, |old| old.min(new)));
}

/// §4.2.1: "caches are encouraged to consider responses that have invalid freshness information … to be stale".
fn seconds(argument: Option<&[u8]>) -> Duration {
    argument.and_then(delta_seconds).unwrap_or_default()
}

/// §1.2.2: parses a non-negative integer in seconds, at most 2³¹.
pub(super) fn delta_seconds(text: &[u8]) -> Option<Duration> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = text.iter().fold(0_u64, |n, digit| n.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(Duration::from_secs(value.min(MAX_DELTA_SECONDS)))
}

/// Parses a list of field names (RFC 9110 §5.6.1.2: empty members are ignored); `None` if it is empty or malformed.
fn names(list: &[u8]) -> Option<Vec<HeaderName>> {
    let members = list.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty());
    let names = members.map(|member| HeaderName::from_bytes(member).ok()).collect::<Option<Vec<_>>>()?;
    (!names.is_empty()).then_some(names)
}

/// The members of a list, split at commas outside of quotes; a quote that is never closed does not hide what follows it.
fn unquoted_members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let closed = line.iter().filter(|b| **b == b'"').count() % 2 == 0;
    let mut quoted = false;
    line.split(move |b| {
        quoted ^= *b == b'"' && closed;
        *b == b',' && !quoted
    })
}

/// RFC 9110 §5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| is_token_byte(*b))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Calls `take` with each member of a comma-separated list of `name[=argument]`: names in lower case, arguments
/// unquoted.
pub(super) fn for_each_directive(line: &[u8], mut take: impl FnMut(&[u8], Option<&[u8]>)) {
    let mut rest = line;
    let mut lower = Vec::new();
    while !rest.is_empty() {
        let stop = rest.iter().position(|b| matches!(b, b',' | b'=')).unwrap_or(rest.len());
        let (name, after) = rest.split_at(stop);
        let argument = if after.first() == Some(&b'=') {
            let (argument, left) = self::argument(&after[1..]);
            rest = left;
            Some(argument)
        } else {
            rest = after;
            None
        };
        rest = rest.strip_prefix(b",").unwrap_or(rest);
        if !name.trim_ascii().is_empty() {
            lower.clear();
            lower.extend(name.trim_ascii().iter().map(u8::to_ascii_lowercase));
            // The grammar allows no white space before `=`: such an argument is invalid.
            let spaced = name.last().is_some_and(u8::is_ascii_whitespace);
            take(&lower, argument.as_deref().map(|found| if spaced { b" " } else { found }));
        }
    }
}

/// Parses one argument; returns it with the text from the next comma on.
fn argument(text: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    if let Some((value, rest)) = text.strip_prefix(b"\"").and_then(unquote) {
        let end = rest.iter().position(|b| *b == b',').unwrap_or(rest.len());
        let (junk, rest) = rest.split_at(end);
        if junk.trim_ascii().is_empty() {
            return (value, rest);
        }
        return (Cow::Borrowed(b"\""), rest);
    }
    let end = text.iter().position(|b| *b == b',').unwrap_or(text.len());
    if text.first().is_some_and(u8::is_ascii_whitespace) {
        return (Cow::Borrowed(b"\""), &text[end..]);
    }
    (Cow::Borrowed(text[..end].trim_ascii_end()), &text[end..])
}

/// Parses a quoted string after its opening quote; returns the content and the text after the closing quote.
fn unquote(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let mut owned: Option<Vec<u8>> = None;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                let value = owned.map_or(Cow::Borrowed(&text[..at]), Cow::Owned);
                return Some((value, &text[at + 1..]));
            }
            b'\\' if at + 1 < text.len() => {
                owned.get_or_insert_with(|| text[..at].to_vec()).push(text[at + 1]);
                at += 2;
            }
            byte => {
                if let Some(owned) = &mut owned {
                    owned.push(byte);
                }
                at += 1;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn response(lines: &[&str]) -> ResponseDirectives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_str(line).expect("a value"));
        }
        ResponseDirectives::of(&headers)
    }

    #[test]
    fn max_age_forms() {
        for (line, expected) in [
            ("max-age=60", 60),
            ("MAX-AGE=60", 60),
            ("max-age=\"60\"", 60),
            ("max-age=0060", 60),
            ("max-age=60, max-age=10", 10),
            ("max-age=10, max-age=60", 10),
            ("foo, ,, max-age=60 ,", 60),
            ("foo=bar, max-age=60", 60),
            ("foo=\"max-age=1, x\", max-age=60", 60),
            ("max-age=99999999999999999999999", MAX_DELTA_SECONDS),
            ("max-age=2147483649", MAX_DELTA_SECONDS),
            ("max-age=-60", 0),
            ("max-age=6.0", 0),
            ("max-age='60'", 0),
            ("max-age=abc", 0),
            ("max-age", 0),
            ("max-age=", 0),
            ("max-age = 60", 0),
            ("max-age= 60", 0),
            ("max-age =60", 0),
            ("max-age=\"60\"x", 0),
        ] {
            assert_eq!(response(&[line]).max_age, Some(Duration::from_secs(expected)), "{line}");
        }
        assert_eq!(response(&["xmax-age=60, max-agex=60, foo=max-age"]).max_age, None);
    }

    #[test]
    fn all_lines_and_whole_tokens_count() {
        let found = response(&["max-age=60", "NO-STORE", "Private"]);
        assert!(found.no_store && found.private.is_whole());
        let found = response(&["no-storex, xno-store, ext=no-store, ext2=\"no-store, private\""]);
        assert_eq!(found, ResponseDirectives::default());
        assert!(response(&["ext=\"never closed, no-store"]).no_store);
        assert!(response(&["no-store=\"x\""]).no_store);
        assert!(response(&["no-store = 1"]).no_store);
    }

    #[test]
    fn qualified_directives_name_fields_and_unqualified_ones_win() {
        let found = response(&["no-cache=\"Set-Cookie, X-A\", private=x-b"]);
        assert_eq!(found.no_cache, DirectiveFields::Fields(vec![header::SET_COOKIE, HeaderName::from_static("x-a")]));
        assert_eq!(found.private, DirectiveFields::Fields(vec![HeaderName::from_static("x-b")]));
        assert!(response(&["no-cache=\"a\", no-cache"]).no_cache.is_whole());
        assert!(response(&["no-cache", "no-cache=\"a\""]).no_cache.is_whole());
    }

    #[test]
    fn a_malformed_restriction_restricts() {
        for line in [
            "private; max-age=60",
            "private;max-age=60",
            "max-age=60 private",
            "max-age=60; private",
            "max-age=60, private ;",
            "\"private\"",
            "private\"",
            "no-cache private, max-age=60",
        ] {
            assert!(response(&[line]).private.is_whole(), "{line}");
        }
        for line in ["no-store; max-age=60", "no-store no-cache", "\"no-store\"", "no-store\"", "max-age=60; No-Store"]
        {
            assert!(response(&[line]).no_store, "{line}");
        }
        for line in ["ext=no-store", "ext=\"no-store; private\"", "no-storex; y", "max-age=60, ext=\"a, private, b\""] {
            assert_eq!(
                ResponseDirectives { max_age: None, ..response(&[line]) },
                ResponseDirectives::default(),
                "{line}"
            );
        }
    }

    #[test]
    fn malformed_field_lists_restrict_the_whole_response() {
        for list in
            ["\"\"", "", "\"a b\"", "\"never closed", " a", "\",\"", "\"a, b c\"", "\"a;b\"x", "a b", "\"\\\"\"", "()"]
        {
            let found = response(&[&format!("private={list}, max-age=60")]);
            assert!(found.private.is_whole(), "private={list}");
            let found = response(&[&format!("max-age=60, no-cache={list}")]);
            assert!(found.no_cache.is_whole(), "no-cache={list}");
        }
        let found = response(&["private=\", X-A ,,x-b,\""]);
        assert_eq!(
            found.private,
            DirectiveFields::Fields(vec![HeaderName::from_static("x-a"), HeaderName::from_static("x-b")])
        );
    }

    #[test]
    fn request_directives_bound_age_and_staleness() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-stale, min-fresh=5, Only-If-Cached"));
        let found = RequestDirectives::of(&headers);
        assert_eq!(found.max_stale, Some(Duration::MAX));
        assert_eq!(found.min_fresh, Some(Duration::from_secs(5)));
        assert!(found.only_if_cached && !found.no_cache);
        headers.clear();
        headers.insert(header::PRAGMA, HeaderValue::from_static("No-Cache"));
        assert!(RequestDirectives::of(&headers).no_cache);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=1"));
        assert!(!RequestDirectives::of(&headers).no_cache);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(line in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut found = ResponseDirectives::default();
            for_each_directive(&line, |name, argument| found.take(name, argument));
        }

        #[test]
        fn no_store_is_found_among_other_directives(
            before in "[a-z0-9=, ]{0,20}", after in "[a-z0-9=, ]{0,20}",
        ) {
            let line = format!("{before},No-Store,{after}");
            let mut found = ResponseDirectives::default();
            for_each_directive(line.as_bytes(), |name, argument| found.take(name, argument));
            prop_assert!(found.no_store);
        }

        #[test]
        fn quoted_numbers_are_read(n in 0_u64..MAX_DELTA_SECONDS, quoted: bool) {
            let line = if quoted { format!("max-age=\"{n}\"") } else { format!("max-age={n}") };
            let mut found = ResponseDirectives::default();
            for_each_directive(line.as_bytes(), |name, argument| found.take(name, argument));
            prop_assert_eq!(found.max_age, Some(Duration::from_secs(n)));
        }
    }
}
