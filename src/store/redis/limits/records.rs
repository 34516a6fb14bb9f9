//! Records that all nodes of a fleet read: a hash of names and records, each with its end, and a version.

use std::time::Duration;

use redis::{Cmd, cmd};

use crate::store::remote_limits::backend::max_records;

/// Sets or removes a record, and returns the new version; 0 if there are too many.
const PUBLISH: &str = r"
local now = tonumber(ARGV[5])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local ttl = tonumber(ARGV[3])
if ttl > 0 then
  if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    local all = redis.call('HGETALL', KEYS[1])
    for i = 1, #all, 2 do
      if struct.unpack('<d', all[i + 1]) <= now then redis.call('HDEL', KEYS[1], all[i]) end
    end
    if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
  end
  redis.call('HSET', KEYS[1], ARGV[1], struct.pack('<d', now + ttl) .. ARGV[2])
  local left = math.max(math.ceil(ttl / 1000), redis.call('PTTL', KEYS[1]))
  if tonumber(ARGV[5]) then left = left + 86400000 end
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', left))
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
local time = redis.call('TIME')
local version = string.format('%.0f', math.max(time[1] * 1000000 + time[2], tonumber(redis.call('GET', KEYS[2]) or '0') + 1))
redis.call('SET', KEYS[2], version)
return tonumber(version)";

/// Returns the version, and if it is another than the known one, names, records and what is left of them in microseconds.
const PUBLISHED: &str = r"
local version = tonumber(redis.call('GET', KEYS[1]) or '0')
if version == tonumber(ARGV[1]) then return { version, {} } end
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local all, out = redis.call('HGETALL', KEYS[2]), {}
for i = 1, #all, 2 do
  local ends = struct.unpack('<d', all[i + 1])
  if ends > now then
    out[#out + 1] = all[i]
    out[#out + 1] = string.sub(all[i + 1], 9)
    out[#out + 1] = string.format('%.0f', ends - now)
  end
end
return { version, out }";

/// Returns the names of the hash and of its version: of one slot in a Cluster.
fn keys(prefix: &str) -> (String, String) {
    (format!("{{{prefix}:records}}:l"), format!("{{{prefix}:records}}:version"))
}

/// Returns the command that publishes a record.
pub(super) fn publish(prefix: &str, (name, record): (u64, &[u8]), ttl: Duration, now: Option<u64>) -> Cmd {
    let (records, version) = keys(prefix);
    let mut script = cmd("EVAL");
    script.arg(PUBLISH).arg(2).arg(records).arg(version);
    script.arg(format!("{name:016x}")).arg(record).arg(ttl.as_micros() as u64).arg(max_records(record));
    script.arg(now.map(|now| now.to_string()).unwrap_or_default());
    script
}

/// Returns the command that reads all records.
pub(super) fn published(prefix: &str, known: u64, now: Option<u64>) -> Cmd {
    let (records, version) = keys(prefix);
    let mut script = cmd("EVAL");
    script.arg(PUBLISHED).arg(2).arg(version).arg(records).arg(known);
    script.arg(now.map(|now| now.to_string()).unwrap_or_default());
    script
}

/// Decodes names, records and remaining times; what is malformed is left out.
pub(super) fn decode(fields: Vec<Vec<u8>>) -> Vec<(u64, Vec<u8>, Duration)> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let record = |three: &[Vec<u8>]| {
        let [name, record, left] = three else { return None };
        let name = u64::from_str_radix(&text(name)?, 16).ok()?;
        Some((name, record.clone(), Duration::from_micros(text(left)?.parse().ok()?)))
    };
    fields.chunks_exact(3).filter_map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_records_are_left_out() {
        let fields = ["00000000000000ff", "x", "1500", "zz", "y", "1", "1", "z", "-4", "2", "w"];
        let fields = fields.iter().map(|text| text.as_bytes().to_vec()).collect();
        assert_eq!(decode(fields), [(255, b"x".to_vec(), Duration::from_micros(1_500))]);
    }
}
