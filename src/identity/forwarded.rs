//! Parses forwarding fields from the right: the list of `X-Forwarded-For`, or `Forwarded` (RFC 7239).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderName};

/// Returns the entries of all lines of `field`, last first: an address, or `None` if it does not parse.
pub(super) fn parse_forwarding_field<'a>(
    headers: &'a HeaderMap,
    field: &HeaderName,
    structured: bool,
) -> impl Iterator<Item = Option<IpAddr>> + 'a {
    headers
        .get_all(field)
        .iter()
        .rev()
        .flat_map(move |line| Elements { rest: Some(line.as_bytes()), quotes: structured })
        // RFC 9110 §5.6.1.2: "A recipient MUST parse and ignore a reasonable number of empty list elements".
        .filter(|element| !element.trim_ascii().is_empty())
        .map(move |element| {
            let text = std::str::from_utf8(element).ok()?;
            if structured { parse_address(&node(text)?) } else { parse_address(text) }
        })
}

/// Splits a list at its commas outside quoted strings, last element first.
struct Elements<'a> {
    rest: Option<&'a [u8]>,
    quotes: bool,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let comma = if self.quotes { last_comma_outside_quotes(rest) } else { rest.iter().rposition(|b| *b == b',') };
        let Some(at) = comma else {
            self.rest = None;
            return Some(rest);
        };
        self.rest = Some(&rest[..at]);
        Some(&rest[at + 1..])
    }
}

fn last_comma_outside_quotes(bytes: &[u8]) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in bytes.iter().enumerate().rev() {
        match byte {
            b'"' if !escaped(bytes, at) => quoted = !quoted,
            b',' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Whether this byte is escaped: preceded by an odd number of backslashes.
fn escaped(bytes: &[u8], at: usize) -> bool {
    bytes[..at].iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
}

/// The node of a `for=` parameter. RFC 7239 §4: "Each parameter MUST NOT occur more than once per field-value."
fn node(element: &str) -> Option<Cow<'_, str>> {
    let mut found = None;
    // RFC 7239 §4: `forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )`.
    for pair in split_parameters(element).filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("for") && found.replace(value.trim()).is_some() {
            return None;
        }
    }
    unquote(found?)
}

fn split_parameters(element: &str) -> impl Iterator<Item = &str> {
    let bytes = element.as_bytes();
    let (mut quoted, mut at) = (false, 0);
    element.split(move |c: char| {
        if c == '"' && !escaped(bytes, at) {
            quoted = !quoted;
        }
        at += c.len_utf8();
        c == ';' && !quoted
    })
}

fn unquote(value: &str) -> Option<Cow<'_, str>> {
    let Some(rest) = value.strip_prefix('"') else { return Some(Cow::Borrowed(value)) };
    let inside = rest.strip_suffix('"')?;
    Some(if inside.contains('\\') { Cow::Owned(inside.replace('\\', "")) } else { Cow::Borrowed(inside) })
}

/// Parses an address as proxies write it: bare, with a port, in brackets, with a zone, with surrounding white space.
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches([' ', '\t']);
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip);
    }
    if let Some((v4, port)) = text.split_once(':')
        && let Ok(ip) = v4.parse::<Ipv4Addr>()
    {
        return is_port(port).then_some(IpAddr::V4(ip));
    }
    let inside = text.strip_prefix('[').map_or(Some(text), |rest| {
        let (inside, port) = rest.split_once(']')?;
        (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(inside)
    })?;
    let address = inside.split_once('%').map_or(inside, |(address, _zone)| address);
    address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// Returns whether this follows a colon after an address: digits, or an obfuscated port (RFC 7239 §6). Its value does not
/// matter.
fn is_port(text: &str) -> bool {
    let obfuscated = |rest: &str| rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    text.bytes().all(|b| b.is_ascii_digit()) || text.strip_prefix('_').is_some_and(obfuscated)
}
