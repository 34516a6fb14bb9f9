//! Invalidation log in Redis: a sorted set of the latest records by number, and the latest number.
//!
//! Every addition is published as `number:record`; a removal of a value as `-` and its key.

use bytes::Bytes;
use redis::{Cmd, cmd};

use super::secret::KEY_EXPIRY_SECONDS;
use crate::cache::LogMessage;

/// Maximum number of records in the log.
const MAX_RECORDS: u64 = 16_384;
/// First byte of a message that removes a key.
const REMOVAL: u8 = b'-';

/// Appends a record, publishes it, and returns its number. Starts a log if there is none.
const APPEND: &str = r"
local number = redis.call('INCR', KEYS[1])
if number == 1 then
  local time = redis.call('TIME')
  number = time[1] * 1000000 + time[2]
  redis.call('DEL', KEYS[2])
  local base = string.format('%.0f', number)
  redis.call('ZADD', KEYS[2], base, base .. ':' .. ARGV[1])
  number = number + 1
  redis.call('SET', KEYS[1], string.format('%.0f', number))
end
local score = string.format('%.0f', number)
local line = score .. ':' .. ARGV[2]
redis.call('ZADD', KEYS[2], score, line)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', number - tonumber(ARGV[3])))
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[5], line)
return number";

/// Starts a new log if there is none, or if it ends before `ARGV[2]`.
const RESTART: &str = r"
local number = tonumber(redis.call('GET', KEYS[1]) or '0')
local log = redis.call('ZCARD', KEYS[2])
if number == 0 or log == 0 or number < tonumber(ARGV[2]) then
  local time = redis.call('TIME')
  local fresh = time[1] * 1000000 + time[2]
  if fresh <= number then fresh = number + 1 end
  if fresh <= tonumber(ARGV[2]) then fresh = tonumber(ARGV[2]) + 1 end
  local score = string.format('%.0f', fresh)
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[1], score, 'EX', ARGV[3])
  redis.call('ZADD', KEYS[2], score, score .. ':' .. ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
return 1";

/// Returns the command that appends a record; `key` names a key of the log.
pub(super) fn append(key: impl Fn(&str) -> String, first: &[u8], record: &[u8]) -> Cmd {
    let mut script = cmd("EVAL");
    script.arg(APPEND).arg(2).arg(key("number")).arg(key("log"));
    script.arg(first).arg(record).arg(MAX_RECORDS).arg(KEY_EXPIRY_SECONDS).arg(key("channel"));
    script
}

/// Returns the command that starts a new log where it has to.
pub(super) fn restart(key: impl Fn(&str) -> String, first: &[u8], known: u64) -> Cmd {
    let mut script = cmd("EVAL");
    script.arg(RESTART).arg(2).arg(key("number")).arg(key("log"));
    script.arg(first).arg(known).arg(KEY_EXPIRY_SECONDS);
    script
}

/// Returns the message that a value was removed.
pub(super) fn removal(key: &[u8]) -> Vec<u8> {
    [&[REMOVAL][..], key].concat()
}

pub(super) fn parse_message(message: &[u8]) -> LogMessage {
    if let Some(removed) = message.strip_prefix(&[REMOVAL]) {
        return LogMessage::Removal(Bytes::copy_from_slice(removed));
    }
    parse_line(message).map_or(LogMessage::Unknown, |(number, record)| LogMessage::Record(number, record))
}

/// Parses `number:record`.
pub(super) fn parse_line(line: &[u8]) -> Option<(u64, Bytes)> {
    let colon = line.iter().position(|b| *b == b':')?;
    let number = std::str::from_utf8(&line[..colon]).ok()?.parse().ok()?;
    Some((number, Bytes::copy_from_slice(&line[colon + 1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        assert_eq!(parse_message(b"7:abc"), LogMessage::Record(7, Bytes::from_static(b"abc")));
        assert_eq!(parse_message(&removal(b"key")), LogMessage::Removal(Bytes::from_static(b"key")));
        for unknown in [&b""[..], b"x", b"x:y", b":y", b"7", b"99999999999999999999:y"] {
            assert_eq!(parse_message(unknown), LogMessage::Unknown);
        }
    }
}
