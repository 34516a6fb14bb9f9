//! Structured fields (RFC 9651), as needed for targeted cache control and rate-limit fields: dictionaries and lists,
//! strictly parsed. A malformed field is ignored as a whole.
//!
//! Strings and tokens are returned as written, including escapes; dates, byte sequences, decimals, display strings
//! and inner lists are validated and dropped.

use smallvec::SmallVec;

/// Value of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// `?1`, or a key without a value.
    True,
    /// `?0`.
    False,
    /// An integer.
    Integer(i64),
    /// A string without its quotes, or a token.
    Text(&'a [u8]),
    /// Anything else: a decimal, byte sequence, date, display string or inner list.
    Other,
}

/// Parses a dictionary, its lines joined by commas; `None` if it is malformed.
pub(crate) fn dictionary(text: &[u8]) -> Option<Vec<(&[u8], Item<'_>)>> {
    let mut members: Vec<(&[u8], Item<'_>)> = Vec::new();
    Parser { text, at: 0 }.members(|parser| {
        let key = parser.key()?;
        let value = if parser.consume(b'=') { parser.member()? } else { Item::True };
        parser.parameters(|_, _| {})?;
        // RFC 9651 §4.2.2: a later key overwrites an earlier one.
        members.retain(|(known, _)| *known != key);
        members.push((key, value));
        Some(())
    })?;
    Some(members)
}

/// Member of a list, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    pub(crate) value: Item<'a>,
    parameters: SmallVec<[(&'a [u8], Item<'a>); 4]>,
}

impl<'a> Member<'a> {
    /// Returns the last parameter of that name.
    pub(crate) fn parameter(&self, name: &str) -> Option<Item<'a>> {
        self.parameters.iter().rev().find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| *value)
    }
}

