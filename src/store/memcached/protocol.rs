//! The meta protocol of memcached: requests, and the parser of replies.

use bytes::{Buf, Bytes, BytesMut};

/// Longest line of a reply: a value's header, or an error.
const MAX_LINE: usize = 2_048;
/// Upper bound of a value's length; the server's own is a megabyte by default.
const MAX_VALUE: usize = 1 << 30;

/// Condition of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// There is no value.
    Missing,
    /// The value has this version.
    Version(u64),
}

/// MetaReply to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MetaReply {
    /// A value and its version.
    Value(Bytes, u64),
    /// Done.
    Done,
    /// There is no such value.
    Missing,
    /// The condition does not hold.
    Refused,
    /// The server's words.
    Error(String),
}

/// The reply is none of this protocol: the replies that follow cannot be matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Request that does nothing.
pub(super) const NO_OP: &[u8] = b"mn\r\n";

/// Encodes a look-up with the value's version.
pub(super) fn get(name: &str, number: u32) -> Vec<u8> {
    format!("mg {name} v c O{number}\r\n").into_bytes()
}

/// Encodes a store, under a condition.
pub(super) fn set(name: &str, value: &[u8], seconds: u64, condition: Condition, number: u32) -> Vec<u8> {
    let condition = match condition {
        Condition::Missing => "ME".to_owned(),
        Condition::Version(version) => format!("C{version}"),
    };
    let mut request = format!("ms {name} {} T{seconds} {condition} O{number}\r\n", value.len()).into_bytes();
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n");
    request
}

/// Encodes a removal, of one version if given.
pub(super) fn delete(name: &str, version: Option<u64>, number: u32) -> Vec<u8> {
    let condition = version.map(|version| format!(" C{version}")).unwrap_or_default();
    format!("md {name}{condition} O{number}\r\n").into_bytes()
}

/// Takes one reply from the buffer, with the number of its request if it has one; `None` until it is complete.
///
/// # Errors
/// If this is no reply.
pub(super) fn parse(buffer: &mut BytesMut) -> Result<Option<(MetaReply, Option<u32>)>, Malformed> {
    let Some(end) = buffer.windows(2).take(MAX_LINE).position(|two| two == b"\r\n") else {
        return if buffer.len() > MAX_LINE { Err(Malformed) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&buffer[..end]).map_err(|_| Malformed)?.to_owned();
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let kind = words.next().ok_or(Malformed)?;
    let length = match kind {
        "VA" => Some(words.next().and_then(|word| word.parse::<usize>().ok()).ok_or(Malformed)?),
        _ => None,
    };
    if length.is_some_and(|length| length > MAX_VALUE) {
        return Err(Malformed);
    }
    let flag = |letter: char| words.clone().find_map(|word| word.strip_prefix(letter));
    let number = flag('O').and_then(|number| number.parse().ok());
    let reply = match (kind, length) {
        ("VA", Some(length)) => {
            if buffer.len() < end + 2 + length + 2 {
                return Ok(None);
            }
            let version = flag('c').and_then(|version| version.parse().ok()).ok_or(Malformed)?;
            buffer.advance(end + 2);
            let value = buffer.split_to(length).freeze();
            if !buffer.starts_with(b"\r\n") {
                return Err(Malformed);
            }
            buffer.advance(2);
            return Ok(Some((MetaReply::Value(value, version), number)));
        }
        ("HD" | "MN", _) => MetaReply::Done,
        ("EN" | "NF", _) => MetaReply::Missing,
        ("NS" | "EX", _) => MetaReply::Refused,
        ("ERROR" | "CLIENT_ERROR" | "SERVER_ERROR", _) => MetaReply::Error(line.clone()),
        _ => return Err(Malformed),
    };
    buffer.advance(end + 2);
    Ok(Some((reply, number)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(mut buffer: BytesMut) -> Vec<(MetaReply, Option<u32>)> {
        let mut replies = Vec::new();
        while let Some(reply) = parse(&mut buffer).expect("replies") {
            replies.push(reply);
        }
        assert!(buffer.is_empty());
        replies
    }

    #[test]
    fn replies_are_taken_one_by_one() {
        let text = b"EN O1\r\nHD O2\r\nNS O3\r\nVA 4 c17 O4\r\n\r\nAB\r\nHD O5\r\nNF O6\r\nEX O7\r\nSERVER_ERROR too large\r\n";
        let expected = [
            (MetaReply::Missing, Some(1)),
            (MetaReply::Done, Some(2)),
            (MetaReply::Refused, Some(3)),
            (MetaReply::Value(Bytes::from_static(b"\r\nAB"), 17), Some(4)),
            (MetaReply::Done, Some(5)),
            (MetaReply::Missing, Some(6)),
            (MetaReply::Refused, Some(7)),
            (MetaReply::Error("SERVER_ERROR too large".to_owned()), None),
        ];
        assert_eq!(all(BytesMut::from(&text[..])), expected);
        for cut in 0..text.len() {
            let mut buffer = BytesMut::from(&text[..cut]);
            let mut whole = Vec::new();
            while let Some(reply) = parse(&mut buffer).expect("replies") {
                whole.push(reply);
            }
            buffer.extend_from_slice(&text[cut..]);
            whole.extend(all(buffer));
            assert_eq!(whole, expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for text in ["HTTP/1.1 200 OK\r\n", "VA x c1\r\n", "VA 3 O1\r\nabc\r\n", "VA 3 c1 O1\r\nabcde\r\n", "\r\n"] {
            assert_eq!(parse(&mut BytesMut::from(text)), Err(Malformed), "{text}");
        }
        assert_eq!(parse(&mut BytesMut::from(&[b'a'; 3_000][..])), Err(Malformed));
    }

    proptest! {
        #[test]
        fn nothing_a_server_sends_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = parse(&mut buffer) {}
        }
    }
}
