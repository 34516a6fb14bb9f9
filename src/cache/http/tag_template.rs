//! Tags with the parameters of a route: `article:{id}` on `/articles/{id}`.

use std::borrow::Cow;
use std::fmt::Write;

use crate::base::error::Error;

/// Whether a tag names a parameter.
pub(crate) fn is_template(tag: &str) -> bool {
    tag.contains('{')
}

/// Checks the parameters that a tag names.
///
/// # Errors
/// If the pattern of the route has no such parameter, or a brace is not closed.
pub(crate) fn check(tag: &str, pattern: &str) -> Result<(), Error> {
    let mut rest = tag;
    while let Some((_, name)) = rest.split_once('{') {
        let Some((name, after)) = name.split_once('}') else {
            return Err(Error::config(format!("cache rule {pattern:?}: the brace in tag {tag:?} is not closed")));
        };
        if !segments(pattern).any(|segment| parameter(segment).is_some_and(|(known, _)| known == name)) {
            let message =
                format!("cache rule {pattern:?}: tag {tag:?} names {{{name}}}, which is no parameter of the route");
            return Err(Error::config(message));
        }
        rest = after;
    }
    Ok(())
}

/// Fills the parameters of a tag with the segments of a request's path. The same segment has the same text however it is
/// percent-encoded.
pub(crate) fn fill(tag: &str, pattern: &str, path: &[u8]) -> Box<str> {
    let mut filled = String::with_capacity(tag.len());
    let mut rest = tag;
    while let Some((before, name)) = rest.split_once('{') {
        filled.push_str(before);
        let Some((name, after)) = name.split_once('}') else { break };
        encode(&mut filled, &value(name, pattern, path));
        rest = after;
    }
    filled.push_str(rest);
    filled.into()
}

fn segments(pattern: &str) -> impl DoubleEndedIterator<Item = &str> {
    pattern.split('/')
}

/// Returns the name of a parameter segment, and whether it takes the rest of the path.
fn parameter(segment: &str) -> Option<(&str, bool)> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    Some(name.strip_prefix('*').map_or((name, false), |name| (name, true)))
}

/// Returns the decoded value of a parameter.
fn value<'a>(name: &str, pattern: &str, path: &'a [u8]) -> Cow<'a, [u8]> {
    let (pattern, path): (Vec<&str>, Vec<&[u8]>) =
        (segments(pattern).collect(), path.split(|byte| *byte == b'/').collect());
    let named = |segment: &&str| parameter(segment).is_some_and(|(known, _)| known == name);
    let Some(at) = pattern.iter().position(named) else { return Cow::Borrowed(b"") };
    let is_rest = parameter(pattern[at]).is_some_and(|(_, is_rest)| is_rest);
    if is_rest {
        return decode(&path.get(at..).unwrap_or_default().join(&b'/')).into_owned().into();
    }
    path.get(at).map_or(Cow::Borrowed(b""), |segment| decode(segment))
}

/// Decodes percent-encoded bytes.
fn decode(segment: &[u8]) -> Cow<'_, [u8]> {
    if !segment.contains(&b'%') {
        return Cow::Borrowed(segment);
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(segment.len());
    let mut at = 0;
    while let Some(byte) = segment.get(at) {
        match (byte, digit(segment.get(at + 1)), digit(segment.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    decoded.into()
}

/// Appends bytes, those that a tag cannot have percent-encoded.
fn encode(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b',' | b'%' => drop(write!(out, "%{byte:02X}")),
            byte if byte.is_ascii_graphic() => out.push(char::from(*byte)),
            // Writing to a `String` does not fail.
            byte => drop(write!(out, "%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_filled_with_the_decoded_segments() {
        for (tag, pattern, path, filled) in [
            ("article:{id}", "/articles/{id}", "/articles/7", "article:7"),
            ("{a}-{b}", "/{a}/x/{b}", "/1/x/2", "1-2"),
            ("{id}", "/articles/{id}", "/articles/%41b", "Ab"),
            ("{id}", "/articles/{id}", "/articles/a%2Cb", "a%2Cb"),
            ("{id}", "/articles/{id}", "/articles/a,b", "a%2Cb"),
            ("{id}", "/articles/{id}", "/articles/%25", "%25"),
            ("{id}", "/articles/{id}", "/articles/%C3%A9%zz", "%C3%A9%25zz"),
            ("file:{path}", "/files/{*path}", "/files/a/b%20c", "file:a/b%20c"),
            ("article:{id}", "/articles/{id}", "/other", "article:"),
            ("all", "/articles/{id}", "/articles/7", "all"),
        ] {
            assert_eq!(&*fill(tag, pattern, path.as_bytes()), filled, "{tag} of {path}");
            assert!(check(tag, pattern).is_ok(), "{tag}");
        }
    }

    #[test]
    fn unknown_parameters_are_mistakes() {
        for (tag, pattern) in [("article:{no}", "/articles/{id}"), ("{id", "/articles/{id}"), ("{id}", "/articles")] {
            let message = check(tag, pattern).expect_err("a mistake").to_string();
            assert!(message.contains(pattern) && message.contains(tag), "{message}");
        }
    }
}