/// Parses a list, its lines joined by commas; `None` if it is malformed.
pub(crate) fn list(text: &[u8]) -> Option<Vec<Member<'_>>> {
    let mut members = Vec::new();
    Parser { text, at: 0 }.members(|parser| {
        let mut member = Member { value: parser.member()?, parameters: SmallVec::new() };
        parser.parameters(|key, value| member.parameters.push((key, value)))?;
        members.push(member);
        Some(())
    })?;
    Some(members)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    /// Parses members separated by commas, up to the end.
    fn members(&mut self, mut member: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.skip(b" ");
        if self.peek().is_none() {
            return Some(());
        }
        loop {
            member(self)?;
            self.skip(b" \t");
            if self.peek().is_none() {
                return Some(());
            }
            if !self.consume(b',') {
                return None;
            }
            self.skip(b" \t");
            // "If input_string is empty, there is a trailing comma; fail parsing."
            self.peek()?;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn consume(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip(&mut self, set: &[u8]) {
        while self.peek().is_some_and(|byte| set.contains(&byte)) {
            self.at += 1;
        }
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    /// Parses a key (RFC 9651 §4.2.3.3).
    fn key(&mut self) -> Option<&'a [u8]> {
        if !matches!(self.peek()?, b'a'..=b'z' | b'*') {
            return None;
        }
        Some(self.take_while(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*')))
    }

    fn member(&mut self) -> Option<Item<'a>> {
        if self.consume(b'(') { self.inner_list() } else { self.bare_item() }
    }

    /// Parses an inner list (RFC 9651 §4.2.1.2).
    fn inner_list(&mut self) -> Option<Item<'a>> {
        loop {
            self.skip(b" ");
            if self.consume(b')') {
                return Some(Item::Other);
            }
            self.bare_item()?;
            self.parameters(|_, _| {})?;
            if !matches!(self.peek()?, b' ' | b')') {
                return None;
            }
        }
    }

    /// Parses parameters (RFC 9651 §4.2.3.2).
    fn parameters(&mut self, mut found: impl FnMut(&'a [u8], Item<'a>)) -> Option<()> {
        while self.consume(b';') {
            self.skip(b" ");
            let key = self.key()?;
            found(key, if self.consume(b'=') { self.bare_item()? } else { Item::True });
        }
        Some(())
    }

    /// Parses a bare item (RFC 9651 §4.2.3.1).
    fn bare_item(&mut self) -> Option<Item<'a>> {
        match self.peek()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b'?' => self.boolean(),
            b':' => self.bytes(),
            b'@' => {
                self.at += 1;
                matches!(self.number()?, Item::Integer(_)).then_some(Item::Other)
            }
            b'%' => self.display_string(),
            b'A'..=b'Z' | b'a'..=b'z' | b'*' => {
                Some(Item::Text(self.take_while(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b))))
            }
            _ => None,
        }
    }

    /// Parses a number (RFC 9651 §4.2.4): at most 15 digits, or 12 before and 3 after the point.
    fn number(&mut self) -> Option<Item<'a>> {
        let negative = self.consume(b'-');
        let digits = self.take_while(|b| b.is_ascii_digit());
        if digits.is_empty() || digits.len() > 15 {
            return None;
        }
        if self.consume(b'.') {
            let fraction = self.take_while(|b| b.is_ascii_digit());
            return (digits.len() <= 12 && (1..=3).contains(&fraction.len())).then_some(Item::Other);
        }
        let value = digits.iter().fold(0_i64, |n, digit| n * 10 + i64::from(digit - b'0'));
        Some(Item::Integer(if negative { -value } else { value }))
    }

    fn string(&mut self) -> Option<Item<'a>> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.next()? {
                b'"' => return Some(Item::Text(&self.text[start..self.at - 1])),
                b'\\' if !matches!(self.next()?, b'"' | b'\\') => return None,
                b'\\' | 0x20..=0x7e => {}
                _ => return None,
            }
        }
    }

    fn boolean(&mut self) -> Option<Item<'a>> {
        self.at += 1;
        match self.next()? {
            b'1' => Some(Item::True),
            b'0' => Some(Item::False),
            _ => None,
        }
    }

    fn bytes(&mut self) -> Option<Item<'a>> {
        self.at += 1;
        self.take_while(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
        self.consume(b':').then_some(Item::Other)
    }

    fn display_string(&mut self) -> Option<Item<'a>> {
        self.at += 1;
        if !self.consume(b'"') {
            return None;
        }
        loop {
            match self.next()? {
                b'"' => return Some(Item::Other),
                b'%' if !(is_lower_hex(self.next()?) && is_lower_hex(self.next()?)) => return None,
                b'%' | 0x20..=0x7e => {}
                _ => return None,
            }
        }
    }
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_parse_or_fail_whole() {
        let parsed = dictionary(b"max-age=60, no-store, private=?0, x=\"a, b\";q=1, y=(a 1);z, max-age=5");
        let expected: &[(&[u8], Item<'_>)] = &[
            (b"no-store", Item::True),
            (b"private", Item::False),
            (b"x", Item::Text(b"a, b")),
            (b"y", Item::Other),
            (b"max-age", Item::Integer(5)),
        ];
        assert_eq!(parsed.as_deref(), Some(expected));
        assert_eq!(dictionary(b"  "), Some(Vec::new()));
        for bad in [
            "max-age=60,",
            "max-age=",
            "Max-Age=60",
            "max-age =60",
            "max-age=60 no-store",
            "a=\"x",
            "a=?2",
            "a=1.",
            "a=1.2345",
            "a=1234567890123456",
            "=1",
            "a,,b",
            "a;",
            "a=(1",
            "a='x'",
            "a=:b",
        ] {
            assert_eq!(dictionary(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(
            dictionary(b"a=-5 ,\tb=@1659578233, c=%\"f%c3\""),
            Some(vec![(&b"a"[..], Item::Integer(-5)), (&b"b"[..], Item::Other), (&b"c"[..], Item::Other)])
        );
    }

    #[test]
    fn lists_give_their_parameters() {
        let parsed = list(b"\"burst\";q=100; w=60, daily;q=1000;q=7;x").expect("a list");
        let [burst, daily] = &parsed[..] else { unreachable!("two members") };
        assert_eq!((burst.value, burst.parameter("q")), (Item::Text(b"burst"), Some(Item::Integer(100))));
        assert_eq!((daily.value, daily.parameter("q")), (Item::Text(b"daily"), Some(Item::Integer(7))));
        assert_eq!((daily.parameter("x"), daily.parameter("w")), (Some(Item::True), None));
        for bad in ["a,", "\"a", "a;q=", "a b"] {
            assert_eq!(list(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..48)) {
            let _ = (dictionary(&text), list(&text));
        }
    }
}
